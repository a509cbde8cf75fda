"""What the feeder does about groups that fail, and about engines, rewards and a log that die or hang."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from raylign.actors.fleet import Engine, EngineState, Fleet, FleetObserver
from raylign.actors.handles import kill
from raylign.actors.rollout_errors import RewardServerError, RolloutError
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.experience.types import ExperienceError
from raylign.rollout.sample import Group
from tests.actors.feeding import Fed, SickEngine, answering, dies, feed


def too_few(group: Group, attempt: int) -> Group:
    """The first answer to prompt 1 lacks a completion."""
    spoiled = group.prompt.ordinal == 1 and attempt == 1
    return replace(group, completions=group.completions[:1]) if spoiled else group


def test_a_group_that_is_not_valid_is_counted_and_generated_again(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        assert sorted(fed.ordinals) == [0, 1, 2, 3]
        assert all(len(group.completions) == 2 for group in fed.read)
        counts = fed.feeder.take_counts()
        assert (counts.refused, counts.reissued, counts.failed) == (1, 1, 0)
        assert counts.last_words == "prompt 1: 1 completions instead of 2"

    feed(tmp_path, work, [SickEngine(too_few)], max_staleness=0)


class Failing(SickEngine):
    """Never finishes prompts 1 and 2; notes how often it was asked."""

    def __init__(self) -> None:
        super().__init__(lambda group, attempt: self._unfinished(group))
        self.num_asked: Counter[int] = Counter()

    def _unfinished(self, group: Group) -> Group:
        self.num_asked[group.prompt.ordinal] += 1
        if group.prompt.ordinal not in (1, 2):
            return group
        return replace(group, completions=tuple(replace(one, stop_reason="aborted") for one in group.completions))


def test_a_prompt_that_always_fails_is_recorded_as_failed_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Failing()
    words = "prompt 1: completion 0: it is unfinished"

    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        assert sorted(fed.ordinals) == [0, 3, 4, 5]
        counts = fed.feeder.take_counts()
        assert (counts.failed, counts.refused, counts.reissued, counts.aborted) == (2, 6, 4, 0)
        assert set(counts.busy_s) == {0} and counts.busy_s[0] > 0
        assert fed.feeder.take_counts().refused == 0  # since the last look
        assert engine.num_asked == {0: 1, 1: 3, 2: 3, 3: 1, 4: 1, 5: 1}
        assert (await fed.host.state())[0].num_failed == 2
        (failed,) = (group for group in fed.host.appended if group.prompt.ordinal == 1)
        assert not failed.completions and [failure.message for failure in failed.failures] == [words]
        assert failed.prompt.prompt_id == "1"

    feed(tmp_path, work, [engine], max_staleness=0)
    assert f"prompt 1 failed 3 times and is given up: {words}\n" in capsys.readouterr().out


def test_a_prompt_that_failed_and_then_came_may_fail_as_often_again(tmp_path: Path) -> None:
    num_asked = 0

    def every_third_time_well(group: Group, attempt: int) -> Group:
        nonlocal num_asked
        num_asked += 1
        return replace(group, completions=group.completions[:1]) if attempt % 3 else group

    async def work(fed: Fed) -> None:
        await fed.until_logged(1)
        lease = await fed.host.lease(1, 60.0, 0, 5.0)
        assert lease is not None
        fed.feeder.reissue(await fed.host.mark_dropped(lease.offsets, "stale", 0))
        await fed.until(lambda: num_asked == 6)
        await fed.until_logged(2)
        assert fed.feeder.take_counts().failed == 0

    feed(tmp_path, work, [SickEngine(every_third_time_well)], max_staleness=0, groups_per_step=1)


def test_a_dead_engine_is_reported_with_its_last_words(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        with pytest.raises(RolloutError, match=r"worker 0 died with \d+ groups outstanding: EngineCore ended"):
            await fed.feeder.failure

    feed(tmp_path, work, [SickEngine(dies)])


def test_a_worker_that_answers_with_an_error_is_dead_with_those_words(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        worker = fed.fleet.engines[0].handle._target

        async def fail(deadline_s: float) -> None:
            raise RuntimeError("the process was killed")

        await fed.quiet()
        worker.poll_failures = fail
        worker._delivery._failures_came.set()  # the call under way returns, and the next one fails
        with pytest.raises(RolloutError) as caught:
            await fed.feeder.failure
        assert str(caught.value) == "rollout worker 0 died with 12 groups outstanding: the process was killed"

    feed(tmp_path, work, [answering(token_s=60.0)])


def test_a_dead_engine_is_replaced_and_gets_work_again_once_it_has_the_weights(tmp_path: Path) -> None:
    async def another(number: int) -> FakeEngine:
        return answering(token_s=0.01)

    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        await fed.quiet()
        assert fed.fleet.states == {0: EngineState.STALE, 1: EngineState.CURRENT}
        assert fed.engines_at_work <= {1}  # nothing for the new one without weights
        (new,) = (engine for engine in fed.fleet.engines if engine.number == 0)
        fed.fleet.mark_current(new)
        fed.fleet.weights_published(1)
        await fed.until(lambda: 0 in fed.engines_at_work)
        await fed.lease(12, step=1)
        assert sorted(fed.ordinals) == list(range(16))

    feed(tmp_path, work, [SickEngine(dies), answering(token_s=0.01)], start=another)


def test_a_worker_that_takes_and_ends_no_groups_is_left_to_whoever_follows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(fed: Fed) -> None:
        await fed.quiet()
        assert len(fed.feeder.running) == 8
        kill(fed.fleet.engines[0].handle)  # the call that polls it is under way still
        fed.feeder.weights_arrived(2)
        await fed.quiet()
        assert len(fed.feeder.running) == 16 and not fed.feeder.failure.done()

    feed(tmp_path, work, [answering("slow", token_s=60.0)], max_staleness=1, aborts_stale=True)
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "rollout worker 0 could not end groups: `abort` was called on an actor that was killed",
        "rollout worker 0 took no prompts: `generate_for_log` was called on an actor that was killed",
    ]


class Served(FleetObserver):
    """Every new engine has the weights at once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def engine_started(self, engine: Engine) -> None:
        self._fleet.mark_current(engine)


