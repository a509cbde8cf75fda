"""The feeder: keeps the engines busy inside the staleness bound, so that the experience log never runs dry.

Given prompts by ordinal, workers, the log and a `StalenessBound`; gives nothing back: groups appear in the log. Every
ordinal ends up in the log once, as a group or, after `MAX_ATTEMPTS` failures, as a failure.

    task            waits for                                     is unblocked by
    admit           room: the bound, or the log's byte budget     a new weight version, a step trained, a group gone
    follow the log  groups that arrived                           the log, at the latest after 30 s
    follow worker   troubles                                      the worker, at the latest after 30 s; its death
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from raylign.actors.rollout_pool import RewardServerError, RolloutError, RolloutPool
from raylign.actors.rollout_worker import DeliveryError
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import Arrivals, ExperienceError
from raylign.rollout.sample import ENGINE_DIED, Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.staleness import StalenessBound

REPORT_S = 30.0
SIGN_OF_LIFE_S = 90.0
"""A process that answers nothing for so long is taken for dead."""
LOOK_S = 0.5
"""How often a new worker is asked whether it has the weights."""
MAX_REPLACEMENTS = 3
"""Of one worker in a run; one that dies more often will die again."""
MAX_ATTEMPTS = 3
"""Times that a prompt is generated before it is recorded as failed."""


@dataclass
class Running:
    """A group being generated."""

    prompt: Prompt
    worker: int
    since_version: int
    """Published version when it was handed to the worker: its tokens are of this version or later."""


@dataclass
class FeederCounts:
    """What happened since the last look; for metrics."""

    failed: int = 0
    """Prompts given up after `MAX_ATTEMPTS`."""
    refused: int = 0
    """Groups refused at the door, or failed in the engine, and generated anew."""
    reissued: int = 0
    """Prompts issued again for any reason."""
    aborted: int = 0
    """Groups ended early because they could not be used any more."""
    last_words: str = ""
    """Of the last group that failed or was refused."""
    busy_s: dict[int, float] = field(default_factory=dict)
    """By worker: time with at least one group running."""


class RolloutFeeder:
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
        replace_worker: Callable[[int], Awaitable[Callable[[], bool]]] | None = None,
    ) -> None:
        """`step`: steps trained so far, and the version that the engines hold. `missing`: ordinals below
        `next_ordinal` that are not in the log. `ordered`: deterministic runs, whose groups start in rounds.
        `aborts_stale`: a group whose first tokens are too old is worth nothing (policy `drop`).
        `replace_worker(number)` starts another in the place of one that died, and gives a function that says whether it
        has the weights."""
        self._pool, self._log, self._prompt = pool, log, prompt
        self._sampling, self._bound = sampling, bound
        self._num_steps = num_steps
        self._ordered, self._aborts_stale = ordered, aborts_stale
        self._replace_worker = replace_worker
        self._num_replaced: dict[int, int] = {}
        self._away: dict[int, Callable[[], bool] | None] = {}
        """Workers that nothing is routed to: dead, or new and (the function) perhaps without weights still."""
        self._again = list(missing)
        self._next_ordinal = next_ordinal
        self._attempts: dict[int, int] = {}
        self.running: dict[int, Running] = {}
        self.version = step
        self.num_trained_steps = step
        self._num_waiting = 0
        """Groups in the log that are to be trained and are not yet, as the log last said."""
        self._num_room: int | None = None
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.counts = FeederCounts()
        self._busy_since: dict[int, float] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Connect the workers to the log, then feed."""
        for number in self._pool.numbers:
            await self._pool.connect(number, self._log)
        self._heed(await self._log.arrivals.remote(0.0))
        self._tasks = [self._spawn(self._admit()), self._spawn(self._follow_log())]
        self._tasks += [self._spawn(self._follow_worker(number)) for number in self._pool.numbers]

    async def stop(self) -> None:
        """What still runs is given up; a resumed run issues it again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.failure.done():
            self.failure.exception()  # whoever waited for a batch has seen it

    def weights_arrived(self, version: int) -> None:
        """Engines sample from `version` from now on."""
        self.version = version
        if self._aborts_stale:
            self._abort_stale()
        self._changed.set()

    def step_trained(self, num_steps: int) -> None:
        """So many steps are trained; called before their groups are settled in the log."""
        self.num_trained_steps = num_steps

    def reissue(self, ordinals: Iterable[int]) -> None:
        """Generate these again: their groups were dropped."""
        ordinals = list(ordinals)
        self.counts.reissued += len(ordinals)
        self._again += ordinals
        self._changed.set()

    def take_counts(self) -> FeederCounts:
        """What happened since the last call."""
        now = time.perf_counter()
        for worker, since in self._busy_since.items():
            self.counts.busy_s[worker] = self.counts.busy_s.get(worker, 0.0) + now - since
            self._busy_since[worker] = now
        counts, self.counts = self.counts, FeederCounts()
        return counts

    def state(self) -> str:
        """Where things stand, for whoever waits."""
        room = "" if self._num_room != 0 else "; the log is full (experience.max_unread_mib)"
        return (
            f"{len(self.running)} groups running on {len(self._pool.numbers)} engines, {self._num_waiting} in the log, "
            f"{self._num_admissible()} more may start at version {self.version}{room}"
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
            self._welcome_back()
            count = self._num_admissible()
            if count and self._open_workers() and not (self._ordered and self.running):
                await self._issue([self._next() for _ in range(count)])
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self._away else REPORT_S):
                    await self._changed.wait()
            self._changed.clear()

    def _open_workers(self) -> list[int]:
        return [number for number in self._pool.numbers if number not in self._away]

    def _welcome_back(self) -> None:
        for number in [number for number, has_weights in self._away.items() if has_weights and has_weights()]:
            del self._away[number]

    def _next(self) -> int:
        if self._again:
            self._again.sort()
            return self._again.pop(0)
        self._next_ordinal += 1
        return self._next_ordinal - 1

    async def _issue(self, ordinals: list[int]) -> None:
        shares: dict[int, list[Prompt]] = {}
        numbers = self._open_workers()
        loads = dict.fromkeys(numbers, 0)
        for running in self.running.values():
            if running.worker in loads:
                loads[running.worker] += 1
        for ordinal in ordinals:
            # in deterministic runs the share of an engine must not depend on when the others answered
            worker = numbers[ordinal % len(numbers)] if self._ordered else min(loads, key=loads.__getitem__)
            loads[worker] += 1
            prompt = self._prompt(ordinal)
            shares.setdefault(worker, []).append(prompt)
            self.running[ordinal] = Running(prompt, worker, self.version)
            self._busy_since.setdefault(worker, time.perf_counter())
        for worker, prompts in shares.items():
            handle = self._pool.worker(worker)
            try:
                await handle.generate_for_log.remote(prompts, self._sampling, self._ordered)
            except Exception as error:  # whoever follows the worker learns of its death, and issues these again
                print(f"rollout worker {worker} took no prompts: {error}", flush=True)

    def _gone(self, ordinal: int) -> Running | None:
        """It runs no more."""
        running = self.running.pop(ordinal, None)
        if running and not any(other.worker == running.worker for other in self.running.values()):
            since = self._busy_since.pop(running.worker, None)
            if since is not None:
                busy = self.counts.busy_s.get(running.worker, 0.0)
                self.counts.busy_s[running.worker] = busy + time.perf_counter() - since
        self._changed.set()
        return running

    def _abort_stale(self) -> None:
        """Groups that began too early to be trained in any step to come."""
        too_old = self._bound.oldest_version(self.version)
        by_worker: dict[int, list[int]] = {}
        for ordinal, running in self.running.items():
            if running.since_version < too_old:
                by_worker.setdefault(running.worker, []).append(ordinal)
        for worker, ordinals in by_worker.items():
            self._tasks.append(self._spawn(self._abort(worker, ordinals)))

    async def _abort(self, worker: int, ordinals: list[int]) -> None:
        await self._pool.worker(worker).abort.remote(ordinals)
        for ordinal in ordinals:
            if running := self._gone(ordinal):
                self.counts.aborted += 1
                await self._failed(running.prompt, Failure("stale", "async", "it did not end inside the bound"))

    # ---- following -------------------------------------------------------------------------------------

    async def _follow_log(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REPORT_S + SIGN_OF_LIFE_S):
                    arrivals = await self._log.arrivals.remote(REPORT_S)
            except Exception as error:
                words = str(error) or f"no sign of life for {REPORT_S + SIGN_OF_LIFE_S:.0f} s"
                raise ExperienceError(f"the experience log's process failed: {words}; go on by --resume") from error
            self._heed(arrivals)

    def _heed(self, arrivals: Arrivals) -> None:
        self._num_waiting, self._num_room = arrivals.num_waiting, arrivals.num_room
        for ordinal in arrivals.ordinals:
            self._gone(ordinal)
            self._attempts.pop(ordinal, None)
        self._changed.set()

    async def _follow_worker(self, number: int) -> None:
        while True:
            try:
                async with asyncio.timeout(REPORT_S + SIGN_OF_LIFE_S):
                    troubles = await self._pool.worker(number).troubles.remote(REPORT_S)
                dead = next((failure.message for _, failure in troubles if failure.kind == ENGINE_DIED), None)
            except Exception as error:
                if number in self._away:  # somebody else is replacing it
                    await asyncio.sleep(LOOK_S)
                    continue
                root = getattr(error, "cause", None) or error  # Ray wraps what an actor raised
                if isinstance(root, DeliveryError):
                    kind = RewardServerError if root.party == "reward server" else ExperienceError
                    raise kind(str(root)) from error
                troubles, dead = [], str(error) or f"no sign of life for {REPORT_S + SIGN_OF_LIFE_S:.0f} s"
            if dead is not None:
                await self._replace(number, dead)
                continue
            for ordinal, failure in troubles:
                if running := self._gone(ordinal):
                    await self._failed(running.prompt, failure)

    async def _replace(self, number: int, last_words: str) -> None:
        """Another worker in the place of a dead one; its groups are issued again, to the others meanwhile."""
        lost = [ordinal for ordinal, running in self.running.items() if running.worker == number]
        words = f"rollout worker {number} died with {len(lost)} groups outstanding: {last_words}"
        times = self._num_replaced[number] = self._num_replaced.get(number, 0) + 1
        if self._replace_worker is None or times > MAX_REPLACEMENTS:
            raise RolloutError(words)
        print(f"{words}; starting another", flush=True)
        self.lose(number, None)
        try:
            has_weights = await self._replace_worker(number)
            await self._pool.connect(number, self._log)
        except Exception as error:
            raise RolloutError(f"{words}; another could not be started: {error}") from error
        self._away[number] = has_weights
        self._changed.set()

    def lose(self, number: int, has_weights: Callable[[], bool] | None) -> None:
        """Issue the groups of a worker again, and nothing to it until `has_weights` says so."""
        self._away[number] = has_weights
        lost = [ordinal for ordinal, running in self.running.items() if running.worker == number]
        for ordinal in lost:
            self._gone(ordinal)
        self.reissue(lost)

    async def connect(self, number: int) -> None:
        """A worker that somebody else started in the place of a lost one is there: hear its troubles."""
        await self._pool.connect(number, self._log)
        self._changed.set()

    async def _failed(self, prompt: Prompt, failure: Failure) -> None:
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

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._watch)
        return task

    def _watch(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failure.done():
            self.failure.set_exception(error)
