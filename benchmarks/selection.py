"""Whether the weights of BDR find contaminated rows: BDR, BDR_Online fixed and dynamic, uniform mixing, side by side.

Given a data set of which it is known which rows are contaminated, and seeds; trains all four on the same rows and
writes a Markdown table. `origin` names the truth; no run reads it.

    .venv/bin/python -m benchmarks.selection generated --seeds 0 1 2
    .venv/bin/python -m benchmarks.selection given --clean blue.jsonl --contaminated red.jsonl --bad hh_rejected \
        --read alpaca.jsonl.gz safe_answers.jsonl

AUC: chance that a clean row has more weight than a contaminated one; rows that the policy answered anew (online) are
left out, since their weight speaks of the answers. Kept and dropped: by weight at least 1; online by the gate's share.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.json_rows import json_rows
from benchmarks.selection_data import BASE, CORRUPTED, FILES, generated, given, to_read
from raylign.actors.cluster import ClusterConfig, ray_cluster
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.selection import read_selection
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.run.checkpoints import checkpoint_of
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.train import train

Values = dict[str, Any]
RECIPES = {
    "uniform": ("bdr_tiny", {"selector": {"learning_rate": 0.0}}),
    "bdr": ("bdr_tiny", {}),
    "bdr_online fixed": ("bdr_online_fixed_tiny", {}),
    "bdr_online dynamic": ("bdr_online_dynamic_tiny", {}),
}
COLUMNS = ("λ", "run", "AUC", "contaminated rows: kept", "dropped", "answered anew", "clean rows: kept", "dropped")
MORE_COLUMNS = ("answered anew", "validation loss", "minutes", "idle while answering")


class Task:
    """Rows, a model of their words, and what runs on them differ in from the tiny recipes."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.num_steps: int | None = arguments.num_steps
        self.bad = {CORRUPTED} if arguments.task == "generated" else set(arguments.bad)
        self.template = "{prompt}" if arguments.task == "generated" else "{prompt}\n"
        self.is_generated = arguments.task == "generated"
        if self.is_generated:
            generated(folder, seed)
            shape = {"num_layers": 2, "width": 64, "num_heads": 2, "mlp_width": 192, "vocabulary_size": 300}
        else:
            given(folder, arguments.clean, arguments.contaminated, seed, arguments.longest)
            to_read(folder, arguments.read, arguments.longest)
            shape = {"num_layers": 2, "width": 128, "num_heads": 4, "mlp_width": 384, "vocabulary_size": 2000}
        self.model = folder / "model"
        if not self.model.exists():
            rows = self.section(FILES[0] if self.is_generated else BASE)
            init_model(InitModelConfig.model_validate({"output": self.model, "data": rows, "seed": seed, **shape}))
        if arguments.read:
            self.model = self.able_to_read()

    def able_to_read(self) -> Path:
        """The model after sft on the trusted rows and more like them: weights follow losses, and those of a model that
        knows nothing say only how common the words are."""
        summary = self.folder / "base" / "summary.json"
        if not summary.exists():
            values: Values = {
                "folder": str(summary.parent),
                "seed": self.seed,
                "num_epochs": 6,
                "model": {"path": str(self.model)},
                "data": {**self.section(BASE), "skip_too_long": True},
                "algorithm": {"name": "sft"},
                "rollout": {"prompts_per_step": 32, "engine": {"max_model_len": 256}},
                "learner": {"learning_rate": 1e-3, "warmup_steps": 20, "schedule": "linear"},
                "checkpoints": {"every_steps": 0},
            }
            train(load_config(TrainConfig, [], values))
        return Path(checkpoint_of(summary.parent, json.loads(summary.read_text())))

    def section(self, name: str) -> Values:
        return {"source": str(self.folder / name), "reference": "{response}", "template": self.template}

    def config(self, run: str, upper_share: float) -> TrainConfig:
        recipe, algorithm = RECIPES[run]
        trusted, weighed, held_out = map(self.section, FILES)
        values: Values = {
            "folder": str(self.folder / f"{run.replace(' ', '_')}_{upper_share:g}"),
            "seed": self.seed,
            "model": {"path": str(self.model)},
            "data": weighed,
            "trusted_data": trusted,
            "evaluation": {"trusted": held_out},
            "algorithm": {"upper_share": upper_share, **copy.deepcopy(algorithm)},
            "learner": {"threads_per_rank": 1},
        }
        if self.num_steps:
            values["num_steps"] = self.num_steps
        if not self.is_generated:
            values.setdefault("num_steps", 246)  # six passes
            values["learner"] |= {"learning_rate": 5e-5}
            # ε above a gradient's size: the step follows the loss, and not the order of the rows
            how = {"learning_rate": 1.0, "adam_epsilon": 1.0, "warmup_steps": 10}
            values["algorithm"]["selector"] = how | values["algorithm"].get("selector", {})
            values["rollout"] = {"engine": {"max_model_len": 256, "kv_cache_gib": 0.25}}
            values["sampling"] = {"max_tokens": 64}
            values["data"] = {**weighed, "skip_too_long": True}
            values["trusted_data"] = {**trusted, "skip_too_long": True}
            values["evaluation"] = {"trusted": {**held_out, "skip_too_long": True}}
        return load_config(TrainConfig, [recipe], values)

    def result(self, folder: Path) -> Values:
        """What the finished run in `folder` found."""
        origins = [row["origin"] for row in json_rows(self.folder / FILES[1])]
        rows = read_selection(folder)
        is_bad = np.array([origins[row["source_row"]] in self.bad for row in rows])
        weights = np.array([row["weight"] for row in rows])
        states = np.array([row["state"] for row in rows])
        judged = states != "regenerated"
        lines = read_metrics(folder)
        idle = [line for line in lines if "idle/learner_share" in line]
        return {
            "auc": auc(weights[judged & ~is_bad], weights[judged & is_bad]),
            **{
                f"{name} {state}": int((group & (states == state)).sum())
                for name, group in (("bad", is_bad), ("clean", ~is_bad))
                for state in ("kept", "dropped", "regenerated")
            },
            "loss": [line["evaluation/loss"] for line in lines if "evaluation/loss" in line][-1],
            "minutes": max(line["seconds"] for line in lines) / 60,
            "idle": waiting_share(idle),
        }


