"""Folders as commands of ours leave them, small and made by hand.

Given a place; gives run folders, a sweep with follow-ups, data jobs. Their texts hold HTML and markdown on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

EVIL = "<script>alert(1)</script> **bold** <b>x</b>"


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(
    folder: Path,
    name: str,
    algorithm: str = "name: sail",
    seed: int = 0,
    num_steps: int = 5,
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """A run whose loss falls; without a summary it goes on."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"name: {name}\nseed: {seed}\nnum_steps: {num_steps}\nnum_epochs: 5\nmodel: {{path: some/model}}\n"
        f"data: {{source: rows.jsonl}}\nalgorithm: {{{algorithm}}}\n"
    )
    lines = [
        {"step": step, "seconds": 2.0 * step, "learner/loss": 1.0 / step, "learner/num_tokens": 100}
        | ({"evaluation/loss": 0.5, "evaluation/reward_accuracy": 0.75} if step == num_steps else {})
        for step in range(1, num_steps + 1)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def make_sweep(
    folder: Path, shares: Sequence[float], coefficients: Sequence[float], seeds: Sequence[int] = (0,)
) -> Path:
    """DDP over share × coefficient × seed, each followed by a comparison."""
    lines: list[dict[str, Any]] = []
    for share in shares:
        for coefficient in coefficients:
            for seed in seeds:
                name = f"run-{len(lines)}"  # names say nothing: sweep.json does
                loss = share + coefficient + seed
                evaluation = {"evaluation/loss": loss, "evaluation/reward_margin": 1.0 - loss}
                summary = {"finished": True, "num_steps": 5, "seconds": 100.0, "evaluation": evaluation}
                make_run(folder / name, name, f"name: sail, ddp: {{share: {share}}}", seed, summary=summary)
                values = {"r": share, "rho": coefficient, "s": seed}
                common = {"task": "DDP", "model": "L8B", "data": "U0", "values": values}
                lines.append({"name": name, "folder": name, "follows": None, "follow_up": None, **common})
                after = f"after-{name}"
                write_lines(folder / after / "comparison.jsonl", answers_of_a_comparison())
                rates = {"win_rate": share, "win_rate_low": 0.1, "win_rate_high": 0.9}
                found = {"new": {}, "reference": {}, "by_reward": rates, "by_judge": None, "kl": None}
                (folder / after / "comparison.json").write_text(json.dumps(found))
                lines.append({"name": f"{name}/W", "folder": after, "follows": name, "follow_up": "W", **common})
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "name": "study", "runs": lines}))
    return folder


def answers_of_a_comparison() -> list[dict[str, Any]]:
    return [
        {"prompt": "one", "new": "the cat sat", "reference": "the dog sat", "new_score": 1.0, "reference_score": 0.5},
        {"prompt": EVIL, "new": EVIL, "reference": "plain", "new_score": 0.0, "reference_score": 3.0},
        {"prompt": "three", "new": "same", "reference": "same", "new_score": None, "reference_score": 1.0},
    ]


def make_data_job(folder: Path) -> Path:
    """A synthesis that kept two rows and dropped three."""
    row = {"instruction": EVIL, "output": "o", "score": 0.5, "stage": "verify", "parent": 3, "passage": "p-1", "k": 2}
    write_lines(folder / "train.jsonl", [row, {**row, "score": 1.0}])
    write_lines(folder / "dropped.jsonl", [{"id": n, "reason": "too easy", "words": EVIL} for n in range(3)])
    (folder / "summary.json").write_text(json.dumps({"rows_selected": 2, "rows_dropped": {"too easy": 3}}))
    return folder
