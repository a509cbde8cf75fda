"""The feeder: keeps the engines busy inside the staleness bound, so that the experience log never runs dry.

Given prompts by ordinal, a pool, the log and a `StalenessBound`; gives nothing back: groups appear in the log. Every
ordinal ends up in the log once, as a group or, after `MAX_ATTEMPTS` failures, as a failure.

    task            waits for                                     is unblocked by
    admit           room: the bound, or the log's byte budget     a new weight version, a step trained, a group gone
    admit           an engine that serves                         the fleet, after a weight update or a replacement
    follow log      groups that arrived                           the log, at the latest after `POLL_S`
    follow engine   groups that failed                            its worker, at the latest after `POLL_S`; its death
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from raylign.actors.fleet import Engine, EngineState, FleetObserver
from raylign.actors.rollout_errors import DeliveryError, RewardServerError, RolloutError
from raylign.actors.rollout_pool import RolloutPool
from raylign.actors.running_groups import Running, RunningGroups
from raylign.actors.waiting import POLL_S, REPORT_S, SIGN_OF_LIFE_S, happens, wait_for
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import Arrivals, ExperienceError
from raylign.rollout.sample import ENGINE_DIED, Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.staleness import StalenessBound

MAX_ATTEMPTS = 3
"""Times that a prompt is generated before it is recorded as failed."""


@dataclass
class FeederCounts:
    """What happened since the last look; for metrics."""

    failed: int = 0
    """Prompts given up after `MAX_ATTEMPTS`."""
    refused: int = 0
    """Groups that failed in the engine, or whose answers are not valid, and that are generated anew."""
    reissued: int = 0
    """Prompts issued again for any reason."""
    aborted: int = 0
    """Groups ended early because they could not be used any more."""
    last_words: str = ""
    """Of the last group that failed or was refused."""
    busy_s: dict[int, float] = field(default_factory=dict)
    """By engine: time with at least one group running."""
    log_fill: float = 0.0
    """When the step began: groups in the log, as a share of those that the bound allows."""
    num_engines: float = 0.0
    """Mean over the time."""
    was_resized: bool = False
    """Whether their number has ever changed."""


class RolloutFeeder(FleetObserver):
    """Runs between `start` and `stop`; `failure` is set when it cannot go on."""

    def __init__(
        self,
        pool: RolloutPool,
        log: Any,
        prompt: Callable[[int], Prompt],
        sampling: SamplingConfig,
        bound: StalenessBound,
        *,
        step: int,
        num_steps: int,
        missing: Iterable[int],
        next_ordinal: int,
        ordered: bool,
        aborts_stale: bool,
    ) -> None:
        """`step`: steps trained so far, and the version that the engines hold. `missing`: ordinals below
        `next_ordinal` that are not in the log. `ordered`: deterministic runs, whose groups start in rounds, shared by
        ordinal, and only when the loop asks for them. `aborts_stale`: a group whose first tokens are too old is worth
        nothing (policy `drop`)."""
        self._pool, self._fleet, self._log, self._prompt = pool, pool.fleet, log, prompt
        self._sampling, self._bound = sampling, bound
        self._num_steps = num_steps
        self._ordered, self._aborts_stale = ordered, aborts_stale
        self._to_reissue = list(missing)
        self._next_ordinal = next_ordinal
        self._attempts: dict[int, int] = {}
        self.running = RunningGroups()
        self.version = self._published_version = step
        self.num_trained_steps = step
        self._num_waiting = 0
        """Groups in the log that are to be trained and are not yet, as the log last said."""
        self._num_room: int | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = FeederCounts()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Connect the workers to the log, then feed."""
        self._fleet.raise_if_failed()
        self._fleet.observe(self)
        for engine in self._fleet.engines:
            await self.engine_started(engine)
        self._on_arrivals(await self._log.arrivals.remote(0.0))
        self._spawn(self._admit())
        self._spawn(self._follow_log())

    async def stop(self) -> None:
        """What still runs is given up; a resumed run issues it again."""
        self._fleet.unobserve(self)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fleet.let_go()
        if self.failure.done():
            self.failure.exception()  # whoever waited for a batch has seen it

    # ---- what others tell ------------------------------------------------------------------------------

    def weights_arrived(self, version: int) -> None:
        """Engines sample from `version` from now on. A deterministic run takes note when its next step begins: until
        then an evaluation may have the engines, whose answers would depend on what else they generate."""
        self._published_version = version
        if not self._ordered:
            self._use_published_version()

    def begin_step(self) -> None:
        """The loop asks for the groups of its next step: no evaluation runs."""
        if self.version != self._published_version:
            self._use_published_version()
        step = self.num_trained_steps
        most = self._bound.num_before(step + self._bound.max_staleness + 1) - self._bound.num_before(step)
        self.counts.log_fill = min(1.0, self._num_waiting / max(1, most))

    def _use_published_version(self) -> None:
        self.version = self._published_version
        if self._aborts_stale:  # groups that began too early to be trained in any step to come
            for engine, ordinals in self.running.older_than(self._bound.oldest_version(self.version)).items():
                self._spawn(self._abort(engine, ordinals))
        self._changed.set()

    def step_trained(self, num_steps: int) -> None:
        """So many steps are trained; called before their groups are settled in the log."""
        self.num_trained_steps = num_steps

    def reissue(self, ordinals: Iterable[int]) -> None:
        """Generate these again: their groups were dropped."""
        ordinals = list(ordinals)
        self.counts.reissued += len(ordinals)
        self._to_reissue += ordinals
        self._changed.set()

    def engine_lost(self, engine: Engine) -> None:
        """Its groups are issued again, to the others meanwhile."""
        lost = self.running.on(engine)
        for ordinal in lost:
            self._finish(ordinal)
        self.reissue(lost)

    async def engine_started(self, engine: Engine) -> None:
        """Its worker is connected to the log, and followed."""
        await self._pool.connect(engine, self._log)
        self._spawn(self._follow_engine(engine))

    def engine_ready(self, engine: Engine) -> None:
        """It gets work again."""
        self._changed.set()

    def still_uses(self, engine: Engine) -> bool:
        """A group is its until the log has it."""
        return bool(self.running.on(engine))

    def fleet_failed(self, error: RolloutError) -> None:
        """Whoever waits for groups gets the error."""
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """No group may ever come: whoever waits for a batch gets the error."""
        if not self.failure.done():
            self.failure.set_exception(error)

    # ---- what others ask -------------------------------------------------------------------------------

    def take_counts(self) -> FeederCounts:
        """What happened since the last call."""
        counts, self.counts = self.counts, FeederCounts()
        counts.busy_s, counts.num_engines = self.running.take_busy_s(), self._fleet.mean_count.take()
        counts.was_resized = self._fleet.mean_count.has_changed
        return counts

    def state(self) -> str:
        """Where things stand, for whoever waits."""
        room = "" if self._num_room != 0 else "; the log is full (experience.max_unread_mib)"
        return (
            f"{len(self.running)} groups running on {len(self._fleet.serving)} engines, "
            f"{self._num_waiting} in the log, {self._num_admissible()} more may start at version {self.version}{room}"
        )

    @property
    def cannot_move(self) -> bool:
        """Nothing runs and nothing may start: whoever waits for groups would wait for ever."""
        return not self.running and not self._num_admissible() and self._num_room != 0

    # ---- issuing ---------------------------------------------------------------------------------------

    def _num_admissible(self) -> int:
        accepted = self._bound.num_before(self.num_trained_steps) + self._num_waiting
        count = self._bound.num_admissible(self.version, accepted, len(self.running))
        left = self._bound.num_before(self._num_steps) - accepted - len(self.running)
        if self._num_room is not None:
            count = min(count, self._num_room - len(self.running))
        return max(0, min(count, left))

    async def _admit(self) -> None:
        while True:
            count = self._num_admissible()
            if count and self._fleet.serving and not (self._ordered and self.running):
                await self._issue([self._next() for _ in range(count)])
                continue
            await happens(self._changed, REPORT_S)
            self._changed.clear()

    def _next(self) -> int:
        if self._to_reissue:
            self._to_reissue.sort()
            return self._to_reissue.pop(0)
        self._next_ordinal += 1
        return self._next_ordinal - 1

    async def _issue(self, ordinals: list[int]) -> None:
        shares: dict[Engine, list[Prompt]] = {}
        serving = self._fleet.serving
        for ordinal in ordinals:
            # in deterministic runs the share of an engine must not depend on when the others answered
            by_ordinal = serving[ordinal % len(serving)]
            engine = by_ordinal if self._ordered else self.running.least_loaded(serving)
            prompt = self._prompt(ordinal)
            shares.setdefault(engine, []).append(prompt)
            self.running.add(ordinal, Running(prompt, engine, self.version))
        for engine, prompts in shares.items():
            try:
                await engine.handle.generate_for_log.remote(prompts, self._sampling, self._ordered)
            except Exception as error:  # whoever follows the engine learns of its death, and issues these again
                print(f"rollout worker {engine.number} took no prompts: {error}", flush=True)

    def _finish(self, ordinal: int) -> Running | None:
        """It runs no more."""
        self._changed.set()
        running = self.running.remove(ordinal)
        if running is not None and running.engine.is_leaving:
            self._fleet.let_go()
        return running

    async def _abort(self, engine: Engine, ordinals: list[int]) -> None:
        try:
            await wait_for(engine.handle.abort.remote(ordinals), f"rollout worker {engine.number}", SIGN_OF_LIFE_S)
        except Exception as error:  # as in `_issue`
            print(f"rollout worker {engine.number} could not end groups: {error}", flush=True)
            return
        for ordinal in ordinals:
            if running := self._finish(ordinal):
                self.counts.aborted += 1
                await self._retry(running.prompt, Failure("stale", "async", "it did not end inside the bound"))

    # ---- following -------------------------------------------------------------------------------------

    async def _follow_log(self) -> None:
        while True:
            try:
                arrivals = await wait_for(self._log.arrivals.remote(POLL_S), "the experience log", SIGN_OF_LIFE_S)
            except Exception as error:
                raise ExperienceError(f"the experience log's process failed: {error}; go on by --resume") from error
            self._on_arrivals(arrivals)

    def _on_arrivals(self, arrivals: Arrivals) -> None:
        self._num_waiting, self._num_room = arrivals.num_waiting, arrivals.num_room
        for ordinal in arrivals.ordinals:
            self._finish(ordinal)
            self._attempts.pop(ordinal, None)
        self._changed.set()

    async def _follow_engine(self, engine: Engine) -> None:
        """Until it is dead, whoever finds out."""
        name = f"rollout worker {engine.number}"
        while engine.state is not EngineState.DEAD:
            try:
                failures = await wait_for(engine.handle.poll_failures.remote(POLL_S), name, SIGN_OF_LIFE_S)
                cause_of_death = next((failure.message for _, failure in failures if failure.kind == ENGINE_DIED), None)
            except DeliveryError as error:
                kind = RewardServerError if error.party == "reward server" else ExperienceError
                raise kind(str(error)) from error
            except Exception as error:
                failures, cause_of_death = [], str(error)
            if cause_of_death is not None:
                num_lost = len(self.running.on(engine))
                self._fleet.mark_lost(engine, f"{name} died with {num_lost} groups outstanding: {cause_of_death}")
                return
            for ordinal, failure in failures:
                if running := self._finish(ordinal):
                    await self._retry(running.prompt, failure)

    async def _retry(self, prompt: Prompt, failure: Failure) -> None:
        """Again, or given up and recorded."""
        attempts = self._attempts[prompt.ordinal] = self._attempts.get(prompt.ordinal, 0) + 1
        self.counts.refused += failure.kind != "stale"
        self.counts.last_words = failure.message
        if attempts < MAX_ATTEMPTS:
            self.reissue([prompt.ordinal])
            return
        self.counts.failed += 1
        print(f"prompt {prompt.prompt_id} failed {attempts} times and is given up: {failure.message}", flush=True)
        group = Group(prompt, (), failures=(failure,))
        await self._log.append.remote(batch_to_message(groups_to_batch([group])))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
