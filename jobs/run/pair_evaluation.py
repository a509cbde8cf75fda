"""Held-out preference pairs through the learner: loss, accuracy with its interval, margin, calibration.

Given the metrics that the algorithm's own loss gives on held-out pairs; gives one line of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from raylign.jobs.run.statistics import wilson_interval

RENAMED = {"learner/loss": "loss", "preference/accuracy": "reward_accuracy", "preference/margin": "reward_margin"}
CALIBRATION_GAP = "reward_model/gap_"
OF_A_SOURCE = ("loss", "reward_accuracy", "reward_accuracy_low", "reward_accuracy_high", "reward_margin", "num_pairs")


def pair_metrics(metrics: Mapping[str, float], num_pairs: int) -> dict[str, float]:
    """`evaluation/…` of held-out pairs."""
    line = {f"evaluation/{name}": metrics[key] for key, name in RENAMED.items()}
    kept = ("preference/", "bonbon/", "reward_model/")
    for key, value in metrics.items():
        if key.startswith(kept) and key not in RENAMED and not key.startswith(CALIBRATION_GAP):
            line[f"evaluation/{key.partition('/')[2]}"] = value
    accuracy = metrics["preference/accuracy"]
    low, high = wilson_interval(accuracy, num_pairs)
    line |= {"evaluation/reward_accuracy_low": low, "evaluation/reward_accuracy_high": high}
    gaps = [abs(value) for key, value in metrics.items() if key.startswith(CALIBRATION_GAP)]
    if gaps:
        line["evaluation/calibration_error"] = sum(gaps)
    line["evaluation/num_pairs"] = float(num_pairs)
    return line


def metrics_of_source(line: Mapping[str, float], name: str) -> dict[str, float]:
    """The main numbers of one of several sources under its name: `evaluation/pairs/<name>/…`."""
    return {f"evaluation/pairs/{name}/{key}": line[f"evaluation/{key}"] for key in OF_A_SOURCE}


def source_names(sources: Sequence[str]) -> list[str]:
    """The last part of each path or id, without a file's ending; a number where two would be equal."""
    names: list[str] = []
    for source in sources:
        short = PurePath(source).name.partition(".")[0] or source
        plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in short)
        name, repeat = plain, 1
        while name in names:
            repeat += 1
            name = f"{plain}-{repeat}"
        names.append(name)
    return names


def evaluation_words(line: Mapping[str, float]) -> str:
    """What an evaluation found, for the progress of a run."""
    parts = []
    for key, name in (("accuracy", "held-out accuracy"), ("reward_accuracy", "held-out pairs ranked right")):
        if f"evaluation/{key}" in line:
            low, high = line[f"evaluation/{key}_low"], line[f"evaluation/{key}_high"]
            parts.append(f"{name} {line[f'evaluation/{key}']:.1%} [{low:.1%}, {high:.1%}]")
    for key in [key for key in line if key.startswith("evaluation/pairs/") and key.endswith("/reward_accuracy")]:
        parts.append(f"of {key.split('/')[2]} {line[key]:.1%} [{line[f'{key}_low']:.1%}, {line[f'{key}_high']:.1%}]")
    if unmeasured := line.get("evaluation/unmeasured_prompts"):
        parts.append(
            f"{unmeasured:.0f} of {line['evaluation/num_prompts']:.0f} prompts could not be scored and are left out"
        )
    if "evaluation/num_prompts" in line and "evaluation/accuracy" not in line:
        parts.insert(0, "held-out accuracy not measured: no completion could be scored")
    if "evaluation/loss" in line and "evaluation/num_rows" in line:
        parts.append(f"held-out loss {line['evaluation/loss']:.3f}")
    if "evaluation/reward_margin" in line:
        parts.append(f"margin {line['evaluation/reward_margin']:.3f}")
    return ", ".join(parts)
