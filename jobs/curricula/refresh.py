"""The policy's own answers to masked rows (BDR_Online): made beside the training, put in place together.

Given which rows are masked and the run's engines; gives for each row its answers, or none where its response stands.

    loop ── `at_step` ── due? ─▶ export weights ─▶ background: deliver ─▶ engines answer ─▶ all are there
                      ◀── the first `at_step` after that puts them in place: its batch already uses them

Who waits for whom: the loop waits for the export alone; at async.max_staleness 0 for the answers too. The background
task waits for the engines, with the deadlines of the publisher and the pool. If it fails, the next `at_step` raises its
error.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from raylign.learners.algorithms.facts import RefreshPlan
from raylign.learners.examples.row_shares import ROUNDING, bottom_rows
from raylign.rollout.experience.schema import batch_to_groups, groups_to_batch
from raylign.rollout.sample import Completion, FloatArray, Group

_MASK = 4
"""What this random stream is for, mixed into its seed (rollout/data/order.py has 1 and 2, SAIL's routes 3)."""
STOP_DEADLINE_S = 10.0
ANSWERS_FILE, STATE_FILE = "answers.arrow", "refresh.json"


class Engines(Protocol):
    """What a refresh needs of a run."""

    async def send_weights(self, version: int) -> Callable[[], Awaitable[None]]:
        """Set the learner's weights aside; gives what brings the engines to them."""

    async def answer(self, rows: Sequence[int], refresh: int) -> list[Group]:
        """The policy's answers to the questions of rows, in the order of `rows`."""

    async def row_weights(self) -> FloatArray:
        """(N,) the selector's current weights."""


@dataclass(frozen=True)
class Answers:
    """The answers of one refresh, all there."""

    step: int
    groups: dict[int, Group]
    """By row."""
    seconds: float


def fixed_rows(num_rows: int, share: float, seed: int) -> list[int]:
    """int(N·share) rows drawn without replacement, sorted."""
    random = np.random.Generator(np.random.PCG64([seed, _MASK]))
    return sorted(random.choice(num_rows, int(num_rows * share + ROUNDING), replace=False).tolist())


def refresh_is_due(step: int, last_step: int, plan: RefreshPlan) -> bool:
    """Whether answers are to be generated at the start of `step`, counted from 1. `last_step`: of the refresh before; 0
    after fixed rows got their first answers, −1 where dynamic ones have none yet."""
    return step >= plan.warmup_steps and step - last_step >= plan.every_steps


class Refresh:
    """Masked rows, their answers, and the next answers under way."""

    def __init__(self, plan: RefreshPlan, num_rows: int, seed: int, waits_for_answers: bool) -> None:
        self._plan, self._num_rows = plan, num_rows
        self._waits_for_answers = waits_for_answers
        self._fixed = [] if plan.dynamic else fixed_rows(num_rows, plan.masked_share, seed)
        self._last_step = -1 if plan.dynamic else 0
        """Of the last refresh that started."""
        self._under_way: asyncio.Task[Answers] | None = None
        self.groups: dict[int, Group] = {}
        """Masked rows, with the answers in use."""
        self.in_use_since = -1
        """Step at which those answers were asked for; −1 before any."""
        self.num_refreshes = 0

    def answers(self, row: int) -> tuple[Completion, ...] | None:
        """Usable answers of a masked row; None where the row's own response stands."""
        group = self.groups.get(row)
        return None if group is None else usable(group)

    async def begin(self, engines: Engines) -> dict[str, float]:
        """Fixed rows get their first answers before the first step; a resumed run has them already."""
        if self._plan.dynamic or self.in_use_since >= 0:
            return {}
        return await self._finish(await self._start(0, engines))

    async def at_step(self, step: int, engines: Engines) -> dict[str, float]:
        """Before the batch of `step`, counted from 1: put answers in place that are there, ask for new ones if due.
        Gives metrics of answers put in place."""
        metrics: dict[str, float] = {}
        if self._under_way is not None and self._under_way.done():
            metrics = await self._finish(self._under_way)
        due = refresh_is_due(step, self._last_step, self._plan)
        if due and self._under_way is None:
            self._under_way = await self._start(step, engines)
            if self._waits_for_answers:
                metrics = await self._finish(self._under_way)
        return metrics

    async def settle(self) -> None:
        """Wait for answers under way; `at_step` then puts them in place. Engines are free for other work after it."""
        if self._under_way is not None:
            await asyncio.wait({self._under_way})

    async def stop(self) -> None:
        """Give up what is under way; a resumed run asks again."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait({self._under_way}, timeout=STOP_DEADLINE_S)
            self._under_way = None

    async def _start(self, step: int, engines: Engines) -> asyncio.Task[Answers]:
        self._last_step = step
        rows = self._fixed
        if self._plan.dynamic:
            rows = bottom_rows(await engines.row_weights(), self._plan.masked_share)
        deliver = await engines.send_weights(max(0, step - 1))  # step s begins with the weights of s − 1 steps
        return asyncio.create_task(self._answer(step, rows, deliver, engines))

    async def _answer(
        self, step: int, rows: list[int], deliver: Callable[[], Awaitable[None]], engines: Engines
    ) -> Answers:
        clock = time.perf_counter()
        await deliver()
        groups = await engines.answer(rows, self.num_refreshes)
        return Answers(step, dict(zip(rows, groups, strict=True)), time.perf_counter() - clock)

    async def _finish(self, task: asyncio.Task[Answers]) -> dict[str, float]:
        """All answers at once; a row that no engine could answer keeps those that it had."""
        new = await task
        self._under_way = None
        failed = [row for row, group in new.groups.items() if not group.completions]
        kept = {row: self.groups[row] for row in failed if row in self.groups}
        self.groups = new.groups | kept
        self.in_use_since = new.step
        self.num_refreshes += 1
        completions = [completion for group in new.groups.values() for completion in group.completions]
        num_usable = sum(len(usable(group)) for group in new.groups.values())
        return {
            "refresh/rows": float(len(new.groups)),
            "refresh/failed_rows": float(len(failed)),
            "refresh/unusable_share": 1 - num_usable / max(1, len(completions)),
            "refresh/tokens": float(sum(group.num_tokens for group in new.groups.values())),
            "refresh/seconds": new.seconds,
            "refresh/asked_at_step": float(new.step),
        }

    def save(self, folder: Path) -> None:
        """Answers in use and which refresh they are of."""
        folder.mkdir(parents=True, exist_ok=True)
        batch = groups_to_batch(list(self.groups.values()))
        with pa.OSFile(str(folder / ANSWERS_FILE), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        state = {"rows": list(self.groups), "in_use_since": self.in_use_since, "num_refreshes": self.num_refreshes}
        (folder / STATE_FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """What `save` wrote. Answers that were under way then are asked for again, as soon as their step comes."""
        try:
            state = json.loads((folder / STATE_FILE).read_text())
            with pa.OSFile(str(folder / ANSWERS_FILE), "rb") as file:
                batch = pa.ipc.open_file(file).get_batch(0)
            self.groups = dict(zip(map(int, state["rows"]), batch_to_groups(batch), strict=True))
            self.in_use_since, self.num_refreshes = int(state["in_use_since"]), int(state["num_refreshes"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{folder}: {STATE_FILE} or {ANSWERS_FILE} is damaged ({error}); remove the checkpoint, and the run "
                "goes on from the one before"
            ) from error
        if self.in_use_since >= 0:
            self._last_step = self.in_use_since


def usable(group: Group) -> tuple[Completion, ...]:
    """Answers with text in them. The public code puts an apology in place of an empty one, which no policy sampled."""
    return tuple(
        completion
        for completion in group.completions
        if len(completion.token_ids) and completion.text.strip() and completion.stop_reason != "aborted"
    )
