"""A reward server: the Ray host of a run's rewards.

Given finished groups, gives them scored. Failures are values on the group; a server call itself only fails when the
process dies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raylign.rewards.base import Item
from raylign.rewards.registry import RewardConfig
from raylign.rewards.scoring import Scorer
from raylign.rollout.experience_schema import batch_to_message, groups_to_batch
from raylign.rollout.sample import Failure, Group


class RewardServer:
    """Scores groups with every configured reward."""

    def __init__(self, rewards: Sequence[RewardConfig]) -> None:
        self._scorer = Scorer(rewards)

    def ready(self) -> None:
        """Returns once rewards are loaded."""

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with rewards, totals and failures."""
        start = time.perf_counter()
        scored = self._scorer.score([item_of(group) for group in groups])
        seconds = time.perf_counter() - start
        return [
            group.scored(
                result.rewards,
                result.total,
                tuple(Failure(failure.kind, name, failure.message) for name, failure in result.failures),
                seconds / max(len(groups), 1),
            )
            for group, result in zip(groups, scored, strict=True)
        ]

    def score_for_log(self, groups: Sequence[Group]) -> NDArray[np.uint8]:
        """The same groups scored, as the experience log takes them."""
        return batch_to_message(groups_to_batch(self.score(groups)))

    def close(self) -> None:
        """End the rewards' processes."""
        self._scorer.close()


def item_of(group: Group) -> Item:
    """What a reward sees of a group."""
    return Item(
        prompt=group.prompt.text,
        completions=tuple(completion.text for completion in group.completions),
        references=group.prompt.references,
        messages=group.prompt.messages,
        row=group.prompt.row,
        num_tokens=tuple(len(completion.token_ids) for completion in group.completions),
        finished=tuple(completion.stop_reason == "stop" for completion in group.completions),
    )
