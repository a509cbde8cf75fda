"""One attempt to bring engines to one version of the weights: travel → prepare → transfer → verify → commit.

Given exported weights and engines; gives what was done, and the engines that failed with the reason.

    travel     what was written is brought to the memory of every node that engines are on (they still generate)
    prepare    engines check what was written (they still generate), then freeze their requests
    transfer   every engine loads every bucket
    verify     engines report a digest over what they hold; what most of them report is right
    commit     engines label what they sample from now on, forget keys and values of older weights, and go on
    abort      those that failed are told why

Who waits for whom: engines stand still from the end of prepare to commit, waiting for this transaction alone, and for
each other only within a phase; every call has the deadline of `WeightsConfig`, so a long transfer is fine as long as
buckets keep arriving. An engine that fails drops out and is STALE (it may hold a mixture of versions); the others go
on.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any

from raylign.actors.fleet import Engine, EngineState, Fleet
from raylign.actors.weights.calls import answer_of
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.update import ExportedWeights, Phase, WeightUpdate, WeightUpdateError

Failures = dict[Engine, WeightUpdateError]


class WeightTransaction:
    """`run` once; `failures` says then who failed."""

    def __init__(
        self,
        fleet: Fleet,
        copies: NodeCopies | None,
        config: WeightsConfig,
        exported: ExportedWeights,
        must_match: str | None,
    ) -> None:
        """`copies`: None where all engines are on the learner's node. `must_match`: the digest that engines must
        report; None: what most of them report."""
        self._fleet, self._copies, self._config = fleet, copies, config
        self._exported, self._must_match = exported, must_match
        self._here: dict[Engine, ExportedWeights] = {}
        """The same weights in the memory of each engine's node."""
        self.phase = Phase.TRAVEL
        self.failures: Failures = {}

    async def run(self, engines: list[Engine]) -> WeightUpdate | None:
        """What was done; None where every engine failed."""
        clock, exported = time.perf_counter, self._exported
        started_at = clock()
        engines = await self._bring(engines)
        arrived_at = clock()

        self.phase = Phase.PREPARE
        for part in range(len(exported.calls())):
            engines = list(await self._call_each(engines, "check_weights", part))
        checked_at = clock()
        engines = list(await self._call_all(engines, "pause"))
        paused_at = clock()

        self.phase = Phase.TRANSFER
        for engine in engines:
            self._fleet.mark_stale(engine)
        digests = await self._transfer(engines)
        loaded_at = clock()

        self.phase = Phase.VERIFY
        digest = self._must_match or majority(digests.values())
        engines = self._verified(digests, digest)

        self.phase = Phase.COMMIT
        recompute_kv = self._config.recompute_kv
        engines = list(await self._call_all(engines, "commit_weights", exported.version, recompute_kv))
        ended_at = clock()
        for engine in engines:
            self._fleet.mark_current(engine)
        await self._abort()
        if not engines:
            return None
        assert digest is not None
        return WeightUpdate(
            version=exported.version,
            digest=digest,
            num_bytes=exported.num_bytes,
            num_buckets=len(exported.buckets),
            export_s=exported.export_s,
            travel_s=arrived_at - started_at,
            deliver_s=ended_at - started_at,
            pause_s=ended_at - checked_at,
            load_s=loaded_at - paused_at,
            num_attempts=1,
        )

    async def _bring(self, engines: list[Engine]) -> list[Engine]:
        """Those that can read the weights in the memory of their node."""
        if self._copies is None:
            self._here = dict.fromkeys(engines, self._exported)
        else:
            self._here, errors = await self._copies.bring(self._exported, engines)
            self.failures |= errors
        return list(self._here)

    async def _transfer(self, engines: list[Engine]) -> dict[Engine, str]:
        """Digests of what the engines hold then."""
        digests: dict[Engine, str] = {}
        for part in range(len(self._exported.calls())):  # the last call gives the digest
            digests = await self._call_each(engines, "load_weights", part)
            engines = list(digests)
        return digests

    async def _call_each(self, engines: list[Engine], verb: str, part: int) -> dict[Engine, Any]:
        """A verb that is given buckets: each engine's are those of its node."""
        calls = {engine: self._call(engine, verb, self._here[engine].calls()[part]) for engine in engines}
        answers = await self._answers_of(calls)
        if self._copies is not None and self.phase is Phase.PREPARE:
            for engine in set(engines) - set(answers):
                self._copies.forget(engine)
        return answers

    def _verified(self, digests: dict[Engine, str], digest: str | None) -> list[Engine]:
        """Those that hold what they should; the others fail."""
        for engine, found in digests.items():
            if found != digest:
                cause = f"its weights have digest {found}, not {digest or 'that of most engines'}"
                side, version = f"engine {engine.number}", self._exported.version
                self.failures[engine] = WeightUpdateError(side, self.phase, version, None, cause)
        return [engine for engine in digests if engine not in self.failures]

    async def _abort(self) -> None:
        """Tell those that failed why. Whom the update has touched stays frozen and STALE."""
        touched = {
            engine: error
            for engine, error in self.failures.items()
            if engine.state is EngineState.STALE and not error.died
        }
        if not touched:
            return
        self.phase = Phase.ABORT
        told = await asyncio.gather(
            *(self._call(engine, "abort_weight_update", str(error)) for engine, error in touched.items()),
            return_exceptions=True,
        )
        for outcome in told:
            if isinstance(outcome, BaseException):
                print(f"while aborting: {outcome}", flush=True)

    async def _call_all(self, engines: list[Engine], verb: str, *arguments: Any) -> dict[Engine, Any]:
        return await self._answers_of({engine: self._call(engine, verb, *arguments) for engine in engines})

    async def _answers_of(self, calls: dict[Engine, Coroutine[Any, Any, Any]]) -> dict[Engine, Any]:
        """Of those that did it, once every call has ended: nothing of a phase outlasts it. The others fail."""
        answers: dict[Engine, Any] = {}
        for engine, outcome in zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True):
            if isinstance(outcome, WeightUpdateError):
                self.failures[engine] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                answers[engine] = outcome
        return answers

    async def _call(self, engine: Engine, verb: str, *arguments: Any) -> Any:
        answer = getattr(engine.handle, verb).remote(*arguments)
        version, deadline_s = self._exported.version, self._config.deadline_s
        return await answer_of(f"engine {engine.number}", answer, self.phase, version, deadline_s)


def majority(digests: Iterable[str]) -> str | None:
    """What more than half of the engines report; None where they disagree so much that nobody can be believed."""
    digests = list(digests)
    counts = Counter(digests).most_common(1)
    return counts[0][0] if counts and 2 * counts[0][1] > len(digests) else None
