"""What the preference algorithms learn, on two cores: from one sft model, the same pairs, the same number of steps.

Given a task and seeds; trains sft, then DPO, IPO, BoNBoN, SAIL DDP, DPP, DPR from it, and writes a Markdown table.

    oracle   sums whose answers a scripted oracle scores (benchmarks/oracle.py): pairs are best and worst of n answers
             of the sft model, so the truth is known. Held-out prompts; the reward is the oracle's.
    digits   an oracle that a tiny model can satisfy: of an answer's ten digits, as many even as possible.
    pairs    a file of {prompt, chosen, rejected} rows: a reward model is trained on a part of them; it labels for DPR
             and measures held-out prompts.

    .venv/bin/python -m benchmarks.preferences oracle --seeds 0 1 2
    .venv/bin/python -m benchmarks.preferences digits --seeds 0 1 2
    .venv/bin/python -m benchmarks.preferences pairs --source pairs.jsonl --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.json_rows import json_rows
from benchmarks.oracle import write_digits
from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.data.best_of_n import best_of_n
from raylign.jobs.data.best_of_n_config import BestOfNConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.run.checkpoints import checkpoint_of
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.train import train
from raylign.learners.model.model_logps import answer_logps

Values = dict[str, Any]
N_OF_BONBON = 8
BETA = 0.5
"""Of DPO and SAIL; with the published 0.1 a tiny model leaves its reference at once (docs/results/preferences.md)."""
SAIL = {
    "sail_ddp": {"ddp": {"share": 0.4, "coefficient": 0.2}},
    "sail_dpp": {"dpp": {"share": 0.3, "coefficient": 0.2}},
    "sail_dpr": {"dpr": {"share": 0.3, "coefficient": 0.3}},
}
"""Shares and coefficients of the published task file."""
ALGORITHMS: dict[str, Values] = {
    "dpo": {"name": "dpo", "beta": BETA},
    "ipo": {"name": "ipo", "beta": 0.1},
    "bonbon": {"name": "bonbon", "n": N_OF_BONBON, "alpha": 0.05},
    **{name: {"name": "sail", "beta": BETA, "baseline": "mean", **routes} for name, routes in SAIL.items()},
}


class Oracle:
    """The task whose truth is known."""

    reward: ClassVar[Values] = {"name": "function", "path": f"{Path(__file__).with_name('oracle.py')}:closeness"}
    max_tokens, context = 8, 64
    sft_steps = 200
    pair_keys: ClassVar[Values] = {"prompt": "{prompt}", "reference": "{references}", "template": "{prompt}"}

    def __init__(self, folder: Path, seed: int, num_steps: int, pairs_per_step: int) -> None:
        self.folder, self.seed = folder, seed
        self.num_steps, self.pairs_per_step = num_steps, pairs_per_step
        self.rewards = [self.reward]

    def rows_of_task(self) -> Values:
        """Where prompts and sft's demonstrations come from."""
        return {
            "source": "reasoning_gym:chain_sum?min_terms=2&max_terms=3&min_digits=1&max_digits=1",
            "num_generated": 20000,
            "prompt": "{metadata.expression} =",
            "template": "{prompt}",
        }

    @property
    def prompts(self) -> Values:
        """Prompts of training; the first tenth is held out."""
        return {**self.rows_of_task(), "rows": "10%:100%"}

    @property
    def held_out(self) -> Values:
        return {**self.rows_of_task(), "rows": "0%:10%"}

    def prepare(self) -> Path:
        """Model, sft, and the pairs that the sft model's own answers make; gives the sft checkpoint."""
        summary = self.folder / "sft" / "summary.json"
        if not summary.exists():  # else another study began with the same models
            values = {
                "folder": str(summary.parent),
                "seed": self.seed,
                "num_steps": self.sft_steps,
                "model": {"path": str(self.folder / "model")},
                "data": self.prompts,
                "sampling": {"max_tokens": self.max_tokens},
            }
            sft = load_config(TrainConfig, ["sft_arithmetic"], values)
            init_model(InitModelConfig(output=self.folder / "model", data=sft.data, seed=self.seed))
            train(sft)
        checkpoint = Path(checkpoint_of(summary.parent, json.loads(summary.read_text())))
        if not (self.folder / "draws" / f"best_of_{N_OF_BONBON}.jsonl").exists():
            self.draw(checkpoint, "draws", self.prompts, [2, N_OF_BONBON])
        return checkpoint

    def draw(self, checkpoint: Path, name: str, prompts: Values, sizes: list[int]) -> None:
        """Answers of the sft model, and the pairs of their best and worst."""
        best_of_n(
            BestOfNConfig.model_validate(
                {
                    "folder": self.folder / name,
                    "seed": self.seed,
                    "model": str(checkpoint),
                    "data": prompts,
                    "best_of": sizes,
                    "sampling": {"max_tokens": self.max_tokens},
                    "rewards": self.rewards,
                    "engine": {"max_model_len": self.context, "kv_cache_gib": 0.25},
                }
            )
        )

    def data(self, algorithm: str) -> tuple[Values, Values]:
        """Training and held-out pairs."""
        n = N_OF_BONBON if algorithm == "bonbon" else 2
        source = {"source": str(self.folder / "draws" / f"best_of_{n}.jsonl"), **self.pair_keys}
        return {**source, "rows": f"20%:{20 + self.percent_of_pairs}%"}, {**source, "rows": "0%:20%"}

    learning_rate = 1e-4
    num_evaluated = 400
    percent_of_pairs = 80
    suffix = ""
    """Of the folders of runs."""


