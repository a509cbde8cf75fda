"""Samples to read: a few groups of a step, the best and the worst among them.

Given scored groups; gives `samples/step-000010.jsonl`, one group on each line, for people and the report.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from raylign.jobs.run.folder import RunFolder, write_atomically
from raylign.rollout.sample import FloatArray, Group

MAX_COMPLETIONS = 8
"""Completions kept of one group: its best and its worst where there are more."""


def write_samples(
    run_folder: RunFolder, step: int, groups: Sequence[Group], seed: int = 0, num_random: int = 2
) -> Path | None:
    """Keep the best and the worst group, that of the widest rewards, one that failed if any did, and some drawn by
    (seed, step)."""
    if not groups:
        return None
    chosen = _chosen(groups, Random(f"{seed}-{step}"), num_random)
    lines = [{"step": step, "why": why, **sample_record(group, MAX_COMPLETIONS)} for why, group in chosen]
    path = run_folder.samples_path / f"step-{step:06d}.jsonl"
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def write_answers(run_folder: RunFolder, step: int, groups: Sequence[Group]) -> Path:
    """Every answer to the held-out prompts, in `evaluation/step-000010.jsonl`: a line for each, to be compared with
    those of another step or run, prompt by prompt."""
    lines = []
    for group in sorted(groups, key=lambda group: group.prompt.ordinal):
        for index, completion in enumerate(group.completions):
            reward = math.nan if group.total_rewards is None else float(group.total_rewards[index])
            lines.append(
                {
                    "prompt_id": group.prompt.prompt_id,
                    "prompt": group.prompt.text,
                    "response": completion.text,
                    "reward": reward if math.isfinite(reward) else None,
                    "finished": completion.stop_reason == "stop",
                    "prompt_token_ids": group.prompt.token_ids.tolist(),
                    "token_ids": completion.token_ids.tolist(),
                    "logp": float(completion.logps.sum()),
                }
            )
    path = run_folder.path / "evaluation" / f"step-{step:06d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def sample_record(group: Group, max_completions: int | None = None) -> dict[str, Any]:
    """A group as plain values, completions best first; of a larger group only the best and the worst."""
    kept = _best_first(group)
    if max_completions is not None and len(kept) > max_completions:
        half = max_completions // 2
        kept = kept[: max_completions - half] + kept[-half:]
    return {
        "prompt_id": group.prompt.prompt_id,
        "ordinal": group.prompt.ordinal,
        "prompt": group.prompt.text,
        "references": list(group.prompt.references),
        "num_completions": len(group.completions),
        "completions": [_completion(group, index) for index in kept],
        "failures": [asdict(failure) for failure in group.failures],
    }


def sample_files(folder: Path) -> dict[int, Path]:
    """The sample files of a run folder by step."""
    found = (folder / "samples").glob("step-*.jsonl")
    files = {int(path.stem[5:]): path for path in found if re.fullmatch(r"step-\d{1,12}", path.stem, re.ASCII)}
    return dict(sorted(files.items()))


def _chosen(groups: Sequence[Group], random: Random, num_random: int) -> list[tuple[str, Group]]:
    """Each group at most once, with the reason why it was kept."""
    ranked = sorted(
        (i for i, group in enumerate(groups) if math.isfinite(_mean_reward(group))),
        key=lambda i: _mean_reward(groups[i]),
    )
    why: dict[int, str] = {}
    if ranked:
        why[ranked[-1]] = "best"
        why.setdefault(ranked[0], "worst")
        if _spread(groups[widest := max(ranked, key=lambda i: _spread(groups[i]))]) > 0:
            why.setdefault(widest, "widest rewards")
    failed = [i for i, group in enumerate(groups) if group.failures and i not in why]
    if failed:
        why[random.choice(failed)] = "failed"
    rest = [i for i in range(len(groups)) if i not in why]
    for i in random.sample(rest, min(num_random, len(rest))):
        why[i] = "random"
    return [(reason, groups[i]) for i, reason in why.items()]


def _mean_reward(group: Group) -> float:
    if group.total_rewards is None:
        return math.nan
    finite_G = group.total_rewards[np.isfinite(group.total_rewards)]
    return float(finite_G.mean()) if len(finite_G) else math.nan


def _spread(group: Group) -> float:
    """Of the rewards of its completions: where there is none, nothing is to be seen in a comparison."""
    assert group.total_rewards is not None
    return float(np.ptp(group.total_rewards[np.isfinite(group.total_rewards)]))


def _best_first(group: Group) -> list[int]:
    if group.total_rewards is None:
        return list(range(len(group.completions)))
    totals_G = np.nan_to_num(group.total_rewards, nan=-math.inf)
    return [int(index) for index in np.argsort(-totals_G, kind="stable")]


def _completion(group: Group, index: int) -> dict[str, Any]:
    completion = group.completions[index]
    return {
        "text": completion.text,
        "total": _number(group.total_rewards, index),
        "rewards": {name: _number(rewards_G, index) for name, rewards_G in group.rewards.items()},
        "stop_reason": completion.stop_reason,
        "num_tokens": len(completion.token_ids),
    }


def _number(values_G: FloatArray | None, index: int) -> float | None:
    """Six digits are enough to read; null where scoring failed."""
    if values_G is None or not math.isfinite(values_G[index]):
        return None
    return round(float(values_G[index]), 6)
