"""GRPO on human-written word problems: accuracy on rows never trained on, before and after, over several seeds.

Given a folder that holds `mawps/mawps.jsonl` and `svamp/svamp.jsonl`; gives a Markdown table
(docs/results/policy_gradient.md quotes it) and one run folder a seed.

    .venv/bin/python benchmarks/word_problems.py --data PATH --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.json_rows import json_rows
from raylign.actors.cluster import ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.train import train


def problems(data: Path) -> list[dict[str, str]]:
    """Rows of {question, answer} with a whole-number answer, each question once."""
    rows: dict[str, str] = {}
    for row in json_rows(data / "mawps" / "mawps.jsonl"):
        rows[row["input"].strip()] = number(row["target"])
    for row in json_rows(data / "svamp" / "svamp.jsonl"):
        rows[f"{row['Body'].strip().rstrip('.')}. {row['Question'].strip()}"] = number(row["Answer"])
    return [{"question": question, "answer": answer} for question, answer in rows.items() if "." not in answer]


def number(value: float) -> str:
    """`26` for 26.0."""
    return str(int(value)) if float(value).is_integer() else str(value)


def run_seed(seed: int, folder: Path, source: Path) -> dict[str, Any]:
    """Model, imitation, GRPO; the accuracies on the test rows."""
    start = time.monotonic()
    here = folder / f"seed-{seed}"
    overrides = {"seed": seed, "data": {"source": str(source)}}
    sft = load_config(
        TrainConfig,
        ["sft_word_problems"],
        overrides | {"folder": str(here / "sft"), "model": {"path": str(here / "model")}},
    )
    init_model(InitModelConfig(output=here / "model", data=sft.data, vocabulary_size=1024, seed=seed))
    imitation = train(sft).summary()
    grpo = load_config(
        TrainConfig,
        ["grpo_word_problems"],
        overrides
        | {
            "folder": str(here / "grpo"),
            "model": {"path": imitation["checkpoint"]},
            "evaluation": {"data": {"source": str(source)}},
        },
    )
    run = train(grpo)
    before, after = run.evaluations[0], run.evaluations[-1]
    return {"seed": seed, "before": before, "after": after, "seconds": time.monotonic() - start}


def interval(line: dict[str, float]) -> str:
    """`12.3 % [10.1, 14.5]`."""
    low, high = line["evaluation/accuracy_low"], line["evaluation/accuracy_high"]
    return f"{line['evaluation/accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/word_problems"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    source = arguments.folder / "problems.jsonl"
    rows = problems(arguments.data)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ray_cluster(load_config(TrainConfig, ["sft_word_problems"]).cluster):
        results = [run_seed(seed, arguments.folder, source) for seed in arguments.seeds]
    print(f"\n{len(rows)} problems; test rows: {int(results[0]['after']['evaluation/num_prompts'])}\n")
    print("| seed | accuracy before | accuracy after | seconds |\n|---|---|---|---|")
    for result in results:
        before, after = interval(result["before"]), interval(result["after"])
        print(f"| {result['seed']} | {before} | {after} | {result['seconds']:.0f} |")


if __name__ == "__main__":
    main()