class Digits(Oracle):
    """The task whose truth is known and within reach: what the oracle likes can be told digit by digit."""

    reward: ClassVar[Values] = {"name": "function", "path": f"{Path(__file__).with_name('oracle.py')}:evenness"}
    max_tokens, context = 24, 64
    sft_steps = 100

    def rows_of_task(self) -> Values:
        file = self.folder / "digits.jsonl"
        if not file.exists():
            write_digits(file, self.seed)
        texts = {"prompt": "{prompt}", "response": "{response}", "reference": None, "template": "{prompt}"}
        return {"source": str(file), **texts}


class PairsFile(Oracle):
    """Real preferences: sft on chosen answers, a reward model on part of the pairs."""

    max_tokens, context = 64, 192
    num_evaluated = 200
    source = Path("pairs.jsonl")

    def rows(self, share: str) -> Values:
        return {
            "source": str(self.source),
            "prompt": "{prompt}",
            "reference": None,
            "response": "{chosen}",
            "template": "{prompt}",
            "rows": share,
            "pairs": {"skip_unusable": True, "max_prompt_tokens": 64},
            "skip_too_long": True,
        }

    @property
    def prompts(self) -> Values:
        return self.rows("20%:100%")

    @property
    def held_out(self) -> Values:
        return self.rows("0%:20%")

    def prepare(self) -> Path:
        prompts = self.prompts
        init_model(
            InitModelConfig.model_validate(
                {"output": self.folder / "model", "data": prompts, "vocabulary_size": 2048, "seed": self.seed}
            )
        )
        shared = {
            "seed": self.seed,
            "model": {"path": str(self.folder / "model")},
            "rollout": {"prompts_per_step": 32, "engine": {"max_model_len": self.context}},
            "sampling": {"max_tokens": self.max_tokens},
            "checkpoints": {"every_steps": 0},
        }
        sft = {"data": prompts, "algorithm": {"name": "sft"}, "learner": {"learning_rate": 1e-3, "warmup_steps": 20}}
        run = train(
            load_config(TrainConfig, [], {**shared, **sft, "folder": str(self.folder / "sft"), "num_steps": 200})
        )
        checkpoint = Path(run.summary()["checkpoint"])
        scorer = {
            **shared,
            "folder": str(self.folder / "reward_model"),
            "num_steps": 75,
            "model": {"path": str(checkpoint)},
            "data": prompts,
            "algorithm": {"name": "reward_model"},
            "learner": {"learning_rate": 1e-4, "warmup_steps": 10, "schedule": "linear"},
            "evaluation": {"pairs": self.held_out, "num_prompts": 1000, "every_steps": 25},
        }
        self.reward_model = train(load_config(TrainConfig, [], scorer)).summary()
        self.rewards = [{"name": "reward_model", "model": self.reward_model["checkpoint"]}]
        return checkpoint

    def data(self, algorithm: str) -> tuple[Values, Values]:
        return self.prompts, self.held_out


