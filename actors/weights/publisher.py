"""The publisher: which version engines are brought to, and when.

Given the learner group and the fleet; gives all engines on the new version, or an error that says which side failed.

    export     the learner writes its weights for engines to fetch; then it may train on
    deliver    one transaction (`actors/weights/transaction.py`) brings them to every engine, and the version is told
    catch up   an engine that was started meanwhile is brought to the published version, which its digest must match

An engine that fails is sent the whole version once more; if that fails too, or its process is dead, it is lost, and the
fleet replaces it. It never resumes before it holds a whole version. Export, delivery and catching up wait for each
other; a new engine waits for the one under way.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from raylign.actors.fleet import Engine, EngineState, Fleet, FleetObserver
from raylign.actors.weights.calls import answer_of
from raylign.actors.weights.config import WeightsConfig
from raylign.actors.weights.node_copies import NodeCopies
from raylign.actors.weights.transaction import Failures, WeightTransaction, majority
from raylign.actors.weights.update import ExportedWeights, Phase, WeightUpdate, WeightUpdateError


class WeightPublisher(FleetObserver):
    """The one owner of weight updates, and so of `pause` during them. The learner has the awaitable verbs
    `export_weights(version)` (a list of bucket descriptions) and `release_weights()`."""

    def __init__(
        self, fleet: Fleet, learner: Any, config: WeightsConfig, version: int = 0, copies: NodeCopies | None = None
    ) -> None:
        """`version` is what the learner was started from, and the engines too where they are CURRENT. `copies`: brings
        weights to other nodes; None where there are none."""
        self.fleet, self._learner, self._config, self._copies = fleet, learner, config, copies
        self._exported: ExportedWeights | None = None
        self._learner_moved_on = False
        """The learner's weights are changing, or have changed since the last export."""
        self._alone = asyncio.Lock()
        self._is_asked = False
        self._catching_up: set[asyncio.Task[None]] = set()
        self.version = self._started_from = version
        self.digest: str | None = None
        self._transaction: WeightTransaction | None = None
        self._is_exporting = False
        self.last: WeightUpdate | None = None
        fleet.observe(self)

    @property
    def travels(self) -> bool:
        """Whether there is a way to other nodes."""
        return self._copies is not None

    def travel_by(self, copies: NodeCopies) -> None:
        """From the next update on engines may be on other nodes; `close` ends the couriers."""
        self._copies = copies

    @property
    def phase(self) -> Phase:
        """Where the update under way stands."""
        if self._transaction is not None:
            return self._transaction.phase
        return Phase.EXPORT if self._is_exporting else Phase.IDLE

    async def close(self) -> None:
        """Give up catching up, and the memory that the last export holds."""
        self.fleet.unobserve(self)
        tasks = [*self._catching_up]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._exported = None
        if self._copies is not None:
            await self._copies.close()
        await self._learner.release_weights()

    async def publish(self, version: int) -> dict[str, float]:
        """Bring every engine to the learner's current weights under this label; gives metrics."""
        return await self.deliver(await self.export(version))

    async def export(self, version: int) -> ExportedWeights:
        """Set the learner's current weights aside under this label; afterwards the learner may train on. They stay
        where they are until the next export."""
        async with self._exclusive("export before or after it"):
            if version <= self.version:
                raise ValueError(f"version {version} is not newer than the published version {self.version}")
            return await self._export(version)

    async def deliver(self, exported: ExportedWeights) -> dict[str, float]:
        """Bring every engine to the weights of the last `export`; gives metrics.

        It returns once an engine serves the version: those that take the place of lost ones catch up by themselves.
        """
        async with self._exclusive("one at a time"):
            if exported is not self._exported or exported.version <= self.version:
                raise RuntimeError(f"version {exported.version} was delivered already, or another was exported since")
            update, failures = await self._send_to_all(exported)
            if update is None:  # nobody has it: once more, for those that take their place
                update, failures_of_new = await self._send_to_all(exported)
                if update is None:
                    raise next(iter(failures_of_new.values()))
            self.version, self.digest = exported.version, update.digest
            self.last = dataclasses.replace(update, num_replaced=len(failures))
            self.fleet.weights_published(exported.version)
            if self._copies is not None:
                await self._copies.keep_to(self.fleet.members)
            return self.last.metrics()

    async def set_aside(self) -> None:
        """Before anything was published: what the learner was started from, for engines that have lost it."""
        async with self._exclusive("before the first of them"):
            await self._export(self.version)

    async def catch_up(self) -> None:
        """Bring STALE engines to the published version: their digest must match."""
        async with self._exclusive("one at a time"):
            await self._catch_up()

    async def engine_started(self, engine: Engine) -> None:
        """It catches up once no update is under way; whoever started it need not wait for that."""
        task = asyncio.create_task(self._catch_up_by_itself())
        self._catching_up.add(task)
        task.add_done_callback(self._catching_up.discard)

    def still_uses(self, engine: Engine) -> bool:
        """No engine leaves in the midst of an update."""
        return self._is_asked or self._alone.locked()

    async def before_learning(self) -> None:
        """The learner is about to change its weights: from now on they are not the published version."""
        self._learner_moved_on = True

    @asynccontextmanager
    async def _exclusive(self, advice: str) -> AsyncIterator[None]:
        """Refuse a second caller; wait for a new engine that is just catching up."""
        if self._is_asked:
            raise RuntimeError(f"an update is in phase {self.phase}: {advice}")
        self.fleet.raise_if_failed()
        self._is_asked = True
        try:
            async with self._alone:
                yield
        finally:
            self._is_asked = False
            self.fleet.let_go()

    async def _export(self, version: int) -> ExportedWeights:
        self._is_exporting, self._exported = True, None
        try:
            started_at, deadline_s = time.perf_counter(), self._config.deadline_s
            exporting = self._learner.export_weights(version)
            buckets = await answer_of("learner", exporting, Phase.EXPORT, version, deadline_s)
            assert all(bucket.version == version for bucket in buckets), "a label says what the bytes are"
            self._exported = ExportedWeights(version, tuple(buckets), time.perf_counter() - started_at)
        finally:
            self._is_exporting = False
        self._learner_moved_on = False
        return self._exported

    # ---- engines that came later -----------------------------------------------------------------------

    async def _catch_up_by_itself(self) -> None:
        async with self._alone:
            try:
                await self._catch_up()
            except WeightUpdateError as error:  # those that are not lost stay STALE: the next delivery tries again
                print(f"engines were started, but {error}", flush=True)
        self.fleet.let_go()

    async def _catch_up(self) -> None:
        stale = [engine for engine in self.fleet.engines if engine.state is EngineState.STALE]
        exported = self._exported
        has_newer = exported is not None and exported.version > self.version
        if not stale or has_newer:
            return  # the next delivery brings it
        if exported is None and self._learner_moved_on:
            return await self._take_as_started(stale)
        if exported is None:  # nothing was delivered yet: the learner still holds what the engines were started from
            if self.digest is None:
                self.digest = await self._digest_of_current()
            exported = await self._export(self.version)
        update, failures = await self._send(exported, stale, must_match=self.digest)
        if failures:
            if self.version == self._started_from:
                self._exported = None  # perhaps not what the engines were started from
            raise next(iter(failures.values()))
        self.last = update

    async def _take_as_started(self, engines: list[Engine]) -> None:
        """Nothing was published yet: those that hold what the run was started from hold the published version. The
        others wait for the next delivery."""
        if self.version != self._started_from:
            return
        self.digest = self.digest or await self._digest_of_current()
        for engine in engines:
            if self.digest and await self._ask([engine], "weight_checksum", Phase.VERIFY, self.version) == [
                self.digest
            ]:
                self.fleet.mark_current(engine)

    async def _digest_of_current(self) -> str | None:
        """What engines that serve report; None where there is none."""
        current = self.fleet.serving
        if not current:
            return None
        digests = await self._ask(current, "weight_checksum", Phase.VERIFY, self.version)
        if (digest := majority(digests)) is None:
            cause = f"they hold different weights: {digests}"
            raise WeightUpdateError("the engines", Phase.VERIFY, self.version, None, cause)
        return digest

    # ---- one version to some engines -------------------------------------------------------------------

    async def _send_to_all(self, exported: ExportedWeights) -> tuple[WeightUpdate | None, Failures]:
        """To every engine that can be asked; where all are just starting, to those."""
        if not self.fleet.engines:
            await self.fleet.replacements()
            self.fleet.raise_if_failed()
        return await self._send(exported, self.fleet.engines, must_match=None)

    async def _send(
        self, exported: ExportedWeights, engines: list[Engine], must_match: str | None
    ) -> tuple[WeightUpdate | None, Failures]:
        """Send it; send it again to whom that failed for; those that it failed for again are lost. An error where the
        fleet cannot replace them."""
        update, failures = await self._attempt(exported, engines, must_match)
        again = [engine for engine, error in failures.items() if not error.died]
        if again:
            print(f"{failures[again[0]]}; sending the whole version again", flush=True)
            expected = update.digest if update else must_match
            second, failures_again = await self._attempt(exported, again, expected)
            failures = {engine: error for engine, error in failures.items() if error.died} | failures_again
            update = update or second
            update = update and dataclasses.replace(update, num_attempts=2)
        if failures and not self.fleet.can_replace:
            await self._resume_untouched(failures, exported.version)
            raise next(iter(failures.values()))
        for engine, error in failures.items():
            self.fleet.mark_lost(engine, str(error))
        return update, failures

    async def _attempt(
        self, exported: ExportedWeights, engines: list[Engine], must_match: str | None
    ) -> tuple[WeightUpdate | None, Failures]:
        transaction = WeightTransaction(self.fleet, self._copies, self._config, exported, must_match)
        self._transaction = transaction
        try:
            return await transaction.run(engines), transaction.failures
        finally:
            self._transaction = None

    async def _resume_untouched(self, failures: Failures, version: int) -> None:
        """Engines that still hold the old version whole go on with it."""
        untouched = [engine for engine in failures if engine.state is EngineState.CURRENT]
        await self._ask(untouched, "resume", Phase.ABORT, version)

    async def _ask(self, engines: list[Engine], verb: str, phase: Phase, version: int) -> list[Any]:
        """Answers of those that give one."""
        calls = [
            answer_of(
                f"engine {engine.number}",
                getattr(engine.handle, verb).remote(),
                phase,
                version,
                self._config.deadline_s,
            )
            for engine in engines
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]
