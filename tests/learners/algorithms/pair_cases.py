"""Preference pairs for tests: fixture A of the SAIL and BoNBoN numbers, and random ones for real models.

Given nothing; gives `Pairs` whose log-probs carry gradients, and `PreferencePair`s and groups of a vocabulary of 97.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raylign.learners.algorithms.preference.pairs import Pairs
from raylign.rollout.sample import Completion, Group, PreferencePair, Prompt, VersionSpan

CHOSEN_A, REJECTED_A = [-12.0, -20, -8, -30], [-15.0, -18, -9.5, -22]
CHOSEN_REFERENCE_A, REJECTED_REFERENCE_A = [-13.0, -19.5, -8.2, -28], [-14.0, -19, -9, -25]


def pairs_of(
    chosen: Sequence[float],
    rejected: Sequence[float],
    chosen_reference: Sequence[float],
    rejected_reference: Sequence[float],
    **facts: Sequence[float],
) -> Pairs:
    """Pairs whose summed log-probs are leaves, in double precision."""
    chosen_logps = torch.tensor(chosen, dtype=torch.float64, requires_grad=True)
    rejected_logps = torch.tensor(rejected, dtype=torch.float64, requires_grad=True)
    chosen_ratios = chosen_logps - torch.tensor(chosen_reference, dtype=torch.float64)
    rejected_ratios = rejected_logps - torch.tensor(rejected_reference, dtype=torch.float64)
    given = {"probability": [1.0] * len(chosen), **facts}
    return Pairs(
        h=chosen_ratios - rejected_ratios,
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_log_ratios=chosen_ratios,
        rejected_log_ratios=rejected_ratios,
        chosen_lengths=torch.ones(len(chosen), dtype=torch.float64),
        facts={name: torch.tensor(values, dtype=torch.float64) for name, values in given.items()},
        rejected_facts={},
        num_pairs=len(chosen),
    )


def fixture_a(**facts: Sequence[float]) -> Pairs:
    """The four rows of the SAIL numbers; β is 0.1."""
    return pairs_of(CHOSEN_A, REJECTED_A, CHOSEN_REFERENCE_A, REJECTED_REFERENCE_A, **facts)


def gradients(pairs: Pairs, losses: torch.Tensor) -> tuple[list[float], list[float]]:
    """Of the mean loss, with respect to the log-probs of chosen and rejected."""
    chosen, rejected = torch.autograd.grad(losses.mean(), [pairs.chosen_logps, pairs.rejected_logps])
    return chosen.tolist(), rejected.tolist()


def random_pairs(count: int = 7) -> list[PreferencePair]:
    """Of different lengths, with soft labels."""
    rng = np.random.default_rng(11)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, 97, rng.integers(low, high)).astype(np.int32)

    return [
        PreferencePair(
            Prompt(str(number), number, "", ids(1, 9)), ids(1, 14), ids(1, 14), "", "", 0.5 + 0.5 * rng.random()
        )
        for number in range(count)
    ]


def random_groups(count: int, version: int = 0) -> list[Group]:
    """Two answers each, the second one better in every other group; ordinals from 0."""
    rng = np.random.default_rng(12)
    groups = []
    for ordinal in range(count):
        completions = []
        for _ in range(2):
            length = int(rng.integers(1, 14))
            logps = -rng.exponential(1.0, length).astype(np.float32)
            ids = rng.integers(0, 97, length).astype(np.int32)
            completions.append(Completion(ids, logps, (VersionSpan(version, 0, length),), "stop", ""))
        prompt = Prompt(str(ordinal), ordinal, "", rng.integers(0, 97, 4).astype(np.int32))
        rewards = np.array([0.0, ordinal % 2], np.float32)
        groups.append(Group(prompt, tuple(completions), {"r": rewards}, rewards))
    return groups