def test_an_engine_that_dies_again_and_again_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    started: list[int] = []

    async def another(number: int) -> FakeEngine:
        started.append(number)
        return SickEngine(dies)

    async def work(fed: Fed) -> None:
        fed.fleet.observe(Served(fed.fleet))
        words = r"worker 0 died with \d+ groups outstanding: EngineCore ended.*; it was replaced 3 times already"
        with pytest.raises(RolloutError, match=words):
            await fed.feeder.failure
        assert started == [0, 0, 0]

    feed(tmp_path, work, [SickEngine(dies)], start=another)


def test_groups_of_an_engine_that_somebody_else_found_dead_are_generated_again(tmp_path: Path) -> None:
    async def another(number: int) -> FakeEngine:
        return answering()

    async def work(fed: Fed) -> None:
        fed.fleet.observe(Served(fed.fleet))
        await fed.quiet()
        assert len(fed.feeder.running) == 12
        fed.fleet.mark_lost(fed.fleet.engines[0], "it could not be updated")
        await fed.until_logged(12)
        assert fed.feeder.take_counts().reissued == 12 and not fed.feeder.running

    feed(tmp_path, work, [answering(token_s=6000)], start=another)


class HangingRewards:
    """Answers nothing, not even whether it lives."""

    async def score_for_log(self, groups: list[Group]) -> None:
        await asyncio.sleep(6000)

    async def ready(self) -> None:
        raise RuntimeError("the process hangs")


def test_rewards_that_never_answer_end_the_run_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # all twelve go together, however slowly they come
    monkeypatch.setattr("raylign.actors.rollout_worker.GATHER_S", 0.5)

    async def work(fed: Fed) -> None:
        with pytest.raises(RewardServerError, match=r"the reward server failed: 12 groups were not scored and logged"):
            await fed.feeder.failure

    feed(tmp_path, work, [answering()], rewards=HangingRewards(), deadline_s=0.2)


def test_a_log_that_cannot_be_written_ends_the_run_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        fed.host._log._writer._file = os.open(os.devnull, os.O_RDONLY)  # cannot be written any more
        fed.feeder.weights_arrived(1)
        with pytest.raises(ExperienceError, match=r"the experience log failed: cannot write \d+ bytes.*Bad file"):
            await fed.feeder.failure

    feed(tmp_path / "log", work, [answering()])


def test_a_log_whose_process_fails_ends_the_run_with_its_words(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        async def fail(deadline_s: float) -> None:
            raise RuntimeError("it was killed")

        await fed.until_logged(12)
        fed.host.arrivals = fail  # type: ignore[method-assign, assignment]
        await fed.train(4, step=0)  # the call under way returns, and the next one fails
        with pytest.raises(ExperienceError) as caught:
            await fed.feeder.failure
        assert str(caught.value) == "the experience log's process failed: it was killed; go on by --resume"

    feed(tmp_path, work, [answering()])