def train_one(task: Oracle, name: str, checkpoint: Path) -> dict[str, float]:
    """One algorithm from the sft model; what its evaluations and a comparison with the sft model found."""
    data, held_out = task.data(name)
    algorithm = ALGORITHMS[name]
    values = {
        "name": name,
        "folder": str(task.folder / f"{name}{task.suffix}"),
        "seed": task.seed,
        "num_steps": task.num_steps,
        "model": {"path": str(checkpoint)},
        "data": data,
        "sampling": {"max_tokens": task.max_tokens, "num_completions": 2},
        "rollout": {
            "prompts_per_step": task.pairs_per_step,
            "engine": {"max_model_len": task.context, "kv_cache_gib": 0.25},
        },
        "async": {"stale": "drop"},
        "rewards": task.rewards,
        "algorithm": algorithm,
        "learner": {"learning_rate": task.learning_rate, "schedule": "linear", "warmup_steps": 10},
        "evaluation": {
            "data": task.held_out,
            "pairs": held_out,
            "num_prompts": task.num_evaluated,
            "num_completions": 4,
            "temperature": 1.0,
        },
        "checkpoints": {"every_steps": 0},
    }
    run = train(load_config(TrainConfig, [], values))
    lines = read_metrics(run.folder.path)
    first, last = (line for line in lines if "evaluation/seconds" in line)
    steps = [line for line in lines if "time/step_s" in line]
    steady = steps[len(steps) // 5 :]
    return {
        "reward_before": first["evaluation/reward_mean"],
        "reward": last["evaluation/reward_mean"],
        "reward_accuracy": last["evaluation/reward_accuracy"],
        "reward_margin": last["evaluation/reward_margin"],
        "tokens": sum(line.get("rollout/tokens", 0.0) for line in steps),
        "step_s": statistics.mean(line["time/step_s"] for line in steady),
        "seconds": steps[-1]["seconds"] - steps[0]["seconds"],
        **against_sft(run.folder.path, task.num_steps, checkpoint),
    }


def against_sft(folder: Path, num_steps: int, checkpoint: Path) -> dict[str, float]:
    """Win rate (ties half) over all pairs of the answers before and after, by prompt, and KL of those after."""
    before, after = (answers_of(folder / "evaluation" / f"step-{step:06d}.jsonl") for step in (0, num_steps))
    rates = [
        np.mean(
            [
                (new["reward"] > old["reward"]) + 0.5 * (new["reward"] == old["reward"])
                for new in after[key]
                for old in before[key]
            ]
        )
        for key in after
    ]
    given = [answer for answers in after.values() for answer in answers]
    reference = answer_logps(
        str(checkpoint), [np.array(a["prompt_token_ids"]) for a in given], [np.array(a["token_ids"]) for a in given]
    )
    return {
        "win_rate": float(np.mean(rates)),
        "kl": float(np.mean([a["logp"] - logps.sum() for a, logps in zip(given, reference, strict=True)])),
        "length_before": float(np.mean([len(a["token_ids"]) for answers in before.values() for a in answers])),
        "length": float(np.mean([len(a["token_ids"]) for a in given])),
    }


def answers_of(file: Path) -> dict[str, list[Values]]:
    """Scored answers by prompt."""
    answers: dict[str, list[Values]] = {}
    for line in json_rows(file):
        if line["reward"] is not None:
            answers.setdefault(line["prompt_id"], []).append(line)
    return answers


def best_of_n_itself(task: Oracle, folder: Path, checkpoint: Path) -> float:
    """Win rate of the best of n fresh answers of the sft model, which BoNBoN imitates, against those in `folder`."""
    task.draw(checkpoint, "held-out-draws", task.held_out, [N_OF_BONBON])
    draws = json_rows(task.folder / "held-out-draws" / "draws.jsonl")
    plain = {
        answers[0]["prompt"]: answers for answers in answers_of(folder / "evaluation" / "step-000000.jsonl").values()
    }
    rates = []
    for draw in draws:
        best = max(draw["scores"])
        olds = [old["reward"] for old in plain.get(draw["prompt"], [])]
        rates += [(best > old) + 0.5 * (best == old) for old in olds]
    return float(np.mean(rates))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["oracle", "digits", "pairs"])
    parser.add_argument("--source", type=Path, help="pairs: the file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--percent", type=int, default=80, help="oracle: of the pairs, learned from; 20 are held out")
    parser.add_argument("--folder", type=Path, default=Path("runs/preferences"))
    arguments = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        folder = (arguments.folder / f"{arguments.task}-{seed}").absolute()
        if arguments.task == "pairs":
            PairsFile.source = arguments.source
            task: Oracle = PairsFile(folder, seed, arguments.steps, 16)
        else:
            task = (Digits if arguments.task == "digits" else Oracle)(folder, seed, arguments.steps, 64)
            if arguments.percent != task.percent_of_pairs:
                task.percent_of_pairs, task.suffix = arguments.percent, f"-{arguments.percent}-percent"
        with ray_cluster(ClusterConfig(address="local")):
            checkpoint = task.prepare()
            found: dict[str, Any] = {}
            for name in arguments.only:
                if usable(name, arguments.task):
                    found[name] = train_one(task, name, checkpoint)
                    (folder / f"results{task.suffix}.json").write_text(json.dumps(found, indent=1))
            if arguments.task != "pairs" and not task.suffix:
                found["best_of_n"] = best_of_n_itself(task, folder / arguments.only[0], checkpoint)
        results[seed] = {**found, "reward_model": getattr(task, "reward_model", None)}
        (folder / f"results{task.suffix}.json").write_text(json.dumps(results[seed], indent=1))
    print(table(results))
    return 0


def usable(name: str, task: str) -> bool:
    """BoNBoN learns from best and worst of n, which a file of pairs is not."""
    return task != "pairs" or name != "bonbon"


def table(results: dict[int, dict[str, Any]]) -> str:
    """Markdown, a row an algorithm and seed."""
    lines = [
        "| algorithm | seed | held-out reward, sft | after | held-out pairs ranked right | margin | "
        "win rate against sft, ties half | KL, nats | tokens generated | s a step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ALGORITHMS:
        for seed, found in results.items():
            if name not in found:
                continue
            one = found[name]
            lines.append(
                f"| {name} | {seed} | {one['reward_before']:.3f} | {one['reward']:.3f} | "
                f"{one['reward_accuracy']:.1%} | "
                f"{one['reward_margin']:.3f} | {one['win_rate']:.1%} | {one['kl']:.2f} | "
                f"{one['tokens']:.0f} | {one['step_s']:.3f} |"
            )
    for seed, found in results.items():
        if "best_of_n" in found:
            lines.append(f"| best of {N_OF_BONBON} itself | {seed} | | | | | {found['best_of_n']:.1%} | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
