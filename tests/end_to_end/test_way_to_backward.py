"""The way from `train` to `.backward(` stays short: a reader follows it in one sitting, a debugger shows it on a page.

A real run whose only rank runs in this process, beside the loop, so that both stacks can be looked at.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import raylign
from raylign.actors.learner.group import LearnerGroup
from raylign.actors.learner.mailbox import Command, MailboxHandle
from raylign.actors.learner.serve import serve_rank
from raylign.jobs.train import train
from tests.end_to_end.conftest import TRAIN, configured, small_config

pytestmark = pytest.mark.ray
MOST_FRAMES = 12
RANK_ENTRY = "serve.serve_rank"
MAILBOX = "Mailbox.call"
"""In a process of its own: one frame, which waits."""


def own_frames() -> list[str]:
    """Functions of ours on this thread's stack, outermost first."""
    package = f"{raylign.__path__[0]}/"
    return [
        f"{Path(frame.filename).stem}.{frame.name}"
        for frame in traceback.extract_stack()
        if frame.filename.startswith(package)
    ]


class WatchedMailbox:
    """The mailbox, and the loop's stack whenever it hands over an update."""

    def __init__(self, mailbox: MailboxHandle, stacks: list[list[str]]) -> None:
        self._mailbox, self._stacks = mailbox, stacks
        self.call = SimpleNamespace(remote=self._call)

    def _call(self, command: Command, deadline_s: float) -> Any:
        if command.verb == "update":
            self._stacks.append(own_frames())
        return self._mailbox.call.remote(command, deadline_s)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._mailbox, verb)


@pytest.fixture
def a_rank_may_live_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import ray.train
    import torch

    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    for variable in ("LOCAL_RANK", "DS_ACCELERATOR"):
        monkeypatch.setenv(variable, {"LOCAL_RANK": "0"}.get(variable, "cpu"))
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)  # the group of one process stays: DeepSpeed keeps it for all later learners


def test_from_train_to_backward_are_at_most_twelve_frames(
    ray_session: None,
    start_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    a_rank_may_live_here: None,
) -> None:
    import torch

    loop_stacks: list[list[str]] = []
    rank_stacks: list[list[str]] = []

    def rank_beside_the_loop(group: LearnerGroup, placement_deadline_s: float) -> None:
        assert group._mailbox is not None
        mailbox = group._mailbox
        group._mailbox = cast(MailboxHandle, WatchedMailbox(mailbox, loop_stacks))
        try:
            serve_rank({"spec": group._spec, "mailbox": mailbox})
        finally:
            group._mailbox = mailbox  # which `stop` ends

    backward = torch.Tensor.backward

    def watched_backward(tensor: torch.Tensor, *arguments: Any, **named: Any) -> None:
        rank_stacks.append(own_frames())
        backward(tensor, *arguments, **named)

    monkeypatch.setattr(LearnerGroup, "_run_trainer", rank_beside_the_loop)
    monkeypatch.setattr(torch.Tensor, "backward", watched_backward)
    values = small_config(start_model, tmp_path / "run", num_steps=1, algorithm={"name": "sft"}, rewards=[], data=TRAIN)
    train(configured(values))

    assert loop_stacks and rank_stacks
    loop, rank = loop_stacks[-1], rank_stacks[-1]
    rank = rank[rank.index(RANK_ENTRY) :]  # what holds it in this process is the test's
    way = [*loop, MAILBOX, *rank]
    assert loop[0] == "train.train", way
    assert len(way) <= MOST_FRAMES, way
    print(f"{len(way)} frames: {' → '.join(way)}")
