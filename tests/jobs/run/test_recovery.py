"""Which losses of the learner a run goes on after, and how often. Nothing is started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from raylign.actors.learner.last_words import last_words
from raylign.actors.learner.mailbox import LearnerError
from raylign.actors.weights.update import Phase, WeightUpdateError
from raylign.jobs.run.recovery import LearnerLosses
from raylign.rollout.experience.types import ExperienceError

DIED = LearnerError("the learner group ended during `update`: rank 0: process 7 exited")


def run_at(step: int, failure: LearnerError | None = DIED, saved: int = 0, was_interrupted: bool = False) -> Any:
    """A run whose learner failed after `step` steps, with a checkpoint of `saved`."""
    said: list[str] = []
    checkpoint = SimpleNamespace(record=SimpleNamespace(step=saved), path=SimpleNamespace(name=f"step-{saved:06d}"))
    return SimpleNamespace(
        step=step,
        was_interrupted=was_interrupted,
        parts=SimpleNamespace(learner=SimpleNamespace(failure=failure)),
        checkpoints=SimpleNamespace(latest=lambda: checkpoint if saved else None),
        recorder=SimpleNamespace(say=said.append),
        said=said,
    )


def test_what_died_its_last_words_and_what_is_repeated_are_said() -> None:
    losses = LearnerLosses(3)
    run = run_at(7, saved=4)
    losses.count(DIED, run)
    assert run.said == [
        "the learner was lost in step 8, going back to step-000004: steps 5 to 7 are repeated; the learner group ended "
        "during `update`: rank 0: process 7 exited\nrestart 1 of 3 without getting further (learner.max_restarts)"
    ]
    losses.count(DIED, run_at(7))
    assert "going back to the start: steps 1 to 7 are repeated" in losses.last
    losses.count(DIED, run_at(8, saved=8))
    assert "nothing trained is repeated" in losses.last


def test_a_learner_that_is_lost_at_the_same_step_again_and_again_ends_the_run_with_its_words() -> None:
    losses = LearnerLosses(2)
    losses.count(DIED, run_at(7))
    losses.count(DIED, run_at(5))  # on the way there
    with pytest.raises(LearnerError, match="process 7 exited") as raised:
        losses.count(DIED, run_at(7))
    assert raised.value.__notes__ == [
        "the learner was lost again after restart 2 of 2 without getting further (learner.max_restarts)"
    ]


def test_getting_further_gives_new_restarts() -> None:
    losses = LearnerLosses(1)
    for step in range(1, 9):
        losses.count(LearnerError("lost"), run_at(step))


def test_a_start_that_fails_is_counted_too() -> None:
    losses = LearnerLosses(2)
    losses.count(DIED, run_at(0))
    losses.count_failed_start(RuntimeError("no room"))
    with pytest.raises(RuntimeError, match="no room"):
        losses.count_failed_start(RuntimeError("no room"))


@pytest.mark.parametrize(
    ("error", "run"),
    [
        (LearnerError("not finite", is_final=True), run_at(7, LearnerError("not finite", is_final=True))),
        (ExperienceError("the disk is full"), run_at(7, failure=None)),
        (WeightUpdateError("engine 1", Phase.TRANSFER, 8, 0, "no answer"), run_at(7, failure=None)),
        (LearnerError("lost"), run_at(7, was_interrupted=True)),
    ],
    ids=["of the data", "of the log", "of an engine", "asked to stop"],
)
def test_other_errors_end_the_run_at_once(error: Exception, run: Any) -> None:
    with pytest.raises(type(error)):
        LearnerLosses(3).count(error, run)
    assert not run.said


def test_a_learner_that_exports_nothing_in_time_is_lost_whoever_found_out() -> None:
    losses = LearnerLosses(3)
    losses.count(WeightUpdateError("learner", Phase.EXPORT, 8, None, "no answer within 30 s"), run_at(7, failure=None))
    losses.count(ExperienceError("what came of it"), run_at(7))
    assert "process 7 exited" in losses.last


def test_no_restart_is_done_where_none_is_allowed() -> None:
    error = LearnerError("lost")
    with pytest.raises(LearnerError):
        LearnerLosses(0).count(error, run_at(7))
    assert not hasattr(error, "__notes__")


def test_last_words_name_each_rank_that_failed_in_a_line() -> None:
    class Failed(Exception):
        worker_failures: ClassVar = {
            1: RuntimeError(
                "A worker health check failed.\n pid=41,\nx Worker exit detail: end of file. Some common causes …"
            ),
            0: RuntimeError("Connection closed by peer"),
        }

    assert (
        last_words(Failed("long")) == "rank 0: its process: Connection closed by peer; rank 1: process 41: end of file."
    )
    assert last_words(RuntimeError("no such thing")) == "no such thing"
