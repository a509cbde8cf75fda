"""The feeder with real workers, rewards and log in one process, and engines that follow a script."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylign.actors.experience_host import ExperienceHost
from raylign.actors.feeder import RolloutFeeder
from raylign.actors.handles import LocalHandle
from raylign.actors.reward_server import RewardServer
from raylign.actors.rollout_pool import RewardServerError, RolloutError, RolloutPool
from raylign.actors.rollout_worker import RolloutWorker
from raylign.rewards.rules import ExactConfig
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.experience.schema import batch_to_groups, message_to_batch
from raylign.rollout.experience.types import START, ExperienceConfig, ExperienceError
from raylign.rollout.sample import ENGINE_DIED, Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.staleness import StalenessBound
from tests.patience import HANGS_S

SAMPLING = SamplingConfig(max_tokens=4, num_completions=2)


def prompt(ordinal: int) -> Prompt:
    return Prompt(
        prompt_id=str(ordinal), ordinal=ordinal, text="q", token_ids=np.ones(2, np.int32), references=("right",)
    )


class SickEngine(FakeEngine):
    """Spoils what `spoil` says, by attempt."""

    def __init__(self, spoil: Callable[[Group, int], Group]) -> None:
        super().__init__(lambda prompt, seed: "yes")
        self._spoil = spoil
        self._attempts: dict[int, int] = {}

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        attempt = self._attempts[prompt.ordinal] = self._attempts.get(prompt.ordinal, 0) + 1
        return self._spoil(await super().generate(prompt, sampling, seed), attempt)


@dataclass
class Fed:
    """A feeder at work."""

    feeder: RolloutFeeder
    host: ExperienceHost
    engines: Sequence[FakeEngine]
    read: list[Group] = field(default_factory=list)

    async def lease(self, count: int, step: int) -> str:
        lease = await self.host.lease(count, HANGS_S, step, HANGS_S)
        assert lease is not None, self.feeder.state()
        self.read += batch_to_groups(message_to_batch(lease.batch))
        return lease.lease_id

    async def train(self, count: int, step: int) -> None:
        """What the loop does with a step."""
        lease_id = await self.lease(count, step)
        self.feeder.step_trained(step + 1)
        await self.host.settle([lease_id], step)

    async def quiet(self) -> None:
        """Everything that may happen by itself has happened: nothing changes while the loop has gone round and waited
        fifty times, which takes as long as the machine gives it less."""
        before, now = "", self.feeder.state()
        while before != now:
            for _ in range(50):
                await asyncio.sleep(0.004)
            before, now = now, self.feeder.state()

    async def until_logged(self, count: int) -> None:
        """So many groups come, and no more."""
        while (await self.host.state())[0].num_logged < count:
            await asyncio.sleep(0.01)
        await self.quiet()
        assert (await self.host.state())[0].num_logged == count

    @property
    def ordinals(self) -> list[int]:
        return [group.prompt.ordinal for group in self.read]


def feed(
    folder: Path,
    work: Callable[[Fed], Coroutine[Any, Any, None]],
    engines: Sequence[FakeEngine],
    max_staleness: int = 2,
    groups_per_step: int = 4,
    num_steps: int = 100,
    ordered: bool = False,
    aborts_stale: bool = False,
    rewards: object = None,
    deadline_s: float = HANGS_S,
    config: ExperienceConfig | None = None,
) -> None:
    async def run() -> None:
        host = ExperienceHost(folder, config or ExperienceConfig(), seed=0)
        opened = await host.start(START)
        workers = [RolloutWorker.around(engine) for engine in engines]
        for worker in workers:
            await worker.start()
        server = LocalHandle(rewards or RewardServer([ExactConfig(name="exact")]))
        pool = RolloutPool([LocalHandle(worker) for worker in workers], server, deadline_s)
        feeder = RolloutFeeder(
            pool,
            LocalHandle(host),
            prompt,
            SAMPLING,
            StalenessBound(max_staleness, groups_per_step),
            step=0,
            num_steps=num_steps,
            missing=opened.missing_ordinals,
            next_ordinal=opened.next_ordinal,
            ordered=ordered,
            aborts_stale=aborts_stale,
        )
        await feeder.start()
        try:
            await asyncio.wait_for(work(Fed(feeder, host, engines)), HANGS_S)
        finally:
            await feeder.stop()
            await host.close()
            for worker in workers:
                await worker.stop()

    asyncio.run(run())


def answering(text: str = "yes", token_s: float = 0.0) -> FakeEngine:
    return FakeEngine(lambda prompt, seed: text, token_s)


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


def too_few(group: Group, attempt: int) -> Group:
    """The first answer to prompt 1 lacks a completion."""
    spoiled = group.prompt.ordinal == 1 and attempt == 1
    return replace(group, completions=group.completions[:1]) if spoiled else group


def test_a_group_refused_at_the_door_is_counted_and_generated_again(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        assert sorted(fed.ordinals) == [0, 1, 2, 3]
        assert all(len(group.completions) == 2 for group in fed.read)
        counts = fed.feeder.take_counts()
        assert (counts.refused, counts.reissued, counts.failed) == (1, 1, 0)
        assert counts.last_words == "prompt 1: 1 completions instead of 2"

    feed(tmp_path, work, [SickEngine(too_few)], max_staleness=0)


def always_unfinished(group: Group, attempt: int) -> Group:
    if group.prompt.ordinal != 1:
        return group
    return replace(group, completions=tuple(replace(one, stop_reason="aborted") for one in group.completions))


def test_a_prompt_that_always_fails_is_recorded_as_failed_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(fed: Fed) -> None:
        await fed.train(4, step=0)
        assert sorted(fed.ordinals) == [0, 2, 3, 4]
        assert fed.feeder.take_counts().failed == 1
        assert (await fed.host.state())[0].num_failed == 1

    feed(tmp_path, work, [SickEngine(always_unfinished)], max_staleness=0)
    words = "prompt 1 failed 3 times and is given up: prompt 1: completion 0: it is unfinished"
    assert words in capsys.readouterr().out


def dies(group: Group, attempt: int) -> Group:
    return Group(group.prompt, (), failures=(Failure(ENGINE_DIED, "engine", "EngineCore ended with code -9"),))


def test_a_dead_engine_is_reported_with_its_last_words(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        with pytest.raises(RolloutError, match=r"worker 0 died with \d+ groups outstanding: EngineCore ended"):
            await fed.feeder.failure

    feed(tmp_path, work, [SickEngine(dies)])


def test_a_dead_worker_is_replaced_and_its_groups_are_generated_again(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        has_weights = False

        async def replace_worker(number: int) -> Callable[[], bool]:
            worker = RolloutWorker.around(answering())
            await worker.start()
            fed.feeder._pool._workers[number] = LocalHandle(worker)
            return lambda: has_weights

        fed.feeder._replace_worker = replace_worker
        await fed.lease(4, step=0)
        await fed.quiet()
        assert all(running.worker == 1 for running in fed.feeder.running.values())  # nothing for it without weights
        has_weights = True
        fed.feeder.step_trained(1)
        fed.feeder.weights_arrived(1)
        await fed.lease(8, step=1)
        assert sorted(fed.ordinals) == list(range(12))

    feed(tmp_path, work, [SickEngine(dies), answering(token_s=0.01)])


def test_groups_that_can_no_longer_be_used_are_ended_and_generated_again(tmp_path: Path) -> None:
    async def work(fed: Fed) -> None:
        await fed.quiet()
        assert sorted(fed.feeder.running) == [0, 1, 2, 3, 4, 5, 6, 7]  # all of version 0, and slow
        fed.feeder.step_trained(1)  # (the loop would have trained other groups)
        fed.feeder.weights_arrived(2)  # at η = 1 no step to come may train tokens of version 0
        await fed.quiet()
        counts = fed.feeder.take_counts()
        assert (counts.aborted, counts.reissued) == (8, 8)
        assert {running.since_version for running in fed.feeder.running.values()} == {2}

    feed(tmp_path, work, [answering("slow", token_s=6000.0)], max_staleness=1, aborts_stale=True)


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
        assert fed.ordinals == list(range(12))

    feed(tmp_path, work, [answering(token_s=0.001)], max_staleness=0, ordered=True)


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
