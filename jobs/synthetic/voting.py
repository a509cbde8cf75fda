"""Which answer a teacher's replies to one input agree on, and which reply becomes the row's label.

Given the answers read from the replies, in order (None where none could be read; the row's own output last), gives the
mode with the places of the replies that voted for it; then label and targets of the row. Pure: no model, no file.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """What the replies agree on.

    count_votes([None, "A", "B", "A"]) == Vote(answer="A", voters=(1, 3), num_read=3)
    """

    answer: str
    voters: tuple[int, ...]
    """Places, among all replies, of those that gave this answer."""
    num_read: int
    """Replies whose answer could be read."""


@dataclass(frozen=True)
class Verified:
    """A row that the replies confirm."""

    label: str
    """One of the replies that voted for the answer."""
    targets: tuple[str, ...]
    """All of them, in order: what the column `all` keeps for training by imitation."""
    lengths: tuple[int, ...]
    """Characters of each target."""
    vote: Vote


def count_votes(answers: Sequence[str | None]) -> Vote | None:
    """The most frequent answer; of several, the one that was seen first. None where no answer could be read.

    Places are those of the replies themselves: unreadable ones keep theirs.
    """
    voters: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            voters.setdefault(answer, []).append(place)
    if not voters:
        return None
    answer = max(voters, key=lambda each: len(voters[each]))  # the first of equals: dicts keep the order
    return Vote(answer, tuple(voters[answer]), sum(map(len, voters.values())))


def verify(
    replies: Sequence[str], answers: Sequence[str | None], seed: int, row_id: str, min_votes: int = 1
) -> Verified | None:
    """Label and targets of a row; None where nothing could be read or fewer than `min_votes` agree.

    The label is drawn by seed and row, so neither the order of rows nor a restart changes it.
    """
    if len(replies) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(replies)} replies of row {row_id}: one each is needed")
    vote = count_votes(answers)
    if vote is None or len(vote.voters) < min_votes:
        return None
    targets = tuple(replies[place] for place in vote.voters)
    label = random.Random(f"label/{seed}/{row_id}").choice(targets)
    return Verified(label, targets, tuple(map(len, targets)), vote)
