"""The BLEUBERI chain on two CPU cores: SFT, hard and random rows, GRPO with BLEU, SFT on the same rows.

Given a folder that holds `e2e_nlg/devset.jsonl` and `asset/valid.jsonl.gz`; gives a Markdown table
(docs/results/bleuberi.md quotes it) of held-out BLEU, ROUGE-L and length for each seed. Rows are split by prompt: a
fifth is held out, two fifths teach the start model, two fifths are the pool. A seed whose folder is whole is read.

    .venv/bin/python -m benchmarks.bleuberi --data PATH --sets e2e_nlg asset --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.json_rows import json_rows
from raylign.actors.cluster import ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.data.grpo import grpo_data
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.data.sft import SftDataConfig, sft_data
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.train import train
from raylign.rewards.overlap import bleu, rouge_l
from raylign.rewards.tokens_13a import tokenize_13a
from raylign.rollout.data.config import DataConfig

HELD_OUT, START, POOL = "0%:20%", "20%:60%", "60%:100%"
SETS = {"e2e_nlg": ("devset.jsonl", "mr", "refs"), "asset": ("valid.jsonl.gz", "orig", "simp")}
NUM_CHOSEN = {"e2e_nlg": 80, "asset": 160}
NUM_HELD_OUT = 100
CUT_WORDS = 20
COLUMNS = ("bleu", "precision", "cut_bleu", "rouge_l", "distinct", "named")
RUNS = ("start", "sft_random", "sft_hard", "grpo_random", "grpo_hard")


def pool_rows(data: Path, name: str) -> list[dict[str, Any]]:
    """Prompt and references; equal prompts are one row."""
    file, asked, answered = SETS[name]
    references: dict[str, list[str]] = {}
    for row in json_rows(data / name / file):
        references.setdefault(row[asked], []).extend(row[answered])
    return [
        {"id": str(n), "prompt": prompt, "references": found} for n, (prompt, found) in enumerate(references.items())
    ]


def chosen_rows(folder: Path, source: Path, seed: int, name: str, **values: Any) -> Path:
    """One call of `raylign data grpo`, and of `raylign data sft` on what it wrote."""
    pool = {"source": str(source), "reference": "{references}", "rows": values.pop("rows")}
    settings = {"data": pool, "output_dir": str(folder), "output_dataset_name": name, "seed": seed} | values
    chosen = grpo_data(load_config(GrpoDataConfig, [], settings))
    sft_data(SftDataConfig(input_data_path=chosen, output_dir=folder))
    return chosen


def run_recipe(
    recipe: str, here: Path, name: str, source: Path, model: Path, rows: Path, seed: int, **more: Any
) -> str:
    """One training with answers to the held-out prompts after it; gives its checkpoint."""
    held_out = {"source": str(source), "prompt": "{prompt}", "reference": "{references}", "rows": HELD_OUT}
    values = {
        "folder": str(here / name),
        "seed": seed,
        "model": {"path": str(model)},
        "data": {"source": str(rows)},
        "evaluation": {"data": held_out, "num_prompts": NUM_HELD_OUT, "rewards": [{"name": "bleu"}]},
    }
    summary = train(load_config(TrainConfig, [recipe], values | more)).summary()
    return str(summary["checkpoint"])


def run_seed(name: str, seed: int, folder: Path, source: Path) -> None:
    """Everything for one data set and seed."""
    here = folder / name / f"seed-{seed}"
    start = time.monotonic()
    data = DataConfig(source=str(source), prompt="{prompt}", reference="{references}", rows=START)
    init_model(InitModelConfig(output=here / "model", data=data, vocabulary_size=1024, seed=seed))
    everything = chosen_rows(
        here / "data", source, seed, "start", rows=START, selection_mode="random", num_examples=10**6
    )
    taught = here / "data" / "data_sft" / f"{everything.name}_SFT"
    model = Path(run_recipe("bleuberi_sft_tiny", here, "start", source, here / "model", taught, seed))
    engine = {"max_model_len": 256}
    asked = {"rows": POOL, "num_examples": NUM_CHOSEN[name], "inference_max_new_tokens": 80, "engine": engine}
    chosen_rows(here / "data", source, seed, "random", selection_mode="random", **asked)
    chosen_rows(here / "data", source, seed, "hard", metric="bleu", model=str(model), **asked)
    for mode in ("random", "hard"):
        rows = here / "data" / "data_sft" / f"{mode}_SFT"
        again = {"num_epochs": 1, "learner": {"learning_rate": 3.0e-4, "warmup_steps": 5}}
        run_recipe("bleuberi_sft_tiny", here, f"sft_{mode}", source, model, rows, seed, **again)
        rows = here / "data" / "data_grpo" / mode
        run_recipe("bleuberi_tiny", here, f"grpo_{mode}", source, model, rows, seed)
    (here / "seconds.json").write_text(json.dumps(time.monotonic() - start))


def measured(run: Path, references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Held-out answers of a run after its last step."""
    file = max((run / "evaluation").glob("step-*.jsonl"))
    values: list[dict[str, float]] = []
    for line in json_rows(file):
        asked = line["prompt"].split("<|im_start|>user\n")[1].rsplit("<|im_end|>", 1)[0]
        answer, texts = line["response"], references[asked.split("<|im_end|>")[0]]
        words, shortest = len(tokenize_13a(answer)), min(len(tokenize_13a(text)) for text in texts)
        score = bleu(answer, texts)
        # what is left without the brevity penalty: how much of what is said is right
        precision = score / min(1.0, math.exp(1 - shortest / words)) if words else 0.0
        values.append(
            {
                "bleu": score,
                "cut_bleu": bleu(" ".join(answer.split()[:CUT_WORDS]), texts),
                "distinct": distinct_bigrams(tokenize_13a(answer)),
                "named": named_values(asked, answer),
                "precision": precision,
                "rouge_l": rouge_l(answer, texts),
                "words": words,
                "shortest": shortest,
            }
        )
    return {key: statistics.fmean(value[key] for value in values) for key in values[0]} | {"count": len(values)}


