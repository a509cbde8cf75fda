"""What a step trains: groups from the log, made into examples while the learner still trains the step before.

Given the log, the algorithm and the staleness bound; gives a `StepBatch` for each step, in order. Groups without
anything to learn are replaced (dynamic sampling), tokens beyond the bound are masked or their group dropped; all of it
is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.metrics import rollout_metrics
from raylign.learners.algorithms.base import Algorithm
from raylign.learners.examples.example import Example
from raylign.rollout.sample import Group
from raylign.rollout.staleness import StalenessBound, too_old

REPORT_S = 30.0


class StuckError(RuntimeError):
    """No role can move: waiting longer would be waiting for ever."""


class ExhaustedError(RuntimeError):
    """Dynamic sampling found too few groups to learn from."""


@dataclass(frozen=True)
class Leased:
    """Groups handed out by the log, in its order."""

    lease_id: str
    groups: list[Group]
    offsets: list[int]


class GroupSource(Protocol):
    """Where groups come from: the log of this run, or a recorded one."""

    async def lease(self, count: int, step: int, wait_s: float) -> Leased | None:
        """`count` groups, or None when there are not so many within the wait."""

    async def mark_filtered(self, offsets: Sequence[int], step: int) -> None:
        """Nothing to learn from these."""

    async def mark_dropped(self, offsets: Sequence[int], step: int) -> list[int]:
        """Too old; gives the ordinals, to be generated again."""


@dataclass(frozen=True)
class StepBatch:
    """One step's worth of experience."""

    step: int
    groups: list[Group]
    examples: list[Example]
    lease_ids: list[str]
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the groups and of what was masked, dropped, filtered."""


@dataclass
class _Counts:
    filtered: int = 0
    dropped: int = 0


class StepBatches:
    """`await next(step)`, step after step."""

    def __init__(
        self,
        source: GroupSource,
        algorithm: Algorithm,
        config: TrainConfig,
        *,
        reissue: Callable[[list[int]], None],
        why_stuck: Callable[[], str | None],
        state: Callable[[], str],
    ) -> None:
        """`why_stuck`: words when no group can ever come; `state`: where things stand, for a long wait."""
        self._source, self._algorithm = source, algorithm
        self._bound = StalenessBound(
            config.asynchrony.max_staleness,
            config.rollout.prompts_per_step,
            algorithm.routing.generated_before if algorithm.routing else None,
        )
        self._max_staleness, self._stale = config.asynchrony.max_staleness, config.asynchrony.stale
        self._config, self._deadline_s = config, config.rollout.answer_deadline_s
        self._reissue, self._why_stuck, self._state = reissue, why_stuck, state
        self._ahead: asyncio.Task[StepBatch] | None = None

    def look_ahead(self, step: int) -> None:
        """Start to gather the batch of `step`; a later `next(step)` finds it done or under way."""
        self._ahead = asyncio.create_task(self._gather(step))

    async def next(self, step: int) -> StepBatch:
        """The batch of `step`."""
        ahead, self._ahead = self._ahead, None
        return await (ahead or self._gather(step))

    async def stop(self) -> None:
        """Give up looking ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)

    async def _gather(self, step: int) -> StepBatch:
        chosen: list[Group] = []
        lease_ids: list[str] = []
        counts = _Counts()
        needed = self._bound.num_before(step + 1) - self._bound.num_before(step)
        while (missing := needed - len(chosen)) > 0:
            if self._is_exhausted(counts.filtered, step, len(chosen), needed):
                break
            leased = await self._lease(missing, step)
            lease_ids.append(leased.lease_id)
            chosen += await self._useful(leased, step, counts)
        batch = make_batch(step, chosen, self._algorithm, self._config, lease_ids)
        batch.metrics["staleness/dropped_groups"] = float(counts.dropped)
        batch.metrics["rollout/filtered_groups"] = float(counts.filtered)
        return batch

    async def _lease(self, count: int, step: int) -> Leased:
        started_at = time.monotonic()
        while True:
            leased = await self._source.lease(count, step, REPORT_S)
            if leased is not None:
                return leased
            waited_s = time.monotonic() - started_at
            if why := self._why_stuck():
                raise StuckError(f"step {step + 1} cannot get its {count} groups, because {why}")
            if waited_s >= self._deadline_s:
                raise StuckError(
                    f"waited {waited_s:.0f} s for {count} groups of step {step + 1} (rollout.answer_deadline_s): "
                    + self._state()
                )
            print(f"waiting for {count} groups of step {step + 1} since {waited_s:.0f} s: {self._state()}", flush=True)

    async def _useful(self, leased: Leased, step: int, counts: _Counts) -> list[Group]:
        """Those of a lease that the step can learn from; the others are marked, and so replaced."""
        useful: list[Group] = []
        filtered: list[int] = []
        dropped: list[int] = []
        for group, offset in zip(leased.groups, leased.offsets, strict=True):
            if self._is_too_old(group, step):
                dropped.append(offset)
            elif not self._algorithm.accepts(group):
                filtered.append(offset)
            else:
                useful.append(group)
        if dropped:
            counts.dropped += len(dropped)
            self._reissue(await self._source.mark_dropped(dropped, step))
        if filtered:
            counts.filtered += len(filtered)
            await self._source.mark_filtered(filtered, step)
        return useful

    def _is_too_old(self, group: Group, step: int) -> bool:
        """Policy `drop`: any token beyond the bound; policy `mask`: all of them, so nothing would be left."""
        judge = any if self._stale == "drop" else all
        oldest = step - self._max_staleness
        spans = [span for completion in group.completions for span in completion.version_spans]
        return bool(spans) and judge(span.version < oldest for span in spans)

    def _is_exhausted(self, num_filtered: int, step: int, num_chosen: int, needed: int) -> bool:
        """Whether dynamic sampling ends with what there is; fails where the config says so."""
        dynamic = self._algorithm.dynamic_sampling
        if dynamic is None or num_filtered < dynamic.max_rounds * needed:
            return False
        words = (
            f"step {step + 1}: {num_filtered} groups had equal rewards, and only {num_chosen} of "
            f"{needed} are left to learn from (algorithm.dynamic_sampling.max_rounds)"
        )
        if dynamic.on_exhausted == "fail" or not num_chosen:
            raise ExhaustedError(f"{words}; the task is too easy or too hard for this policy, or its reward is broken")
        print(f"{words}; going on with fewer", flush=True)
        return True


