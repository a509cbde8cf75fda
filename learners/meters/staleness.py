"""The last guard of the staleness bound, where examples reach the learner.

Given the examples of one update and the version that they improve; gives the staleness metrics of their trained tokens,
or a `StalenessError` when one is outside the bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raylign.learners.examples.example import Example
from raylign.rollout.staleness import StalenessError, too_old


def staleness_metrics(examples: Sequence[Example], version: int, max_staleness: int) -> dict[str, float]:
    """Mean, maximum and histogram of `version` minus the version of every token in the loss. Of the whole batch, on
    every rank: nothing is left to combine."""
    versions = np.concatenate([_trained_versions(example) for example in examples])
    if (bad := too_old(versions, version, max_staleness)).any():
        raise StalenessError(
            f"{int(bad.sum())} of {len(versions)} tokens for version {version} are older than the bound of "
            f"{max_staleness} allows: the oldest is of version {int(versions.min())}, "
            f"the limit is {version - max_staleness}"
        )
    if versions.max() > version:
        raise StalenessError(
            f"tokens of version {int(versions.max())} came to train version {version}: from the future"
        )
    staleness = version - versions
    shares = np.bincount(staleness, minlength=max_staleness + 1) / len(staleness)
    return {
        "staleness/mean": float(staleness.mean()),
        "staleness/max": float(staleness.max()),
        **{f"staleness/share_{age}": float(share) for age, share in enumerate(shares)},
    }


def _trained_versions(example: Example) -> np.ndarray:
    if example.token_versions is None or len(example.token_versions) != len(example.loss_mask):
        given = "none" if example.token_versions is None else str(len(example.token_versions))
        raise StalenessError(f"{len(example.loss_mask)} tokens came with {given} weight versions: each needs its own")
    return example.token_versions[example.loss_mask > 0]