def distinct_bigrams(tokens: Sequence[str]) -> float:
    """Share of the pairs of neighbours that stand there once: low where a text repeats itself."""
    return len(set(pairwise(tokens))) / max(1, len(tokens) - 1)


def named_values(asked: str, answer: str) -> float:
    """E2E: share of the values in brackets that the answer names; NaN where a prompt has none."""
    values = [value for value in re.findall(r"\[([^\]]+)\]", asked) if value not in ("yes", "no")]
    return sum(value.lower() in answer.lower() for value in values) / len(values) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=["e2e_nlg", "asset"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/bleuberi"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        source = arguments.folder / name / "pool.jsonl"
        source.parent.mkdir(parents=True, exist_ok=True)
        rows = pool_rows(arguments.data, name)
        source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        references = {row["prompt"]: row["references"] for row in rows}
        with ray_cluster(load_config(TrainConfig, ["bleuberi_tiny"]).cluster):
            for seed in arguments.seeds:
                if not (source.parent / f"seed-{seed}" / "seconds.json").is_file():
                    run_seed(name, seed, arguments.folder, source)
        print_table(name, source.parent, arguments.seeds, references)


def print_table(name: str, folder: Path, seeds: Sequence[int], references: Mapping[str, Sequence[str]]) -> None:
    """A line for each run, the seeds beside each other."""
    found = {run: [measured(folder / f"seed-{seed}" / run, references) for seed in seeds] for run in RUNS}
    seconds = [json.loads((folder / f"seed-{seed}" / "seconds.json").read_text()) for seed in seeds]
    first = found["start"][0]
    print(
        f"\n{name}: {first['count']:.0f} held-out prompts; shortest reference {first['shortest']:.1f} words on average"
    )
    print(f"seeds {', '.join(map(str, seeds))}; seconds {', '.join(f'{value:.0f}' for value in seconds)}\n")
    titles = (
        "BLEU",
        "without brevity penalty",
        f"cut to {CUT_WORDS} words",
        "ROUGE-L",
        "distinct bigrams",
        "values named",
    )
    print(f"| run | {' | '.join(titles)} | words |\n|{'---|' * (len(titles) + 2)}")
    for run, of_seeds in found.items():
        cells = [" / ".join(f"{each[key]:.3f}" for each in of_seeds) for key in COLUMNS]
        words = " / ".join(f"{each['words']:.1f}" for each in of_seeds)
        print(f"| {run} | {' | '.join(cells)} | {words} |")


if __name__ == "__main__":
    main()
