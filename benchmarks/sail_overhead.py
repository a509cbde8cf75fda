"""What SAIL's routes cost beside offline DPO: wall time of a step, one core generating and one training.

Given nothing; pairs whose answers are as long as the long-tailed workload's model gives them (74 tokens on average),
one pass over them, so that the reference model runs on every pair of either side. Published shares of SAIL.

    .venv/bin/python -m benchmarks.sail_overhead
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.json_rows import json_rows
from benchmarks.long_tail import MAX_TOKENS, completion_lengths, prepare, recipe
from benchmarks.measurement import Measurement, command_line
from benchmarks.preferences import SAIL
from benchmarks.runs_of_ours import OurRun, train

PAIRS_PER_STEP, NUM_STEPS, NUM_WARM_UP, MAX_STALENESS = 16, 20, 4, 2
RUNS: dict[str, dict[str, Any]] = {"dpo": {"name": "dpo"}} | {name: {"name": "sail", **SAIL[name]} for name in SAIL}
GOAL = "<= 1.3"
KEYS = ("time/step_s", "time/wait_s", "time/learner_s", "learner/num_tokens", "rollout/tokens", "idle/learner_share")


def measure(num_rounds: int = 3, num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """Rounds of every run, in turn."""
    rounds: list[dict[str, OurRun]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload = prepare(folder)
        write_pairs(folder, num_pairs=(num_steps + NUM_WARM_UP + MAX_STALENESS) * PAIRS_PER_STEP)
        for number in range(num_rounds):
            found = {}
            for run in sorted(RUNS, reverse=number % 2 == 1):
                workload.recipe.write_text(yaml.safe_dump(recipe_of(folder, RUNS[run])))
                found[run] = train(
                    workload, folder / f"{run}-{number}", MAX_STALENESS, num_steps, NUM_WARM_UP, seed=number
                )
            rounds.append(found)
    return [_row(name, rounds) for name in RUNS if name != "dpo"]


def recipe_of(folder: Path, algorithm: dict[str, Any]) -> dict[str, Any]:
    """The long-tailed recipe, with pairs."""
    values = recipe(folder, num_steps=1)
    values["data"] = {"source": str(folder / "pairs.jsonl"), "prompt": "{prompt}", "reference": None}
    values["data"]["template"] = "{prompt}"
    values["sampling"]["num_completions"] = 2
    values["rollout"]["prompts_per_step"] = PAIRS_PER_STEP
    return values | {"algorithm": algorithm, "async": {"stale": "drop"}}


def write_pairs(folder: Path, num_pairs: int) -> None:
    """Answers of words, a word a token or a few less."""
    lengths = completion_lengths(2 * num_pairs, seed=0)
    prompts = json_rows(folder / "prompts.jsonl")
    with (folder / "pairs.jsonl").open("w") as out:
        for number in range(num_pairs):
            answers = [
                " ".join(str((place * 7 + number) % 10) for place in range(int(min(length, MAX_TOKENS) // 2)))
                for length in lengths[2 * number : 2 * number + 2]
            ]
            row = {"prompt": prompts[number], "chosen": "1 " + answers[0], "rejected": "2 " + answers[1]}
            out.write(json.dumps(row) + "\n")


def _row(name: str, rounds: list[dict[str, OurRun]]) -> dict[str, Any]:
    def step_s(run: OurRun) -> float:
        return run.seconds / len(run.lines)

    ratios = [step_s(found[name]) / step_s(found["dpo"]) for found in rounds]
    runs = [found[name] for found in rounds]
    tokens = [
        {key: round(statistics.mean(line[key] for line in run.lines), 3) for key in KEYS if key in run.lines[-1]}
        for run in (rounds[0]["dpo"], rounds[0][name])
    ]
    return Measurement(
        f"{name}: a step's wall time against DPO's",
        "s",
        statistics.median(map(step_s, runs)),
        other=statistics.median(step_s(found["dpo"]) for found in rounds),
        other_name="dpo",
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        goal=GOAL if name == "sail_dpr" else "",
        notes=[f"first round, means of a step, dpo and {name}: {tokens}"],
    ).row()


def main() -> None:
    command_line(measure, __doc__, NUM_STEPS)


if __name__ == "__main__":
    main()
