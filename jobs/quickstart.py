"""The quickstart: a tiny model learns arithmetic, first by imitation, then by GRPO, with every real part.

Given a seed and a folder; gives `report.html` and `summary.json` there. The stages are ordinary recipes, run one
after the other in one Ray: init-model → sft → evaluate → grpo → evaluate.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.report.stage import Problems, read_summary
from raylign.jobs.run.checkpoints import checkpoint_of
from raylign.jobs.run.output_folder import check_output_folder


class QuickstartConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """The quickstart's few choices."""

    folder: Path = Path("runs/quickstart")
    """Where everything goes; one that was interrupted goes on."""
    seed: int = Field(0, ge=0)
    """Seed of the model, the order of prompts and the sampling."""


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run all stages; gives the summary."""
    from raylign.actors.cluster import ray_cluster
    from raylign.jobs.report.report import write_report
    from raylign.jobs.train import train

    start = time.monotonic()
    check_folder(config.folder)
    model = config.folder / "model"
    sft = recipe("sft_arithmetic", config, "sft", model)
    if not model.is_dir():  # made beside and renamed: where it is, it is whole
        print("making a tiny model and its tokenizer", flush=True)
        init_model(InitModelConfig(output=model, data=sft.data, seed=config.seed))
    with ray_cluster(sft.cluster):
        imitation = done_before(sft.folder) or train(sft).summary()
        grpo = recipe("grpo_arithmetic", config, "grpo", Path(imitation["checkpoint"]))
        learned = train(grpo).summary()
    summary = {
        "accuracy_before": learned["accuracy_before"],
        "accuracy_after": learned["accuracy_after"],
        "seconds": round(time.monotonic() - start, 1),
        "tokens_generated": learned["tokens_generated"],
        "num_steps": learned["num_steps"],
        "seed": config.seed,
        "checkpoint": os.path.relpath(learned["checkpoint"], config.folder),
    }
    (config.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    report = write_report(config.folder)
    print(
        f"held-out accuracy {summary['accuracy_before']:.1%} → {summary['accuracy_after']:.1%} "
        f"in {summary['seconds']:.0f} s; open {report}",
        flush=True,
    )
    return summary


def check_folder(folder: Path) -> None:
    """Raise where the quickstart is done, or the folder is somebody else's; one that was interrupted goes on."""
    if (folder / "summary.json").is_file() and done_before(folder / "grpo"):
        raise ValueError(
            f"the quickstart in {folder} is done: open {folder / 'report.html'}; for another one choose --folder, or "
            "remove it"
        )
    if folder.is_dir() and (folder / "model").is_dir():
        print(f"going on with the quickstart in {folder}", flush=True)
        return
    check_output_folder(folder, "", resume=False)


def done_before(stage: Path) -> dict[str, Any] | None:
    """The summary of a stage that is finished."""
    found = read_summary(stage, Problems()) or {}
    return found | {"checkpoint": checkpoint_of(stage, found)} if found.get("finished") else None


def recipe(name: str, config: QuickstartConfig, stage: str, model: Path) -> TrainConfig:
    """A shipped recipe, for one stage of the quickstart."""
    overrides = {
        "name": f"quickstart-{stage}",
        "folder": str(config.folder / stage),
        "seed": config.seed,
        "resume": (config.folder / stage / "config.yaml").is_file(),
        "model": {"path": str(model)},
    }
    return load_config(TrainConfig, [name], overrides)
