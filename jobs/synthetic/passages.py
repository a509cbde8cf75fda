"""Stage passages."""

from pathlib import Path
from collections.abc import Sequence
from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.rows import StageResult


async def find_passages(config: SynthesizeConfig, query: str) -> StageResult:
    raise NotImplementedError


def library_key(paths: Sequence[Path]) -> str:
    raise NotImplementedError
