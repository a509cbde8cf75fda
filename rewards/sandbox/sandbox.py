"""Runs a reward in processes that can be killed, with a deadline for each item.

Given the config of a reward, is itself that reward: a hang, a crash or a broken limit costs one item (of a
`PointwiseReward`: one completion), which gets a typed failure; the process is replaced and the rest is scored.

    score() ── item ──▶ child        waits for: a reply, the child's end, or the deadline, whichever is first
            ◀─ scores ─              unblocked by: the child, the kernel, the clock
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

from raylign.rewards.base import FailureKind, Item, KillableConfig, Reward, RewardFailure, Score
from raylign.rewards.sandbox.messages import BadReply, scores_from_data
from raylign.rewards.sandbox.process import ChildFailed, ChildProcess

GROW_AFTER_S = 1.0


@dataclass(frozen=True, eq=False)
class _Unit:
    """What is sent at once and fails at once: an item, or one completion of it."""

    item_index: int
    first_completion: int
    item: Item


def _single(item: Item, index: int) -> Item:
    return replace(
        item,
        completions=item.completions[index : index + 1],
        num_tokens=item.num_tokens[index : index + 1],
        finished=item.finished[index : index + 1],
    )


class Sandboxed(Reward):
    """A reward whose work is done in `num_processes` children. Calls from several threads share them: each takes at
    least one that is free, and gives it back as soon as it has nothing more for it."""

    def __init__(self, config: KillableConfig, label: str) -> None:
        """Starts one child, so that a reward that cannot be built raises ValueError here."""
        self._deadline_s = config.deadline_s
        self._came_free = threading.Condition()
        self._children = [ChildProcess(config, label) for _ in range(config.num_processes)]
        try:
            self._children[0].ensure_started()
        except ChildFailed as error:
            raise ValueError(f"{error}; run what it imports by hand to see why") from None
        self.is_pointwise, self.form = self._children[0].is_pointwise, self._children[0].form
        self._free = self._children[::-1]  # the one that is started is taken first
        self._spare = [ChildProcess(config, label) for _ in range(getattr(config, "spare_processes", 0))]
        self.max_in_flight = len(self._children) + len(self._spare)

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        units = self._units(items)
        if not units:
            return [[] for _ in items]
        finished = _Round(self._take(len(units)), units, self._deadline_s, self._give_back).run()
        scores: list[list[Score]] = [[] for _ in items]
        for unit in sorted(finished, key=lambda unit: unit.first_completion):
            scores[unit.item_index].extend(finished[unit])
        return scores

    def _units(self, items: Sequence[Item]) -> list[_Unit]:
        if not self.is_pointwise:
            return [_Unit(item_index, 0, item) for item_index, item in enumerate(items)]
        return [
            _Unit(item_index, index, _single(item, index))
            for item_index, item in enumerate(items)
            for index in range(len(item.completions))
        ]

    def _take(self, most: int) -> list[ChildProcess]:
        """Waits for one that is free; others that are free too are taken with it. Where all are busy for long, a spare
        one is started."""
        while True:
            with self._came_free:
                may_grow = bool(self._spare)
                self._came_free.wait_for(lambda: self._free, GROW_AFTER_S if may_grow else None)
                if self._free:
                    return [self._free.pop() for _ in range(min(most, len(self._free)))]
                if not self._spare:
                    continue
                child = self._spare.pop()
                self._children.append(child)
            with contextlib.suppress(ChildFailed, ValueError, OSError):
                child.ensure_started()
                return [child]
            with self._came_free:  # no room for another: those there are must do
                self._children.remove(child)
                self._spare.clear()

    def _give_back(self, child: ChildProcess) -> None:
        with self._came_free:
            self._free.append(child)
            self._came_free.notify()

    def close(self) -> None:
        for child in self._take_all():
            child.kill()
            self._give_back(child)

    def _take_all(self) -> list[ChildProcess]:
        with self._came_free:
            self._came_free.wait_for(lambda: len(self._free) == len(self._children))
            taken, self._free = self._free, []
        return taken


class _Round:
    """One call of `score`: hands units to idle children and waits for replies, ends and deadlines."""

    def __init__(
        self,
        children: Sequence[ChildProcess],
        units: Sequence[_Unit],
        deadline_s: float,
        give_back: Callable[[ChildProcess], None],
    ) -> None:
        self._children = list(children)
        self._give_back = give_back
        self._deadline_s = deadline_s
        self._waiting = deque(units)
        self._idle = list(children)
        self._running: dict[ChildProcess, tuple[_Unit, float]] = {}
        self._finished: dict[_Unit, list[Score]] = {}

    def run(self) -> dict[_Unit, list[Score]]:
        try:
            while self._waiting or self._running:
                while self._waiting and self._idle:
                    self._send_next()
                self._release()
                self._collect_replies()
                self._kill_overdue()
        finally:
            for child in self._children:
                if child not in self._idle:  # interrupted: a late reply must not answer the next call
                    child.kill()
                self._give_back(child)
        return self._finished

    def _release(self) -> None:
        """What has nothing more to do here is for others."""
        while self._idle:
            child = self._idle.pop()
            self._children.remove(child)
            self._give_back(child)

    def _send_next(self) -> None:
        child, unit = self._idle.pop(), self._waiting.popleft()
        try:
            _send(child, unit.item)
        except (ChildFailed, ValueError, OSError) as error:
            # It worked when it was built. Trying again for each unit could take a deadline each.
            kind = error.kind if isinstance(error, ChildFailed) else "crash"
            for failed in (unit, *self._waiting):
                self._fail(failed, kind, f"could not be restarted: {error}")
            self._waiting.clear()
            self._idle.append(child)
        else:
            self._running[child] = (unit, time.monotonic() + self._deadline_s)

    def _collect_replies(self) -> None:
        if not self._running:
            return
        first_deadline = min(deadline for _, deadline in self._running.values())
        channels = {child.channel: child for child in self._running}
        for ready in wait(list(channels), max(0.0, first_deadline - time.monotonic())):
            self._collect(channels[ready])  # type: ignore[index]  # it gives back what it was given

    def _collect(self, child: ChildProcess) -> None:
        unit, _ = self._running[child]
        try:
            reply = child.receive()
            if reply is None:  # the rest of it is still to come
                return
            self._finished[unit] = scores_from_data(reply, len(unit.item.completions))
        except BadReply as error:
            child.kill()
            self._fail(unit, "reply", str(error))
        except (EOFError, OSError):
            failed = child.end()
            self._fail(unit, failed.kind, f"the process {failed}")
        del self._running[child]
        self._idle.append(child)

    def _kill_overdue(self) -> None:
        for child, (unit, deadline) in list(self._running.items()):
            if deadline <= time.monotonic():
                child.kill()
                self._fail(unit, "timeout", f"no score within {self._deadline_s:g} s (deadline_s)")
                del self._running[child]
                self._idle.append(child)

    def _fail(self, unit: _Unit, kind: FailureKind, message: str) -> None:
        self._finished[unit] = [RewardFailure(kind, message)] * len(unit.item.completions)


def _send(child: ChildProcess, item: Item) -> None:
    child.ensure_started()
    try:
        child.send(item)
    except OSError:  # it ended while idle, which is no item's fault: once more
        child.kill()
        child.ensure_started()
        child.send(item)
