"""Stage passages: what the library has for the search terms of a task.

Given the library's paths and a query; gives the passages that rows take in turn, by BM25 over an index on disk which
other jobs share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raylign.jobs.data.row_journal import key_of
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.library import library_files
from raylign.jobs.synthetic.retrieval import find_passages
from raylign.jobs.synthetic.rows import StageResult


async def passages_for(config: SynthesizeConfig, query: str) -> StageResult:
    """`facts`: passages in the order of the rows, their numbers in the library, what could not be read of it."""
    rows = config.rows
    found = await asyncio.to_thread(
        find_passages,
        config.passage_paths,
        query,
        config.index_folder,
        config.seed,
        rows.num_passages,
        rows.passage_characters,
    )
    return StageResult(
        facts={
            "passages": [passage.text for passage in found.passages],
            "numbers": [passage.number for passage in found.passages],
            "num_found": found.num_found,
            "num_distinct": len(found.passages),
            "library": asdict(found.counts),
        }
    )


def library_key(paths: Sequence[Path]) -> str:
    """Another one where files come, go or grow."""
    return key_of([(file.name, file.stat().st_size) for file in library_files(paths)])
