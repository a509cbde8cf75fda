"""What a run does when its learner is lost: it goes back to its last checkpoint by itself, as `--resume` would.

Given a config; gives the run, each time that it starts. A rank that died, hangs or lost its peers costs the steps since
the checkpoint: another group starts from it, the log serves again what was not committed, and the engines, which stay
up, are brought back to the checkpoint's version. What another group would only meet again ends the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from raylign.actors.rollout_errors import RolloutError
from raylign.actors.weights.update import WeightUpdateError
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.copying import Copying, copied
from raylign.jobs.run.opening import open_run, save_after
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.reward_failures import RewardsFailedError
from raylign.jobs.run.run import Run
from raylign.jobs.run.step_batches import ExhaustedError, StuckError
from raylign.rollout.experience.types import ExperienceError

LEARNER_STANDS = (RolloutError, WeightUpdateError, ExperienceError, StuckError, ExhaustedError, RewardsFailedError)
"""Errors that come from elsewhere than the learner."""


class Recovery:
    """`async with recovery.attempt() as run`, until one of them is `done`. Made by `recovering`."""

    def __init__(self, config: TrainConfig, parts: RunParts, copying: Copying | None) -> None:
        self._config, self._parts, self._copying = config, parts, copying
        self._losses = LearnerLosses(config.learner.max_restarts)
        self.done: Run | None = None
        """The run, once a block has come to its end."""

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Run]:
        """The run, from its last checkpoint on. The loss of its learner ends the block, and no more."""
        async with AsyncExitStack() as opened:
            run = await self._start(opened)
            try:
                yield run
                self.done = run
            except Exception as error:
                if isinstance(error, LEARNER_STANDS) and not is_lost(error, run):
                    await save_after(error, run)  # between two steps: what it learned is kept
                self._losses.count(error, run)
                self._parts.keeps_engines = not self._parts.takes_turns  # whoever shares a GPU starts again in its turn

    async def _start(self, opened: AsyncExitStack) -> Run:
        while True:
            config = self._config.model_copy(update={"resume": True}) if self._losses.last else self._config
            try:
                start = open_run(config, parts=self._parts, after=self._losses.last, copying=self._copying)
                return await opened.enter_async_context(start)
            except Exception as error:
                self._losses.count_failed_start(error)


@asynccontextmanager
async def recovering(config: TrainConfig) -> AsyncIterator[Recovery]:
    """All processes of the run are ended with the block."""
    async with copied(config) as copying:
        parts = RunParts(config)
        try:
            yield Recovery(config, parts, copying)
        finally:
            parts.keeps_engines = False
            await parts.stop()


class LearnerLosses:
    """How often the learner was lost without the run getting any further, and whether that was once too often."""

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._furthest_step = self._num_restarts = 0
        self.last = ""
        """What was lost and what is repeated, for the log and the report; empty before the first."""

    def count(self, error: Exception, run: Run) -> None:
        """Another group is to start; raises the error where that would not help."""
        if not is_lost(error, run) or run.was_interrupted:
            raise error
        if run.step > self._furthest_step:
            self._furthest_step, self._num_restarts = run.step, 0
        self._count_restart(error)
        checkpoint = run.checkpoints.latest()
        since, place = (checkpoint.record.step, checkpoint.path.name) if checkpoint else (0, "the start")
        steps = f"steps {since + 1} to {run.step} are" if run.step > since + 1 else f"step {run.step} is"
        repeated = f"{steps} repeated" if run.step > since else "nothing trained is repeated"
        cause = str(run.parts.learner.failure or error)
        self.last = f"the learner was lost in step {run.step + 1}, going back to {place}: {repeated}; {cause}"
        run.recorder.say(f"{self.last}\n{self._left}")

    def count_failed_start(self, error: Exception) -> None:
        """The one after that; the first start of all is nobody's second."""
        if not self.last:
            raise error
        self._count_restart(error)
        print(f"the learner did not start again: {type(error).__name__}: {error}\n{self._left}", flush=True)

    @property
    def _left(self) -> str:
        return f"restart {self._num_restarts} of {self._max_restarts} without getting further (learner.max_restarts)"

    def _count_restart(self, error: Exception) -> None:
        if self._num_restarts == self._max_restarts:
            if self._max_restarts:
                error.add_note(f"the learner was lost again after {self._left}")
            raise error
        self._num_restarts += 1


def is_lost(error: Exception, run: Run) -> bool:
    """Whether the learner's processes are to blame for an error, and others in their place may do better."""
    failure = run.parts.learner.failure
    if failure is not None:
        return not failure.is_final
    return isinstance(error, WeightUpdateError) and error.side == "learner"
