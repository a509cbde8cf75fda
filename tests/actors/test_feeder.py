"""What the feeder issues, to whom and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from raylign.rollout.engine.base import request_seed
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.experience.types import Arrivals, ExperienceConfig
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from tests.actors.feeding import SAMPLING, Fed, answering, feed, prompt


def test_no_more_groups_start_than_the_bound_allows(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until_logged(12)  # (η 2 + version 0 + 1) · 4
        await fed.train(4, step=0)
        await fed.until_logged(12)  # trained, but engines still hold version 0
        fed.feeder.weights_arrived(1)
        await fed.until_logged(16)

    feed(tmp_path, work, [answering(), answering()])


def test_without_staleness_rollouts_and_learner_take_turns(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        for step in range(3):
            await fed.until_logged(4 * (step + 1))
            await fed.train(4, step)
            fed.feeder.weights_arrived(step + 1)

    feed(tmp_path, work, [answering()], max_staleness=0)


def test_every_prompt_is_trained_once_and_none_beyond_the_last_step(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        for step in range(5):
            await fed.train(4, step)
            fed.feeder.weights_arrived(step + 1)
        await fed.quiet()
        assert sorted(fed.ordinals) == list(range(20))
        assert (await fed.host.state())[0].num_logged == 20

    feed(tmp_path, work, [answering(), answering()], num_steps=5)


def test_a_batch_of_one_group_with_no_run_ahead_does_not_deadlock(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        for step in range(10):
            await fed.train(1, step)
            fed.feeder.weights_arrived(step + 1)
        assert fed.ordinals == list(range(10))

    feed(tmp_path, work, [answering()], max_staleness=0, groups_per_step=1)


def test_groups_that_can_no_longer_be_used_are_ended_and_generated_again(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.quiet()
        assert sorted(fed.feeder.running.by_ordinal) == [0, 1, 2, 3, 4, 5, 6, 7]  # all of version 0, and slow
        fed.feeder.step_trained(1)  # (the loop would have trained other groups)
        fed.feeder.weights_arrived(2)  # at η = 1 no step to come may train tokens of version 0
        await fed.quiet()
        counts = fed.feeder.take_counts()
        assert (counts.aborted, counts.reissued) == (8, 8)
        assert {running.since_version for running in fed.feeder.running.by_ordinal.values()} == {2}

    feed(tmp_path, work, [answering("slow", token_s=6000)], max_staleness=1, aborts_stale=True)


def test_a_group_that_is_always_too_slow_for_the_bound_is_recorded_as_stale_but_not_as_refused(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        for version in (2, 4, 6):
            await fed.until(lambda: len(fed.feeder.running) == 2)
            await fed.quiet()
            fed.feeder.weights_arrived(version)
        await fed.until(lambda: len(fed.host.appended) == 2)
        counts = fed.feeder.take_counts()
        assert (counts.failed, counts.refused, counts.reissued, counts.aborted) == (2, 0, 4, 6)
        assert counts.last_words == "it did not end inside the bound"
        (failure,) = fed.host.appended[0].failures
        assert (failure.kind, failure.where, failure.message) == ("stale", "async", counts.last_words)

    feed(
        tmp_path,
        work,
        [answering("slow", token_s=60.0)],
        max_staleness=1,
        groups_per_step=1,
        num_steps=2,
        aborts_stale=True,
    )


def test_groups_that_were_dropped_are_generated_again_however_many_calls_say_so(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until_logged(4)
        lease = await fed.host.lease(4, 60.0, 0, 5.0)
        assert lease is not None
        ordinals = await fed.host.mark_dropped(lease.offsets, "stale", 0)
        fed.feeder.reissue(ordinals[:2])
        fed.feeder.reissue(ordinals[2:])
        await fed.until_logged(8)
        await fed.train(4, step=0)
        assert sorted(fed.ordinals) == [0, 1, 2, 3]

    feed(tmp_path, work, [answering()], max_staleness=0)


def test_room_in_the_log_is_kept_for_the_groups_that_run(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until(lambda: len(fed.feeder.running) == 8)
        fed.feeder._on_arrivals(Arrivals((), 0, 9))  # as the log would say, if anything had come
        fed.feeder.weights_arrived(3)
        await fed.quiet()
        assert fed.feeder.state() == "9 groups running on 1 engines, 0 in the log, 0 more may start at version 3"
        fed.feeder._on_arrivals(Arrivals((), 5, 0))
        full = "; the log is full (experience.max_unread_mib)"
        assert fed.feeder.state() == f"9 groups running on 1 engines, 5 in the log, 0 more may start at version 3{full}"
        assert not fed.feeder.cannot_move

    feed(tmp_path, work, [answering(token_s=60.0)], max_staleness=1)


def test_a_feeder_that_was_stopped_hears_nothing_more_and_what_it_did_is_over(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.quiet()
        await fed.feeder.stop()
        assert not fed.feeder._tasks
        fed.fleet.weights_published(9)
        fed.fleet.mark_lost(fed.fleet.engines[0], "it died")
        await fed.quiet()
        assert fed.feeder.version == 0 and not fed.feeder.failure.done()

    feed(tmp_path, work, [answering(token_s=60.0)])


def test_a_full_log_holds_new_groups_back(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until_logged(12)
        await fed.train(4, step=0)
        fed.feeder.weights_arrived(1)
        # the bound would allow 16, but the first 12 came as one burst, and the 8 that wait fill the budget
        await fed.until_logged(12)
        assert "max_unread_mib" in fed.feeder.state()
        for step in range(1, 5):  # the learner goes on, and makes room
            await fed.train(4, step)
            fed.feeder.weights_arrived(step + 1)
        assert sorted(fed.ordinals) == list(range(20))

    feed(tmp_path, work, [answering()], config=ExperienceConfig(max_unread_mib=0.0035))


def test_deterministic_runs_start_in_rounds_and_log_in_order(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        for step in range(3):
            await fed.train(4, step)
            fed.feeder.weights_arrived(step + 1)
            fed.feeder.begin_step()
        assert fed.ordinals == list(range(12))

    feed(tmp_path, work, [answering(token_s=0.001)], max_staleness=0, ordered=True)


class Noting(FakeEngine):
    """Notes which prompts it is asked."""

    def __init__(self, token_s: float = 0.0) -> None:
        super().__init__(lambda prompt, seed: "yes", token_s)
        self.ordinals: list[int] = []
        self.seeds: list[int | None] = []

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        self.ordinals.append(prompt.ordinal)
        self.seeds.append(seed)
        return await super().generate(prompt, sampling, seed)


def test_deterministic_runs_share_groups_by_ordinal_and_others_by_load(tmp_path: Path) -> None:
    async def three_steps(fed: Fed) -> None:
        for step in range(3):
            await fed.train(3, step)
            fed.fleet.weights_published(step + 1)
            fed.feeder.begin_step()

    shares = []
    for ordered in (True, False):
        engines = [Noting(), Noting()]
        folder = tmp_path / str(ordered)
        feed(folder, three_steps, engines, max_staleness=0, groups_per_step=3, num_steps=3, ordered=ordered)
        shares.append([engine.ordinals for engine in engines])
        for engine in engines:
            seeds = [request_seed(0, ordinal) if ordered else None for ordinal in engine.ordinals]
            assert engine.seeds == seeds
    assert shares[0] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert shares[1] == [[0, 2, 3, 5, 6, 8], [1, 4, 7]]  # each step begins with idle engines


def test_of_engines_with_unequal_work_the_idle_one_gets_the_next_group(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.until_logged(6)
        assert sorted(fed.feeder.running.by_ordinal) == [0, 2, 4, 6, 8, 10]  # half of twelve, on the one that hangs
        await fed.train(4, step=0)
        fed.fleet.weights_published(1)
        await fed.until_logged(10)
        assert sorted(fed.feeder.running.by_ordinal) == [0, 2, 4, 6, 8, 10]

    feed(tmp_path, work, [answering(token_s=6000), answering()], groups_per_step=4)


def test_weights_that_arrive_before_a_deterministic_evaluation_start_no_group_until_it_is_over(tmp_path: Path) -> None:
    engines = [Noting(), Noting()]

    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        fed.fleet.weights_published(1)
        held_out = [replace(prompt(number), ordinal=1000 + number) for number in range(6)]
        answers = await fed.pool.collect_all(held_out, SAMPLING, ordered=True)
        assert [group.prompt.ordinal for group in answers] == [1000 + number for number in range(6)]
        await fed.quiet()
        assert fed.feeder.version == 0 and not fed.feeder.running
        assert [engine.ordinals for engine in engines] == [[0, 2, 1000, 1002, 1004], [1, 3, 1001, 1003, 1005]]
        fed.feeder.begin_step()
        await fed.until_logged(8)
        assert [engine.ordinals[5:] for engine in engines] == [[4, 6], [5, 7]]

    feed(tmp_path, work, engines, max_staleness=0, ordered=True)


def test_a_learner_ten_times_slower_or_faster_starves_nobody(tmp_path: Path) -> None:
    for folder, token_s, step_s in (("slow learner", 0.0, 0.05), ("fast learner", 0.02, 0.0)):
        most_waiting = 0

        async def work(fed: Fed, step_s: float = step_s) -> None:
            nonlocal most_waiting
            for step in range(8):
                await fed.train(4, step)
                await asyncio.sleep(step_s)
                counters, _ = await fed.host.state()
                most_waiting = max(most_waiting, counters.unread_groups)
                fed.feeder.weights_arrived(step + 1)

        feed(tmp_path / folder, work, [answering(token_s=token_s)], num_steps=8)
        assert most_waiting <= 12  # (η + 1) · 4
