"""What a run does when its learner is lost: it goes back to its last checkpoint by itself, as `--resume` would.

Given a config and what to do with a run; gives the run, done. A rank that died, hangs or lost its peers costs the steps
since the checkpoint: another group starts from it, the log serves again what was not committed, and the engines, which
stay up, are brought back to the checkpoint's version. What another group would only meet again ends the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from raylign.actors.weights.update import WeightUpdateError
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.opening import open_run
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.run import Run


async def with_recovery(config: TrainConfig, work: Callable[[Run], Awaitable[None]]) -> Run:
    """`work` on the run of `config`, and again on what its last checkpoint holds whenever the learner was lost."""
    parts, losses = RunParts(config), LearnerLosses(config.learner.max_restarts)
    try:
        while True:
            is_open = False
            try:
                async with open_run(config, parts=parts, after=losses.last) as run:
                    is_open = True
                    try:
                        await work(run)
                        return run
                    except Exception as error:
                        losses.count(error, run)
                    parts.keeps_engines = not parts.takes_turns  # whoever shares a GPU starts again in its turn
            except Exception as error:
                if is_open or not losses.last:
                    raise
                losses.count_failed_start(error)
            config = config.model_copy(update={"resume": True})
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
        """The one after that."""
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
