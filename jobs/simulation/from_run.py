"""Rates of a recorded run, for the simulator.

Given a run folder; gives its median rates and times, and the lengths in its experience log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from raylign.jobs.run.folder import read_metrics
from raylign.rollout.data.yaml_text import yaml_value

WARM_UP_STEPS = 2
"""Steps left out where there are enough: compilation and the first fill are in them."""


@dataclass(frozen=True)
class RecordedRates:
    """What a run had."""

    folder: Path
    generated_tokens_per_s: float
    """Of all engines together while they generate."""
    learner_tokens_per_s: float
    """Of one rank."""
    export_s: float
    sync_s: float
    completion_lengths: Sequence[int]
    """Empty where the run kept no experience."""
    num_engines: int
    max_num_seqs: int
    groups_per_step: int
    num_completions: int
    max_staleness: int


def read_rates(folder: Path) -> RecordedRates:
    """From `metrics.jsonl`, `config.yaml` and `experience/`."""
    for name in ("metrics.jsonl", "config.yaml"):
        if not (folder / name).is_file():
            raise ValueError(f"simulation.from_run is {folder}: there is no {name} in it; give the folder of a run")
    lines = [line for line in read_metrics(folder) if "rollout/tokens_per_s" in line and "learner/tokens_per_s" in line]
    if not lines:
        raise ValueError(f"simulation.from_run is {folder}: no step of it has rollout and learner tokens per second")
    lines = lines[WARM_UP_STEPS:] or lines[-1:]
    config = yaml_value((folder / "config.yaml").read_text("utf-8"), str(folder / "config.yaml"))
    sync_s = _median(lines, "weights/pause_s")
    return RecordedRates(
        folder=folder,
        generated_tokens_per_s=_median(lines, "rollout/tokens_per_s"),
        learner_tokens_per_s=_median(lines, "learner/tokens_per_s") / config["learner"]["num_ranks"],
        export_s=max(0.0, _median(lines, "time/weights_s") - sync_s),
        sync_s=sync_s,
        completion_lengths=_completion_lengths(folder / "experience"),
        num_engines=config["rollout"]["num_engines"],
        max_num_seqs=config["rollout"]["engine"]["max_num_seqs"],
        groups_per_step=config["rollout"]["prompts_per_step"],
        num_completions=config["sampling"]["num_completions"],
        max_staleness=config.get("async", {}).get("max_staleness", 0),
    )


def _median(lines: Sequence[dict[str, Any]], key: str) -> float:
    values = [line[key] for line in lines if line.get(key) is not None]
    return float(median(values)) if values else 0.0


def _completion_lengths(folder: Path) -> list[int]:
    """Of every completion in the segments of the log, up to a record that was cut off."""
    import pyarrow as pa

    lengths: list[int] = []
    for path in sorted(folder.glob("segment-*.arrows")):
        with pa.OSFile(str(path)) as file:
            try:
                for batch in pa.ipc.open_stream(file):
                    lengths += _lengths_in(batch.column("completion_token_ids"))
            except pa.ArrowInvalid:
                continue  # the end of a log that is being written, or was torn
    return lengths


def _lengths_in(column: Any) -> list[int]:
    """Of a column of lists (groups) of lists (completions) of tokens."""
    lengths: list[int] = column.flatten().value_lengths().to_pylist()
    return [length for length in lengths if length]
