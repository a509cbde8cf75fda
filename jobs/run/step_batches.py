"""What a step trains: groups from the log, made into examples while the learner still trains the step before.

Given the log, the curriculum and the staleness bound; gives a `StepBatch` for each step, in order. Groups without
anything to learn are replaced (dynamic sampling), tokens beyond the bound are masked or their group dropped; all of it
is counted.

    StepBatches.next ── _gather ── _lease ──▶ ExperienceHost.lease ── ExperienceLog.lease

Who waits for whom: `_lease` waits for the log to hold enough groups, at most `rollout.answer_deadline_s`, and says so
every 30 s; it ends at once when the supply of groups fails or can never move again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from raylign.actors.waiting import REPORT_S
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.run.log_calls import LOG_DEADLINE_S, answer, outcome
from raylign.jobs.run.metrics import rollout_metrics
from raylign.jobs.run.reward_failures import RewardFailures
from raylign.learners.examples.example import Example
from raylign.rollout.experience.types import Held, Lease
from raylign.rollout.sample import FloatArray, Group
from raylign.rollout.staleness import too_old


class StuckError(RuntimeError):
    """No role can move: waiting longer would be waiting for ever."""


class ExhaustedError(RuntimeError):
    """Dynamic sampling found too few groups to learn from."""

    says_it_all = True


class Supply(Protocol):
    """Whoever brings groups into the log."""

    failure: asyncio.Future[None]
    """Done, with its error, when it cannot go on."""

    def reissue(self, ordinals: Iterable[int]) -> None:
        """Generate these again."""

    @property
    def cannot_move(self) -> bool:
        """Nothing runs and nothing may start."""

    def state(self) -> str:
        """Where things stand, for whoever waits."""


@dataclass(frozen=True)
class StepBatch:
    """One step's worth of experience."""

    step: int
    groups: list[Group]
    examples: list[Example]
    lease_ids: list[str]
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the groups and of what was masked, dropped, filtered."""
    wait_s: float = 0.0
    """How long the loop waited for it."""


@dataclass
class _Counts:
    filtered: int = 0
    dropped: int = 0


class StepBatches:
    """`await next(step)`, step after step."""

    def __init__(
        self, log: Any, supply: Supply, curriculum: Curriculum, config: TrainConfig, looks_ahead: bool = False
    ) -> None:
        """`log`: handle of an `ExperienceHost`. `looks_ahead`: the batch after is gathered while one is trained."""
        self._log, self._supply, self._curriculum, self._config = log, supply, curriculum, config
        self._make, self._bound = curriculum.make, curriculum.bound(config.asynchrony.max_staleness)
        self._max_staleness, self._stale = config.asynchrony.max_staleness, config.asynchrony.stale
        self._deadline_s = config.rollout.answer_deadline_s
        self._lease_s = 2 * self._deadline_s + config.learner.step_deadline_s
        self._looks_ahead = looks_ahead
        # where the algorithm reads no rewards, those of an evaluation may not fit its rows
        allowed_share = config.rollout.max_reward_failures if config.algorithm.needs_rewards else 1.0
        self._failures = RewardFailures(allowed_share)
        self._ahead: asyncio.Task[StepBatch] | None = None
        self._held: dict[str, Held] = {}

    @property
    def held(self) -> list[Held]:
        """Leases that are not settled: those of the batch that is trained, and of the one that is gathered."""
        return [*self._held.values()]

    def settled(self, batch: StepBatch) -> None:
        """The log knows that the batch is trained."""
        for lease_id in batch.lease_ids:
            del self._held[lease_id]

    async def next(self, step: int) -> StepBatch:
        """The batch of `step`, as soon as it is there."""
        clock = time.perf_counter()
        ahead, self._ahead = self._ahead, None
        batch = await (ahead or self._gather(step))
        if self._looks_ahead and step + 1 < self._config.num_steps:
            self._ahead = asyncio.create_task(self._gather(step + 1))
        return replace(batch, wait_s=time.perf_counter() - clock)

    async def stop(self) -> None:
        """Give up looking ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)

    async def _gather(self, step: int) -> StepBatch:
        chosen: list[Group] = []
        came: list[Group] = []
        lease_ids: list[str] = []
        counts = _Counts()
        needed = self._bound.num_before(step + 1) - self._bound.num_before(step)
        while (missing := needed - len(chosen)) > 0:
            if self._is_exhausted(counts.filtered, step, len(chosen), needed):
                break
            if len(came) >= needed:
                self._failures.check_step(came, step)
            lease = await self._lease(missing, step)
            lease_ids.append(lease.lease_id)
            groups = with_importance(await asyncio.to_thread(lease.rows.groups), lease.weights)
            came += groups
            for group in groups:
                self._failures.add(group, step)
            chosen += await self._useful(lease, groups, step, counts)
        self._failures.check_step(came, step)
        batch = make_batch(step, chosen, self._curriculum, self._config, lease_ids)
        batch.metrics["staleness/dropped_groups"] = float(counts.dropped)
        batch.metrics["rollout/filtered_groups"] = float(counts.filtered)
        return batch

    async def _lease(self, count: int, step: int) -> Lease:
        started_at = time.monotonic()
        while True:
            call = asyncio.ensure_future(self._log.lease.remote(count, self._lease_s, step, REPORT_S, self.held))
            failure = self._supply.failure
            await asyncio.wait({call, failure}, timeout=REPORT_S + LOG_DEADLINE_S, return_when="FIRST_COMPLETED")
            if failure.done():
                call.cancel()
                failure.result()
            lease: Lease | None = outcome(call)
            if lease is not None:
                self._held[lease.lease_id] = Held(lease.lease_id, lease.offsets, tuple(lease.weights.tolist()))
                return lease
            waited_s, state = time.monotonic() - started_at, self._supply.state()
            if self._supply.cannot_move:
                raise StuckError(f"step {step + 1} cannot get its {count} groups, because nothing can start: {state}")
            what = f"{count} groups of step {step + 1}"
            if waited_s >= self._deadline_s:
                raise StuckError(f"waited {waited_s:.0f} s for {what} (rollout.answer_deadline_s): {state}")
            print(f"waiting for {what} since {waited_s:.0f} s: {state}", flush=True)

    async def _useful(self, lease: Lease, groups: list[Group], step: int, counts: _Counts) -> list[Group]:
        """Those of a lease that the step can learn from; the others are marked, and so replaced."""
        useful: list[Group] = []
        filtered: list[int] = []
        dropped: list[int] = []
        for group, offset in zip(groups, lease.offsets, strict=True):
            if self._is_too_old(group, step):
                dropped.append(offset)
            elif not self._make.accepts(group):
                filtered.append(offset)
            else:
                useful.append(group)
        if dropped:
            counts.dropped += len(dropped)
            self._supply.reissue(await answer(self._log.mark_dropped.remote(dropped, "stale", step)))
        if filtered:
            counts.filtered += len(filtered)
            await answer(self._log.mark_filtered.remote(filtered, step))
        return useful

    def _is_too_old(self, group: Group, step: int) -> bool:
        """Policy `drop`: any token beyond the bound; policy `mask`: all of them, so nothing would be left."""
        judge = any if self._stale == "drop" else all
        oldest = step - self._max_staleness
        spans = [span for completion in group.completions for span in completion.version_spans]
        return bool(spans) and judge(span.version < oldest for span in spans)

    def _is_exhausted(self, num_filtered: int, step: int, num_chosen: int, needed: int) -> bool:
        """Whether dynamic sampling ends with what there is; fails where the config says so."""
        dynamic = self._make.dynamic_sampling
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


def with_importance(groups: Sequence[Group], weights: FloatArray) -> list[Group]:
    """The groups with the importance weights that they were drawn with."""
    if bool(np.all(weights == 1.0)):
        return list(groups)
    return [replace(group, importance_weight=float(weight)) for group, weight in zip(groups, weights, strict=True)]


def make_batch(
    step: int, groups: list[Group], curriculum: Curriculum, config: TrainConfig, lease_ids: list[str]
) -> StepBatch:
    """Examples of the groups, in an order that does not depend on the clock where the run is deterministic."""
    if config.rollout.deterministic:
        groups = sorted(groups, key=lambda group: group.prompt.ordinal)
    examples, num_masked = mask_too_old(curriculum.examples(step, groups), step, config.asynchrony.max_staleness)
    metrics = rollout_metrics(groups, curriculum.make)
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