def make_batch(
    step: int, groups: list[Group], algorithm: Algorithm, config: TrainConfig, lease_ids: list[str]
) -> StepBatch:
    """Examples of the groups, in an order that does not depend on the clock where the run is deterministic."""
    if config.rollout.deterministic:
        groups = sorted(groups, key=lambda group: group.prompt.ordinal)
    examples, num_masked = mask_too_old(algorithm.examples(groups), step, config.asynchrony.max_staleness)
    metrics = rollout_metrics(groups)
    metrics["time/reward_s"] = sum(group.timings_s.get("score", 0.0) for group in groups)
    metrics["staleness/masked_tokens"] = float(num_masked)
    return StepBatch(step, groups, examples, lease_ids, metrics)


def mask_too_old(examples: Sequence[Example], step: int, max_staleness: int) -> tuple[list[Example], int]:
    """The examples with tokens beyond the bound left out of the loss, and how many those are."""
    masked: list[Example] = []
    num_masked = 0
    for example in examples:
        if example.token_versions is None:
            masked.append(example)
            continue
        stale_T = too_old(example.token_versions, step, max_staleness)
        if stale_T.any():
            num_masked += int((stale_T & (example.loss_mask > 0)).sum())
            example = replace(example, loss_mask=example.loss_mask * ~stale_T)
        masked.append(example)
    return masked, num_masked
