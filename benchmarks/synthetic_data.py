"""Synthetic Data RL on two cores: accuracy before and after, beside GRPO on random rows and on the easiest.

Given seeds; for each makes a tiny model that knows the form of sums (the quickstart's first stage), has the scripted
teacher of the tests write rows, runs `raylign synthetic-rl`, then GRPO on 200 random and on the 200 easiest rows of the
same pool, with the same number of steps. Prints a Markdown table; finished parts are not run again.

    .venv/bin/python -m benchmarks.synthetic_data --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import datasets

from raylign.actors.cluster import ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.quickstart import QuickstartConfig, recipe
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.synthetic.rl_config import SyntheticRLConfig
from raylign.jobs.synthetic.synthetic_rl import synthetic_rl
from raylign.jobs.train import train
from raylign.rollout.data.sources import read_rows
from tests.jobs.synthetic_teacher import SumTeacher
from tests.rewards.chat_server import chat_server

TASK = "reasoning_gym:chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=1"
NUM_TEST = 400
NUM_OF_TASK = 20_000
HEAD = """\
| seed | before | selected (synthetic-rl) | random | easiest | rows scored | solved sometimes | minutes, data | minutes, GRPO |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def base_model(folder: Path, seed: int) -> Path:
    """The quickstart's model after its first stage."""
    summary = folder / "sft" / "summary.json"
    if not summary.exists():
        quick = QuickstartConfig(folder=folder, seed=seed)
        sft = recipe("sft_arithmetic", quick, "sft", folder / "model")
        init_model(InitModelConfig(output=folder / "model", data=sft.data, seed=seed))
        train(sft)
    return Path(model_folder(str(summary.parent)))


def test_rows(folder: Path) -> Path:
    """Held-out sums, as the original keeps them."""
    path = folder / "sums"
    if not path.exists():
        rows = read_rows(TASK, num_generated=NUM_OF_TASK)[:NUM_TEST]
        columns = {
            "Input": [row["metadata"]["expression"] for row in rows],
            "Output": [str(row["answer"]) for row in rows],
        }
        datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)}).save_to_disk(str(path))
    return path


def config_of(folder: Path, seed: int, base: Path, address: str) -> SyntheticRLConfig:
    """The shipped recipe, at the teacher's address."""
    values: dict[str, Any] = {
        "folder": str(folder / "rl"),
        "target_model_path": str(folder / "final"),
        "base_model_path": str(base),
        "dataset_path": str(test_rows(folder)),
        "seed": seed,
        "resume": (folder / "rl").exists(),
        "teacher": {"endpoints": [{"url": address, "requests_per_minute": None}]},
    }
    return load_config(SyntheticRLConfig, ["synthetic_rl_tiny"], values)


def other_rows(pool: Sequence[dict[str, Any]], arm: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the pool without the selection."""
    if arm == "random":
        return Random(seed).sample(list(pool), min(count, len(pool)))
    return sorted(pool, key=lambda row: -row["k"])[:count]


def accuracy_of_other(config: SyntheticRLConfig, folder: Path, arm: str, seed: int) -> float:
    """GRPO on other rows of the same pool; everything else is the same."""
    summary = folder / arm / "summary.json"
    if not summary.exists():
        data = config.folder / "data"
        pool = read_rows(str(data / "synthetic.parquet"))
        chosen = other_rows(pool, arm, config.rows.num_kept, seed)
        file = folder / f"{arm}.jsonl"
        lines = (json.dumps({"prompt": row["prompt"], "output": row["output"]}) + "\n" for row in chosen)
        file.write_text("".join(lines))
        usual = config.training(NUM_TEST)
        source = usual.data.model_copy(update={"source": str(file)})
        train(usual.model_copy(update={"data": source, "folder": folder / arm, "name": arm, "resume": False}))
    return float(json.loads(summary.read_text())["accuracy_after"])


def one_seed(folder: Path, seed: int) -> str:
    """A row of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    base = base_model(folder, seed)
    times = folder / "times.json"
    with chat_server(SumTeacher(seed=seed)) as server:
        config = config_of(folder, seed, base, server.address)
        if not (config.folder / "summary.json").exists():
            start = time.monotonic()
            synthetic_rl(config)
            times.write_text(json.dumps({"seconds": time.monotonic() - start}))
    summary = json.loads((config.folder / "summary.json").read_text())
    others = [accuracy_of_other(config, folder, arm, seed) for arm in ("random", "easiest")]
    train_s = summary["train_seconds"]
    data_s = json.loads(times.read_text())["seconds"] - train_s if times.exists() else float("nan")
    cells = [summary["accuracy_before"], summary["accuracy_after"], *others]
    shown = " | ".join(f"{accuracy:.1%}" for accuracy in cells)
    return (
        f"| {seed} | {shown} | {summary['num_scored']} | {summary['num_learnable']} "
        f"| {data_s / 60:.1f} | {train_s / 60:.1f} |"
    )


def main() -> None:
    """One seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/synthetic-data"))
    arguments = parser.parse_args()
    rows = []
    with ray_cluster(load_config(SyntheticRLConfig, ["synthetic_rl_tiny"]).cluster):
        for seed in arguments.seeds:
            rows.append(one_seed(arguments.folder / f"seed-{seed}", seed))
            print(HEAD, *rows, sep="\n", flush=True)
    print(f"load of the last 15 minutes: {os.getloadavg()[2]:.1f}")


if __name__ == "__main__":
    main()
