"""Final data sets: folders that `datasets` loads, whole or not there, never overwritten with something else.

Given rows and what decides them; gives a folder with the split `train`, the identity of its content in `summary.json`,
`dropped.jsonl` with every row that was left out, and `train.parquet` on request.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylign.jobs.config.loading import config_yaml
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.output_folder import config_differences

if TYPE_CHECKING:
    from pydantic import BaseModel

SUMMARY = "summary.json"


def is_there_already(path: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the same data set stands there; raises with the difference where another one does."""
    if not path.exists():
        return False
    advice = "choose another output_dataset_name or output_dir, or remove the folder"
    try:
        before = json.loads((path / SUMMARY).read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{path} exists and says nothing of what decided its rows ({SUMMARY}); {advice}") from None
    if differences := config_differences(json.dumps(before), json.dumps(identity)):
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise ValueError(f"{path} exists with another content:\n{lines}\n{advice}")
    return True


def save_data(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    config: BaseModel,
    summary: Mapping[str, Any],
    dropped: Iterable[Mapping[str, Any]] = (),
    parquet: bool = False,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """The folder, written beside its place and moved there."""
    import datasets

    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list([_writable(row) for row in rows])
    datasets.disable_progress_bars()
    try:
        datasets.DatasetDict({"train": table}).save_to_disk(str(temporary))
        if parquet:
            table.to_parquet(str(temporary / "train.parquet"))
    finally:
        datasets.enable_progress_bars()
    for name, picture in (pictures or {}).items():
        (temporary / name).write_bytes(picture)
    write_atomically(
        temporary / "dropped.jsonl",
        "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in dropped),
    )
    write_atomically(temporary / "config.yaml", config_yaml(config))
    write_atomically(temporary / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n")
    temporary.replace(path)


def _writable(value: Any) -> Any:
    """Half a surrogate pair in somebody's text becomes its escape: a column holds whole characters."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _writable(inner) for key, inner in value.items()}
    return [_writable(inner) for inner in value] if isinstance(value, list) else value
