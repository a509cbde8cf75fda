"""`raylign data sft`: every reference of every row as a demonstration, the SFT baseline of `raylign data grpo`'s rows.

Given a folder that `data grpo` (or the published program) saved; gives `data_sft/<its name>_SFT`: one row for each
reference, all references of a row in their order. Needs neither vLLM nor Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from raylign.jobs.data.saved_data import is_there_already, save_data
from raylign.jobs.run.output_folder import check_can_write, hold

NEEDED = ("prompt", "references")


class SftDataConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Demonstrations from the references of chosen rows."""

    input_data_path: Path
    """Folder of a data set that `data grpo` saved."""
    output_dir: Path = Path("data")
    """Root of the result, in data_sft/."""
    split: str = Field("train", min_length=1)
    """Split of the data set."""
    parquet: bool = False
    """Write train.parquet beside the saved data set."""


def sft_data(config: SftDataConfig) -> Path:
    """Read, spread, write; gives the folder."""
    from raylign.rollout.data.sources import is_saved_by_datasets, read_datasets_folder

    path = config.input_data_path.expanduser().absolute()
    if not path.is_dir() or not is_saved_by_datasets(path):
        raise ValueError(f"input_data_path: {path} is no folder saved by `datasets`; give what data grpo wrote")
    try:
        rows = read_datasets_folder(path, config.split)
    except (OSError, ValueError) as error:
        raise ValueError(f"input_data_path: {path} cannot be read: {error}") from error
    if not rows or (missing := [name for name in NEEDED if name not in rows[0]]):
        found = f"no column {', '.join(missing)}; its columns are {', '.join(rows[0])}" if rows else "no rows in it"
        raise ValueError(f"input_data_path: {path}: {found}")
    root = config.output_dir / "data_sft"
    check_can_write(root)
    output = root / f"{path.name}_SFT"
    identity = {"rows": digest_of(rows)}
    root.mkdir(parents=True, exist_ok=True)
    with hold(root):
        if is_there_already(output, identity):
            print(f"{output} holds the same data set already: untouched")
            return output
        lines = list(demonstrations(rows))
        dropped = [{"id": row.get("id"), "reason": "no reference"} for row in rows if not _texts(row)]
        if not lines:
            raise ValueError(f"input_data_path: {path}: no row has a reference")
        summary = {
            "identity": identity,
            "rows_read": len(rows),
            "rows_written": len(lines),
            "rows_dropped": {"no reference": len(dropped)} if dropped else {},
        }
        save_data(output, lines, config, summary, dropped, config.parquet)
    print(f"{len(lines)} demonstrations of {len(rows)} rows ({output})")
    return output


def demonstrations(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """`x_0`, `x_1`, … of row x: prompt and reference as a chat."""
    for index, row in enumerate(rows):
        for number, reference in _texts(row):
            yield {
                "id": f"{row.get('id', index)}_{number}",
                "source": row.get("source") or "",
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": reference},
                ],
            }


def digest_of(rows: Sequence[dict[str, Any]]) -> str:
    """Of everything that is written."""
    text = json.dumps(
        [[row.get("id"), row.get("source"), row["prompt"], row["references"]] for row in rows], default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _texts(row: dict[str, Any]) -> list[tuple[int, str]]:
    """The references of a row, numbered; blank ones teach nothing."""
    return [(number, text) for number, text in enumerate(row["references"] or []) if text and text.strip()]
