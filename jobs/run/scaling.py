"""Engines that join and leave a live run, because somebody asks (`raylign scale`) or because of what is measured.

Given the run's parts, its folder and its recorder; watches the folder for requests and each step's numbers, from the
first step to the end of the run, and answers. Nobody waits for it: steps go on while engines start and end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raylign.actors.elastic_fleet import ElasticFleet
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.recorder import Recorder
from raylign.jobs.run.scale_request import ScaleAnswer, ScaleRequest, answer, read_request
from raylign.rollout.autoscale import StepLoad, wanted_engines

if TYPE_CHECKING:
    from raylign.jobs.run.parts import RunParts

LOOKS_EVERY_S = 0.5


@asynccontextmanager
async def scaling(config: TrainConfig, parts: RunParts, folder: Path, recorder: Recorder) -> AsyncIterator[None]:
    """Inside: requests are served."""
    watch = Scaling(config, parts, folder, recorder)
    recorder.on_step = watch.after_step
    watching = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        recorder.on_step = None
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        watch.end()


def why_not(config: TrainConfig, parts: RunParts) -> str | None:
    """Why engines cannot join or leave; None where they can."""
    if parts.num_engines == 0:
        return "it has no engines: nothing is generated"
    if parts.takes_turns:
        return "its engine and its learner take turns on the only GPU"
    if config.rollout.deterministic:
        return "rollout.deterministic fixes which engine answers what, so two runs of one seed would differ"
    if not isinstance(parts.rollouts.fleet, ElasticFleet):
        return "its engines are not started by raylign"
    return None


class Scaling:
    """One at a time: a newer request takes the place of the one under way."""

    def __init__(self, config: TrainConfig, parts: RunParts, folder: Path, recorder: Recorder) -> None:
        self._config, self._parts, self._folder, self._recorder = config, parts, folder, recorder
        self._last_id = ""
        self._loads: list[StepLoad] = []
        """Of steps in which none joined or left."""
        self._settling: asyncio.Task[None] | None = None
        self._refusal = why_not(config, parts)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            request = await asyncio.to_thread(read_request, self._folder)
            if request is not None and request.request_id != self._last_id:
                self._last_id = request.request_id
                self._serve(request)
            await asyncio.sleep(LOOKS_EVERY_S)

    def end(self) -> None:
        """The run is over; whoever asked sees that the folder is free."""
        if self._settling is not None:
            self._settling.cancel()

    def after_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """What a step measured may change how many engines are wanted."""
        policy = self._config.rollout.autoscale
        if policy is None or self._refusal or self._is_settling or "time/wait_s" not in metrics:
            return
        now, wait_share = self._num_engines, metrics["time/wait_s"] / max(metrics["time/step_s"], 1e-9)
        self._loads.append(StepLoad(now, min(1.0, wait_share), metrics["idle/log_share"]))
        if (wanted := wanted_engines(policy, self._loads, now)) != now:
            why = f"step {step}: {self._loads[-1].words} (rollout.autoscale)"
            self._begin(wanted, why, None)

    @property
    def _num_engines(self) -> int:
        return sum(not engine.is_leaving for engine in self._parts.rollouts.fleet.members)

    @property
    def _is_settling(self) -> bool:
        return self._settling is not None and not self._settling.done()

    def _serve(self, request: ScaleRequest) -> None:
        refusal = self._refusal
        if refusal is None and self._config.rollout.autoscale is not None:
            refusal = "rollout.autoscale decides how many engines it has"
        if refusal is None and request.num_engines < 1:
            refusal = f"{request.num_engines} engines are asked for, and a run that generates needs at least 1"
        if refusal is not None:
            self._answer(request, "refused", f"this run cannot have another number of engines: {refusal}")
            return
        self._begin(request.num_engines, "asked for by `raylign scale`", request)

    def _begin(self, num_engines: int, why: str, request: ScaleRequest | None) -> None:
        before = self._num_engines
        if self._settling is not None:
            self._settling.cancel()
        fleet = self._parts.rollouts.fleet
        assert isinstance(fleet, ElasticFleet), "asked before (`why_not`)"
        fleet.resize(num_engines)
        if num_engines != before:
            self._recorder.say(f"engines: {before} → {num_engines}, {why}")
        self._answer(request, "under way", f"{before} → {num_engines} engines")
        self._settling = asyncio.create_task(self._settle(fleet, request))

    async def _settle(self, fleet: ElasticFleet, request: ScaleRequest | None) -> None:
        failures = await fleet.settled()
        for failure in failures:
            self._recorder.say(f"an engine could not join: {failure}")
        there = f"{self._num_engines} engines serve"
        if failures:
            self._answer(request, "failed", f"{there}; {len(failures)} could not join: {failures[0]}")
        else:
            self._answer(request, "done", there)

    def _answer(
        self, request: ScaleRequest | None, state: Literal["under way", "done", "failed", "refused"], message: str
    ) -> None:
        if request is None:
            return
        try:
            answer(self._folder, ScaleAnswer(request.request_id, state, message))
        except OSError as error:  # a full disk is told by whoever writes what matters
            self._recorder.say(f"`raylign scale` could not be answered: {error}")
