"""How rollouts fail: the engines, the rewards, or the way between them.

Given what somebody said last; gives errors that name who it was.
"""

from __future__ import annotations

from typing import Literal

DeliveryParty = Literal["reward server", "experience log"]


class RolloutError(RuntimeError):
    """A rollout worker or the reward server died or stopped answering."""


class RewardServerError(RolloutError):
    """It was the reward server."""


class DeliveryError(RuntimeError):
    """A worker could not hand its finished groups on."""

    def __init__(self, party: DeliveryParty, words: str) -> None:
        super().__init__(party, words)
        self.party, self.words = party, words

    def __str__(self) -> str:
        return f"the {self.party} failed: {self.words}"