def auc(better: np.ndarray, worse: np.ndarray) -> float:
    """Chance that one of `better` is larger than one of `worse`; a tie is a half."""
    if not len(better) or not len(worse):
        return float("nan")
    order = np.sort(worse)
    below, not_above = np.searchsorted(order, better, "left"), np.searchsorted(order, better, "right")
    return float((below + not_above).mean() / (2 * len(worse)))


def waiting_share(lines: Sequence[Values]) -> float:
    """Of the time of steps while answers were being made, the share in which the learner waited for them. Those of the
    first refresh are made before the first step."""
    spans = [(line["refresh/asked_at_step"], line["step"]) for line in lines if line.get("refresh/asked_at_step")]
    during = [line for line in lines if any(asked <= line["step"] < used for asked, used in spans)]
    total = sum(line["time/step_s"] for line in during)
    return sum(line["time/wait_s"] for line in during) / total if total else float("nan")


def table(results: dict[tuple[float, str], list[Values]]) -> str:
    """Means over seeds, with the least and largest AUC."""
    head = [*COLUMNS, *MORE_COLUMNS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for (upper_share, run), found in results.items():
        aucs = [each["auc"] for each in found]
        cells = [f"{upper_share:g}", run, f"{statistics.mean(aucs):.3f} ({min(aucs):.3f} to {max(aucs):.3f})"]
        for name in ("bad", "clean"):
            cells += [f"{mean(found, f'{name} {state}'):.0f}" for state in ("kept", "dropped", "regenerated")]
        cells += [f"{mean(found, 'loss'):.3f}", f"{mean(found, 'minutes'):.1f}"]
        cells += ["–" if np.isnan(mean(found, "idle")) else f"{mean(found, 'idle'):.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean(found: Sequence[Values], key: str) -> float:
    return float(np.mean([each[key] for each in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["generated", "given"])
    parser.add_argument("--clean", type=Path, help="rows of {question, response, origin}, trusted and held out")
    parser.add_argument("--contaminated", type=Path, help="rows of the same kind, to be weighed")
    parser.add_argument("--bad", nargs="+", default=[], help="origins of contaminated rows")
    parser.add_argument("--read", type=Path, nargs="+", default=[], help="rows of {instruction, input, output} for sft")
    parser.add_argument("--longest", type=int, default=400, help="characters of a row; longer ones are left out")
    parser.add_argument("--folder", type=Path, default=Path("runs/selection"))
    parser.add_argument("--runs", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--upper-share", type=float, nargs="+", default=[0.5], help="λ; SEAL has 1")
    parser.add_argument("--num-steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    results: dict[tuple[float, str], list[Values]] = {}
    with ray_cluster(ClusterConfig(address="local")):
        for seed in arguments.seeds:
            task = Task(arguments.folder / f"{arguments.task}-{seed}", arguments, seed)
            for upper_share in arguments.upper_share:
                for run in arguments.runs:
                    config = task.config(run, upper_share)
                    if not (config.folder / "summary.json").exists():
                        train(config)
                    results.setdefault((upper_share, run), []).append(task.result(config.folder))
    text = table(results)
    (arguments.folder / f"{arguments.task}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
