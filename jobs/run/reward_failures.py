"""Whether the rewards of a run still say anything: a run must not go on over scores that failed.

Given the groups of each step as they come; raises `RewardsFailedError`, with the last failure's words, when every score
of a step failed, or more of the last groups' scores than the config allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from raylign.rollout.sample import Group

WINDOW_GROUPS = 20
KEY = "rollout.max_reward_failures"


class RewardsFailedError(RuntimeError):
    """There is nothing to learn from, because scoring fails."""

    says_it_all = True


class RewardFailures:
    """Counts over the last groups."""

    def __init__(self, allowed_share: float) -> None:
        self._allowed_share = allowed_share
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW_GROUPS)

    def add(self, group: Group, step: int) -> None:
        """A scored group of `step`, counted from 0."""
        if (count := _failed_and_all(group)) is None:
            return
        self._counts.append(count)
        failed, total = (sum(column) for column in zip(*self._counts, strict=True))
        if count[0] and len(self._counts) == WINDOW_GROUPS and failed > self._allowed_share * total:
            words = f"{failed} of {total} scores of the last {WINDOW_GROUPS} groups failed"
            raise RewardsFailedError(
                f"step {step + 1}: {words} ({KEY} allows {self._allowed_share:g}); {_last([group])}"
            )

    def check_step(self, groups: Sequence[Group], step: int) -> None:
        """All groups that came for `step`."""
        counts = [count for group in groups if (count := _failed_and_all(group)) is not None]
        if counts and self._allowed_share < 1 and all(failed == total for failed, total in counts):
            total = sum(total for _, total in counts)
            raise RewardsFailedError(f"step {step + 1}: every one of {total} scores failed ({KEY}); {_last(groups)}")


def _failed_and_all(group: Group) -> tuple[int, int] | None:
    """Completions without a score, and all; None where scoring has not failed: not applicable, or no completions."""
    if group.total_rewards is None or not len(group.total_rewards):
        return None
    failed = num_failed(group)
    if not failed and not np.isfinite(group.total_rewards).any():
        return None
    return failed, len(group.total_rewards)


def num_failed(group: Group) -> int:
    """Completions without a total because a reward failed; others have none because no reward applies to them.

    A failure does not say which completion it is of. Where a reward has as many as completions without a score and
    total, it is of all those.
    """
    assert group.total_rewards is not None
    missing_G = ~np.isfinite(group.total_rewards)
    failed_G = np.zeros(len(missing_G), bool)
    at_least = 0
    for name in {failure.where for failure in group.failures} & group.rewards.keys():
        of_reward = sum(failure.where == name for failure in group.failures)
        may_be_G = missing_G & ~np.isfinite(group.rewards[name])
        if of_reward >= may_be_G.sum():
            failed_G |= may_be_G
        at_least = max(at_least, min(of_reward, int(may_be_G.sum())))
    return max(at_least, int(failed_G.sum()))


def _last(groups: Sequence[Group]) -> str:
    return f"the last one: {last_failure(groups) or 'unknown'}"


def last_failure(groups: Sequence[Group]) -> str | None:
    """The words of the last reward that failed."""
    failures = [failure for group in groups for failure in group.failures]
    if not failures:
        return None
    return f"{failures[-1].where}: {failures[-1].kind}: {failures[-1].message}"
