"""Weight updates as checked transactions: prepare → transfer → verify → commit → resume.

Given the learner group and the rollout workers; gives either all workers on the new version, or an error that says
which side failed.

    prepare    the learner writes its weights for engines to fetch; engines freeze their requests
    transfer   every engine loads every bucket (one call a bucket, checksum verified before it is loaded)
    verify     all engines report one digest over what they hold
    commit     engines label what they sample from now on; keys and values of older weights are forgotten
    resume     frozen requests go on, with the new weights

Who waits for whom: engines stand still from prepare to resume, waiting for this transaction alone; every call has
the deadline of `WeightsConfig`, so a long transfer is fine as long as buckets keep arriving. Any failure aborts:
engines are STALE (they may hold a mixture of versions), are sent the whole version once more, and never resume before
they hold it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from raylign.actors.weight_update import (
    NEXT_PHASES,
    EngineState,
    ExportedWeights,
    Phase,
    WeightUpdate,
    WeightUpdateError,
)

REPORT_S = 30.0
NUM_ATTEMPTS = 2


class WeightsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """How weights travel from the learner to the engines."""

    transport: Literal["auto", "shared_memory", "ipc", "nccl"] = "auto"
    """shared_memory: through the memory of the one node that learner and engines share, with or without GPUs; nccl:
    between GPUs of any nodes; ipc: engine and learner on the same GPUs; auto: shared_memory."""
    bucket_mib: int = Field(256, ge=1)
    """Weights travel in buckets of this size."""
    deadline_s: float = Field(120, gt=0)
    """How long one phase of an update, or one bucket, may take before the update is aborted."""


class WeightPublisher:
    """The one owner of weight updates, and so of `pause` during them.

    Handles are Ray actor handles, or `LocalHandle`s: `handle.verb.remote(...)` is awaited. The learner has the
    awaitable verbs `export_weights(version)` (a list of bucket descriptions) and `release_weights()`; for nccl and ipc
    `connect_weights(transport, handles)` and `send_weights(version)`, run on all its ranks.
    """

    def __init__(self, engines: Sequence[Any], learner: Any, config: WeightsConfig, version: int = 0) -> None:
        """`version` is what engines and learner were both started from."""
        self._engines: dict[int, Any] = dict(enumerate(engines))
        self._learner = learner
        self._config = config
        self._through_memory = config.transport in ("auto", "shared_memory")
        self._connected: tuple[int, ...] = ()
        self._exported: ExportedWeights | None = None
        self.states = dict.fromkeys(self._engines, EngineState.CURRENT)
        self.version = version
        self.digest: str | None = None
        self.phase = Phase.IDLE
        self.last: WeightUpdate | None = None

    def add_engine(self, handle: Any) -> int:
        """An engine that (re)joins; it is STALE and routed nothing until `catch_up` or the next `publish`."""
        number = max(self._engines, default=-1) + 1
        self._engines[number] = handle
        self.states[number] = EngineState.STALE
        return number

    def remove_engine(self, number: int) -> None:
        """An engine that is gone."""
        del self._engines[number], self.states[number]

    async def publish(self, version: int) -> dict[str, float]:
        """Bring every engine to the learner's current weights under this label; gives metrics."""
        return await self.deliver(await self.export(version))

    async def close(self) -> None:
        """Give back the memory that the last export holds."""
        self._exported = None
        if self._through_memory:
            await self._learner.release_weights()

    async def export(self, version: int) -> ExportedWeights:
        """Set the learner's current weights aside under this label; afterwards the learner may train on.

        They stay where they are until the next export. With nccl and ipc nothing is set aside: the learner must hold
        its weights still until they are delivered.
        """
        if version <= self.version:
            raise ValueError(f"version {version} is not newer than the published version {self.version}")
        return await self._export(version)

    async def _export(self, version: int) -> ExportedWeights:
        if self.phase is not Phase.IDLE:
            raise RuntimeError(f"an update is in phase {self.phase}: export before or after it")
        self._enter(Phase.EXPORT)
        self._target, self._exported = version, None
        started_at = time.perf_counter()
        try:
            buckets = await self._call("learner", self._learner.export_weights(version)) if self._through_memory else []
        finally:
            self._enter(Phase.IDLE)
        self._exported = ExportedWeights(version, tuple(buckets), time.perf_counter() - started_at)
        return self._exported

    async def deliver(self, exported: ExportedWeights) -> dict[str, float]:
        """Bring every engine to the weights of the last `export`; gives metrics."""
        if exported is not self._exported or exported.version <= self.version:
            raise RuntimeError(f"version {exported.version} was delivered already, or another was exported since")
        update = await self._update(exported, list(self._engines), must_match=None)
        self.version, self.digest = exported.version, update.digest
        return update.metrics()

    async def catch_up(self) -> None:
        """Bring STALE engines to the published version while the learner still holds it: the digest must match."""
        stale = [number for number, state in self.states.items() if state is EngineState.STALE]
        current = [number for number in self.states if number not in stale]
        if not stale:
            return
        if self.digest is None and current:
            self.digest = self._one_digest(current, await self._on_engines(current, "weight_checksum"), None)
        exported = self._exported
        if exported is None or exported.version != self.version:  # of a newer version, or never: ask the learner again
            exported = await self._export(self.version)
        await self._update(exported, stale, must_match=self.digest)

    async def _update(self, exported: ExportedWeights, numbers: list[int], must_match: str | None) -> WeightUpdate:
        if self.phase is not Phase.IDLE:
            raise RuntimeError(f"an update is in phase {self.phase}: one at a time")
        self._target = exported.version
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                self.last = await self._attempt(exported, numbers, must_match, attempt)
                return self.last
            except WeightUpdateError as error:
                await self._abort(numbers, error, last=attempt == NUM_ATTEMPTS)
                if attempt == NUM_ATTEMPTS:
                    raise
                print(f"{error}; sending the whole version again", flush=True)
        raise AssertionError("unreachable")

    async def _attempt(
        self, exported: ExportedWeights, numbers: list[int], must_match: str | None, attempt: int
    ) -> WeightUpdate:
        self._enter(Phase.PREPARE)
        buckets = exported.buckets
        if not self._through_memory:
            await self._connect(numbers)
        started_at = time.perf_counter()
        await self._on_engines(numbers, "pause")
        paused_at = time.perf_counter()

        self._enter(Phase.TRANSFER)
        self.states |= dict.fromkeys(numbers, EngineState.STALE)
        if self._through_memory:
            await settle([self._load(number, buckets) for number in numbers])
        else:  # the trainer's end drives start, update and finish on the engines itself
            await self._call("learner", self._learner.send_weights(self._target))
        loaded_at = time.perf_counter()

        self._enter(Phase.VERIFY)
        digest = self._one_digest(numbers, await self._on_engines(numbers, "weight_checksum"), must_match)

        self._enter(Phase.COMMIT)
        await self._on_engines(numbers, "commit_weight_version", self._target)
        await self._on_engines(numbers, "reset_prefix_cache")

        self._enter(Phase.RESUME)
        await self._on_engines(numbers, "resume")
        resumed_at = time.perf_counter()
        self.states |= dict.fromkeys(numbers, EngineState.CURRENT)
        self._enter(Phase.IDLE)
        return WeightUpdate(
            version=self._target,
            digest=digest,
            num_bytes=sum(bucket["num_bytes"] for bucket in buckets),
            num_buckets=len(buckets),
            export_s=exported.export_s,
            pause_s=resumed_at - started_at,
            load_s=loaded_at - paused_at,
            num_attempts=attempt,
        )

    async def _load(self, number: int, buckets: Sequence[dict[str, Any]]) -> None:
        await self._on_engine(number, "start_weight_update")
        for bucket in buckets:
            await self._on_engine(number, "update_weights", bucket, bucket=bucket["index"])
        await self._on_engine(number, "finish_weight_update")

    async def _connect(self, numbers: list[int]) -> None:
        if self._connected != tuple(numbers):
            handles = [self._engines[number] for number in numbers]
            await self._call("learner", self._learner.connect_weights(self._config.transport, handles))
            self._connected = tuple(numbers)

    def _one_digest(self, numbers: list[int], digests: list[str], must_match: str | None) -> str:
        expected = must_match or digests[0]
        for number, digest in zip(numbers, digests, strict=True):
            if digest != expected:
                cause = f"its weights have digest {digest}, not {expected}"
                raise WeightUpdateError(f"engine {number}", self.phase, self._target, None, cause)
        return expected

    async def _abort(self, numbers: list[int], error: WeightUpdateError, last: bool) -> None:
        """Tell both sides why. Engines that the update has touched stay frozen and STALE; others go on as they were."""
        self._enter(Phase.ABORT)
        self._connected = ()
        touched = [number for number in numbers if self.states[number] is EngineState.STALE]
        calls = [self._on_engine(number, "abort_weight_update", str(error)) for number in touched]
        if last:
            calls += [self._on_engine(number, "resume") for number in numbers if number not in touched]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                print(f"while aborting: {outcome}", flush=True)
        if last:
            self._enter(Phase.IDLE)

    async def _on_engines(self, numbers: list[int], verb: str, *arguments: Any) -> list[Any]:
        return await settle([self._on_engine(number, verb, *arguments) for number in numbers])

    async def _on_engine(self, number: int, verb: str, *arguments: Any, bucket: int | None = None) -> Any:
        answer = getattr(self._engines[number], verb).remote(*arguments)
        return await self._call(f"engine {number}", answer, bucket)

    async def _call(self, side: str, answer: Awaitable[Any], bucket: int | None = None) -> Any:
        """Await with the deadline; whatever goes wrong becomes a `WeightUpdateError` that says where."""
        deadline_s = self._config.deadline_s
        task = asyncio.ensure_future(answer)
        waited_s = 0.0
        while not (await asyncio.wait({task}, timeout=min(REPORT_S, deadline_s - waited_s)))[0]:
            waited_s += min(REPORT_S, deadline_s - waited_s)
            if waited_s >= deadline_s:
                task.cancel()
                cause = f"no answer within {deadline_s:g} s (weights.deadline_s)"
                raise WeightUpdateError(side, self.phase, self._target, bucket, cause)
            print(f"waiting for {side} in {self.phase} of version {self._target} since {waited_s:.0f} s", flush=True)
        try:
            return task.result()
        except Exception as error:  # whatever it is, the transaction must abort and both sides must learn why
            root = getattr(error, "cause", None) or error  # Ray wraps what an actor raised
            cause = f"{type(root).__name__}: {root}"
            raise WeightUpdateError(side, self.phase, self._target, bucket, cause) from error

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT_PHASES[self.phase]:
            raise RuntimeError(f"a weight update in phase `{self.phase}` cannot go on to `{phase}`")
        self.phase = phase


async def settle(calls: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results once every call has ended, so that nothing of a failed phase still runs; else the first error."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
