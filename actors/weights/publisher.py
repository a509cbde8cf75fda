"""Weight updates as checked transactions: export → prepare → transfer → verify → commit.

Given the learner group and the rollout workers; gives all workers on the new version, or an error that says which side
failed.

    export     the learner writes its weights for engines to fetch; then it may train on
    prepare    engines check what was written (they still generate), then freeze their requests
    transfer   every engine loads every bucket
    verify     engines report a digest over what they hold; what most of them report is right
    commit     engines label what they sample from now on, forget keys and values of older weights, and go on

Who waits for whom: engines stand still from the end of prepare to commit, waiting for this transaction alone, and for
each other only within a phase; every call has the deadline of `WeightsConfig`, so a long transfer is fine as long as
buckets keep arriving. An engine that fails is STALE (it may hold a mixture of versions): the others go on, it is sent
the whole version once more, and if that fails too, or its process is dead, it is replaced. It never resumes before it
holds a whole version.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from raylign.actors.weights.calls import answer_of
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.update import (
    NEXT_PHASES,
    EngineState,
    ExportedWeights,
    Phase,
    WeightUpdate,
    WeightUpdateError,
)

CALL_BYTES = 2 << 30
"""An engine loads about so much in one call, so that the deadline of a call does not grow with the model."""
Failures = dict[int, WeightUpdateError]
ReplaceEngine = Callable[[int], Awaitable[Any]]


class WeightPublisher:
    """The one owner of weight updates, and so of `pause` during them.

    Handles are Ray actor handles, or `LocalHandle`s: `handle.verb.remote(...)` is awaited. The learner has the
    awaitable verbs `export_weights(version)` (a list of bucket descriptions) and `release_weights()`; for nccl and ipc
    `connect_weights(transport, handles)` and `send_weights(version)`, run on all its ranks.
    """

    def __init__(
        self,
        engines: Sequence[Any],
        learner: Any,
        config: WeightsConfig,
        version: int = 0,
        replace_engine: ReplaceEngine | None = None,
        engines_are_current: bool = True,
    ) -> None:
        """`version` is what the learner was started from, and the engines too if they are current; else they serve
        nothing before `catch_up` (an engine that is sent adapters starts without one). `replace_engine(number)` ends
        that engine, starts another and gives its handle, or raises; without it an engine that fails for good fails the
        update."""
        self._engines: dict[int, Any] = dict(enumerate(engines))
        self._learner = learner
        self._config = config
        self._through_memory = config.transport in ("auto", "shared_memory")
        self._replace_engine = replace_engine
        self._replacing: set[asyncio.Task[None]] = set()
        self._connected: tuple[int, ...] = ()
        self._exported: ExportedWeights | None = None
        self._alone = asyncio.Lock()
        self._is_asked = False
        self._target = version
        self.states = dict.fromkeys(self._engines, EngineState.CURRENT if engines_are_current else EngineState.STALE)
        self.version = self._started_from = version
        self.digest: str | None = None
        self.phase = Phase.IDLE
        self.last: WeightUpdate | None = None

    def add_engine(self, handle: Any, number: int | None = None) -> int:
        """An engine that (re)joins; it is STALE and routed nothing until `catch_up` or the next delivery."""
        number = max(self._engines, default=-1) + 1 if number is None else number
        self._engines[number] = handle
        self.states[number] = EngineState.STALE
        return number

    def remove_engine(self, number: int) -> None:
        """An engine that is gone."""
        self._engines.pop(number, None)
        self.states.pop(number, None)

    async def close(self) -> None:
        """Give up replacements under way, and the memory that the last export holds."""
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        self._exported = None
        if self._through_memory:
            await self._learner.release_weights()

    async def publish(self, version: int) -> dict[str, float]:
        """Bring every engine to the learner's current weights under this label; gives metrics."""
        return await self.deliver(await self.export(version))

    async def export(self, version: int) -> ExportedWeights:
        """Set the learner's current weights aside under this label; afterwards the learner may train on.

        They stay where they are until the next export. With nccl and ipc nothing is set aside: the learner must hold
        its weights still until they are delivered.
        """
        async with self._asked("export before or after it"):
            if version <= self.version:
                raise ValueError(f"version {version} is not newer than the published version {self.version}")
            return await self._export(version)

    async def deliver(self, exported: ExportedWeights) -> dict[str, float]:
        """Bring every engine to the weights of the last `export`; gives metrics.

        With `replace_engine` it returns once an engine serves the version: engines that failed for good are replaced
        in the background and then catch up by themselves.
        """
        async with self._asked("one at a time"):
            if exported is not self._exported or exported.version <= self.version:
                raise RuntimeError(f"version {exported.version} was delivered already, or another was exported since")
            update = await self._update(exported, list(self._engines), must_match=None)
            self.version, self.digest = exported.version, update.digest
            return update.metrics()

    async def catch_up(self) -> None:
        """Bring STALE engines to the published version: their digest must match."""
        async with self._asked("one at a time"):
            await self._catch_up()

    @asynccontextmanager
    async def _asked(self, advice: str) -> AsyncIterator[None]:
        """Refuse a second caller; wait for a replaced engine that is just catching up."""
        if self._is_asked:
            raise RuntimeError(f"an update is in phase {self.phase}: {advice}")
        self._is_asked = True
        try:
            async with self._alone:
                yield
        finally:
            self._is_asked = False

    async def _export(self, version: int) -> ExportedWeights:
        self._enter(Phase.EXPORT)
        self._target, self._exported = version, None
        started_at = time.perf_counter()
        try:
            buckets = await self._call("learner", self._learner.export_weights(version)) if self._through_memory else []
        finally:
            self._enter(Phase.IDLE)
        self._exported = ExportedWeights(version, tuple(buckets), time.perf_counter() - started_at)
        return self._exported

    async def _catch_up(self) -> None:
        stale = [number for number in self._engines if self.states[number] is EngineState.STALE]
        exported = self._exported
        if not stale or (exported is not None and exported.version > self.version):
            return  # the next delivery brings it
        if exported is None:  # nothing was delivered yet: the learner still holds what the engines were started from
            current = [number for number in self._engines if number not in stale]
            if self.digest is None and current:
                digests, failures = await self._on(current, "weight_checksum")
                self.digest = majority(digests.values())
                if self.digest is None:
                    raise next(iter(failures.values()), RuntimeError(f"engines hold different weights: {digests}"))
            exported = await self._export(self.version)
        try:
            self.last = await self._update(exported, stale, must_match=self.digest)
        except WeightUpdateError:
            if self.version == self._started_from:
                self._exported = None  # perhaps not what the engines were started from
            raise

    # ---- one version to some engines --------------------------------------------------------------------

    async def _update(self, exported: ExportedWeights, numbers: list[int], must_match: str | None) -> WeightUpdate:
        """Send it; send it again to whom that failed for; replace for whom it failed again. An error if nobody has
        it then, or nobody replaces."""
        self._target = exported.version
        if not numbers:
            raise WeightUpdateError("the engines", self.phase, self._target, None, "none is left")
        update, failures = await self._send_twice(exported, numbers, must_match)
        if failures and self._replace_engine is None:
            await self._resume_untouched(failures)
            self._enter(Phase.IDLE)
            raise next(iter(failures.values()))
        for number in failures:
            self._engines.pop(number)
            self.states[number] = EngineState.STALE
        if update is None:  # nobody else serves: wait for the new ones
            self._enter(Phase.IDLE)
            await asyncio.gather(*(self._replace(number) for number in failures))
            new = [number for number in failures if number in self._engines]
            update, failures_of_new = await self._send_twice(exported, new, must_match)
            if new:
                self._enter(Phase.IDLE)
            if update is None:
                raise next(iter((failures_of_new or failures).values()))
        else:
            self._enter(Phase.IDLE)
            for number in failures:
                task = asyncio.create_task(self._replace_and_catch_up(number))
                self._replacing.add(task)
                task.add_done_callback(self._replacing.discard)
        self.last = dataclasses.replace(update, num_replaced=len(failures))
        return self.last

    async def _replace(self, number: int) -> None:
        """Put another engine in its place; none where that fails."""
        assert self._replace_engine is not None
        try:
            self.add_engine(await self._replace_engine(number), number)
        except Exception as error:  # one engine less is no reason to end the run; none left is, and is noticed
            self.states.pop(number, None)
            print(f"engine {number} could not be replaced: {type(error).__name__}: {error}", flush=True)

    async def _replace_and_catch_up(self, number: int) -> None:
        await self._replace(number)
        async with self._alone:
            try:
                await self._catch_up()
            except WeightUpdateError as error:  # it stays STALE, and the next delivery tries again
                print(f"engine {number} was replaced, but {error}", flush=True)

    async def _send_twice(
        self, exported: ExportedWeights, numbers: list[int], must_match: str | None
    ) -> tuple[WeightUpdate | None, Failures]:
        update, failures = await self._send(exported, numbers, must_match)
        again = [number for number, error in failures.items() if not error.died]
        if again:
            print(f"{failures[again[0]]}; sending the whole version again", flush=True)
            expected = update.digest if update else must_match
            second, failures_again = await self._send(exported, again, expected)
            failures = {number: error for number, error in failures.items() if error.died} | failures_again
            update = update or second
            update = update and dataclasses.replace(update, num_attempts=2)
        return update, failures

    async def _send(
        self, exported: ExportedWeights, numbers: list[int], must_match: str | None
    ) -> tuple[WeightUpdate | None, Failures]:
        """One attempt. Engines that fail drop out, and are told why at the end; the others go on."""
        if not numbers:
            return None, {}
        failures: Failures = {}
        started_at = time.perf_counter()
        self._enter(Phase.PREPARE)
        for buckets in exported.calls(CALL_BYTES):
            numbers = await self._those_who(numbers, failures, "check_weights", buckets)
        checked_at = time.perf_counter()
        numbers = await self._those_who(numbers, failures, "pause")
        paused_at = time.perf_counter()

        self._enter(Phase.TRANSFER)
        self.states |= dict.fromkeys(numbers, EngineState.STALE)
        digests: dict[int, str] = {}
        if self._through_memory:
            for buckets in exported.calls(CALL_BYTES):  # the last call gives the digest of what they hold then
                digests, failed = await self._on(numbers, "load_weights", buckets)
                failures |= failed
                numbers = list(digests)
        else:
            numbers = await self._send_from_learner(numbers, failures)
            digests, failed = await self._on(numbers, "weight_checksum")
            failures |= failed
        loaded_at = time.perf_counter()

        self._enter(Phase.VERIFY)
        digest = must_match or majority(digests.values())
        for number, found in digests.items():
            if found != digest:
                cause = f"its weights have digest {found}, not {digest or 'that of most engines'}"
                failures[number] = WeightUpdateError(f"engine {number}", self.phase, self._target, None, cause)
        numbers = [number for number in digests if number not in failures]

        self._enter(Phase.COMMIT)
        numbers = await self._those_who(numbers, failures, "commit_weights", self._target, self._config.recompute_kv)
        ended_at = time.perf_counter()
        self.states |= dict.fromkeys(numbers, EngineState.CURRENT)
        if failures:
            await self._abort(failures)
        if not numbers:
            return None, failures
        assert digest is not None
        update = WeightUpdate(
            version=self._target,
            digest=digest,
            num_bytes=exported.num_bytes,
            num_buckets=len(exported.buckets),
            export_s=exported.export_s,
            deliver_s=ended_at - started_at,
            pause_s=ended_at - checked_at,
            load_s=loaded_at - paused_at,
            num_attempts=1,
        )
        return update, failures

    async def _send_from_learner(self, numbers: list[int], failures: Failures) -> list[int]:
        """nccl and ipc: the trainer's end drives start, update and finish on all engines itself."""
        try:
            if self._connected != tuple(numbers):
                handles = [self._engines[number] for number in numbers]
                await self._call("learner", self._learner.connect_weights(self._config.transport, handles))
                self._connected = tuple(numbers)
            await self._call("learner", self._learner.send_weights(self._target))
        except WeightUpdateError as error:
            self._connected = ()
            failures |= dict.fromkeys(numbers, error)
            return []
        return numbers

    async def _abort(self, failures: Failures) -> None:
        """Tell those that failed why. Whom the update has touched stays frozen and STALE."""
        self._enter(Phase.ABORT)
        touched = {n: error for n, error in failures.items() if self.states[n] is EngineState.STALE and not error.died}
        told = await asyncio.gather(
            *(self._on_engine(number, "abort_weight_update", str(error)) for number, error in touched.items()),
            return_exceptions=True,
        )
        for outcome in told:
            if isinstance(outcome, BaseException):
                print(f"while aborting: {outcome}", flush=True)

    async def _resume_untouched(self, failures: Failures) -> None:
        """Engines that still hold the old version whole go on with it."""
        untouched = [number for number in failures if self.states[number] is EngineState.CURRENT]
        await self._on(untouched, "resume")

    async def _those_who(self, numbers: list[int], failures: Failures, verb: str, *arguments: Any) -> list[int]:
        """Call a verb on each; the numbers of those that did it."""
        answers, failed = await self._on(numbers, verb, *arguments)
        failures |= failed
        return list(answers)

    async def _on(self, numbers: list[int], verb: str, *arguments: Any) -> tuple[dict[int, Any], Failures]:
        """Answers and failures by number, once every call has ended: nothing of a phase outlasts it."""
        outcomes = await asyncio.gather(
            *(self._on_engine(number, verb, *arguments) for number in numbers), return_exceptions=True
        )
        answers, failures = {}, {}
        for number, outcome in zip(numbers, outcomes, strict=True):
            if isinstance(outcome, WeightUpdateError):
                failures[number] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers[number] = outcome
        return answers, failures

    async def _on_engine(self, number: int, verb: str, *arguments: Any) -> Any:
        return await self._call(f"engine {number}", getattr(self._engines[number], verb).remote(*arguments))

    async def _call(self, side: str, answer: Awaitable[Any]) -> Any:
        return await answer_of(side, answer, self.phase, self._target, self._config.deadline_s)

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT_PHASES[self.phase]:
            raise RuntimeError(f"a weight update in phase `{self.phase}` cannot go on to `{phase}`")
        self.phase = phase


def majority(digests: Iterable[str]) -> str | None:
    """What more than half of the engines report; None where they disagree so much that nobody can be believed."""
    digests = list(digests)
    counts = Counter(digests).most_common(1)
    return counts[0][0] if counts and 2 * counts[0][1] > len(digests) else None
