"""Batches of a step: what is trained, masked, dropped, replaced, and what is said when nothing can come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from raylign.actors.handles import LocalHandle
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.prompts import PromptCurriculum
from raylign.jobs.run.step_batches import ExhaustedError, StepBatch, StepBatches, StuckError, mask_too_old
from raylign.learners.examples.example import Example
from raylign.rollout.experience.schema import groups_to_batch
from raylign.rollout.experience.types import Held, Lease
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan


def group(ordinal: int, versions: Sequence[int] = (0, 0), rewards: Sequence[float] = (0.0, 1.0)) -> Group:
    """Two completions of so many tokens, each token of the given version."""
    spans: list[VersionSpan] = []
    for place, version in enumerate(versions):
        if spans and spans[-1].version == version:
            spans[-1] = VersionSpan(version, spans[-1].start, place + 1)
        else:
            spans.append(VersionSpan(version, place, place + 1))
    tokens = np.arange(len(versions), dtype=np.int32)
    completion = Completion(tokens, np.full(len(versions), -1.0, np.float32), tuple(spans), "stop", "a")
    prompt = Prompt(prompt_id=str(ordinal), ordinal=ordinal, text="q", token_ids=np.ones(2, np.int32))
    totals = np.array(rewards, np.float32)
    return Group(prompt, (completion, completion), {"exact": totals}, totals)


@dataclass
class GivenRows:
    """Of no log."""

    given: list[Group]

    def groups(self) -> list[Group]:
        return self.given

    def batch(self) -> Any:
        return groups_to_batch(self.given)


@dataclass
class Recorded:
    """A log that serves a list, and remembers what it was told."""

    groups: list[Group]
    filtered: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    _next: int = 0

    async def lease(self, count: int, lease_s: float, step: int, wait_s: float, held: Sequence[Held]) -> Lease | None:
        if self._next + count > len(self.groups):
            return None
        offsets = tuple(range(self._next, self._next + count))
        self._next += count
        rows = GivenRows([self.groups[offset] for offset in offsets])
        return Lease(str(self._next), step, offsets, rows, np.ones(count, np.float32))

    async def mark_filtered(self, offsets: Sequence[int], step: int) -> None:
        self.filtered += offsets

    async def mark_dropped(self, offsets: Sequence[int], reason: str, step: int) -> list[int]:
        self.dropped += offsets
        return [self.groups[offset].prompt.ordinal for offset in offsets]


@dataclass
class Quiet:
    """A supply of groups that does nothing by itself."""

    reissued: list[int] = field(default_factory=list)
    cannot_move: bool = False
    failure: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def reissue(self, ordinals: Iterable[int]) -> None:
        self.reissued += ordinals

    def state(self) -> str:
        return "all is quiet"


def curriculum_of(settings: TrainConfig) -> PromptCurriculum:
    """Without rows: groups are given."""
    return PromptCurriculum(settings, None, settings.algorithm.build_examples())  # type: ignore[arg-type]


def config(algorithm: dict[str, Any] | None = None, **sections: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "rewards": [{"name": "exact"}],
        "algorithm": algorithm or {"name": "grpo"},
        "sampling": {"num_completions": 2},
        "rollout": {"prompts_per_step": 2},
    }
    return load_config(TrainConfig, [], values | sections)


def gather(
    log: Recorded, settings: TrainConfig, step: int = 0, reissued: list[int] | None = None, stuck: bool = False
) -> StepBatch:
    async def gathered() -> StepBatch:
        supply = Quiet([] if reissued is None else reissued, cannot_move=stuck)
        return await StepBatches(LocalHandle(log), supply, curriculum_of(settings), settings).next(step)

    return asyncio.run(gathered())


def test_a_step_trains_the_first_groups_of_the_log() -> None:
    batch = gather(Recorded([group(3), group(1), group(2)]), config())
    assert [one.prompt.ordinal for one in batch.groups] == [3, 1]
    assert len(batch.examples) == 4
    assert batch.lease_ids == ["2"]


def test_a_deterministic_step_trains_in_the_order_of_the_prompts() -> None:
    settings = config(rollout={"prompts_per_step": 2, "deterministic": True}, **{"async": {"max_staleness": 0}})
    batch = gather(Recorded([group(1), group(0)]), settings)
    assert [one.prompt.ordinal for one in batch.groups] == [0, 1]


def test_tokens_beyond_the_bound_are_masked_and_counted() -> None:
    # step 4 at η = 2 may train versions 2, 3, 4
    old = group(0, versions=(1, 1, 2, 4))
    batch = gather(Recorded([old, group(1, versions=(4,))]), config(), step=4)
    assert [example.loss_mask.tolist() for example in batch.examples] == [[0, 0, 1, 1]] * 2 + [[1]] * 2
    assert batch.metrics["staleness/masked_tokens"] == 4


def test_a_group_with_no_fresh_token_left_is_dropped_and_its_prompt_issued_again() -> None:
    reissued: list[int] = []
    source = Recorded([group(7, versions=(1, 1)), group(8, versions=(4,)), group(9, versions=(4,))])
    # the first lease gives 7 and 8; 7 is dropped, so one more is leased
    batch = gather(source, config(), step=4, reissued=reissued)
    assert [one.prompt.ordinal for one in batch.groups] == [8, 9]
    assert (source.dropped, reissued) == ([0], [7])
    assert batch.metrics["staleness/dropped_groups"] == 1


def test_policy_drop_drops_a_group_for_a_single_stale_token() -> None:
    source = Recorded([group(0, versions=(1, 4)), group(1, versions=(4,)), group(2, versions=(3,))])
    settings = config(**{"async": {"max_staleness": 2, "stale": "drop"}})
    batch = gather(source, settings, step=4)
    assert [one.prompt.ordinal for one in batch.groups] == [1, 2]
    assert source.dropped == [0]


def test_dynamic_sampling_replaces_groups_without_reward_spread() -> None:
    same = [group(0, rewards=(1, 1)), group(1, rewards=(0, 1)), group(2, rewards=(0, 0)), group(3, rewards=(1, 0))]
    source = Recorded(same)
    batch = gather(source, config({"name": "dapo"}))
    assert [one.prompt.ordinal for one in batch.groups] == [1, 3]
    assert source.filtered == [0, 2]
    assert batch.metrics["rollout/filtered_groups"] == 2


def test_dynamic_sampling_gives_up_after_its_rounds() -> None:
    settings = config({"name": "dapo", "dynamic_sampling": {"max_rounds": 2, "on_exhausted": "fail"}})
    with pytest.raises(ExhaustedError, match=r"step 1: 4 groups had equal rewards, and only 0 of 2 are left"):
        gather(Recorded([group(n, rewards=(1, 1)) for n in range(9)]), settings)


def test_dynamic_sampling_may_go_on_with_fewer() -> None:
    settings = config({"name": "dapo", "dynamic_sampling": {"max_rounds": 1, "on_exhausted": "smaller_batch"}})
    groups = [group(0), *(group(n, rewards=(1, 1)) for n in range(1, 9))]
    batch = gather(Recorded(groups), settings)
    assert [one.prompt.ordinal for one in batch.groups] == [0]


def test_whoever_would_wait_for_ever_is_told_why() -> None:
    with pytest.raises(StuckError, match="step 1 cannot get its 2 groups, because nothing can start: all is quiet"):
        gather(Recorded([]), config(), stuck=True)


def test_a_wait_beyond_the_deadline_says_where_things_stand() -> None:
    settings = config(rollout={"prompts_per_step": 2, "answer_deadline_s": 0.001})
    with pytest.raises(StuckError, match=r"2 groups of step 1 \(rollout.answer_deadline_s\): all is quiet"):
        gather(Recorded([]), settings)


def test_masking_touches_nothing_inside_the_bound() -> None:
    tokens = np.arange(3, dtype=np.int32)
    example = Example(tokens, tokens, loss_mask=np.ones(3, np.float32), token_versions=np.array([3, 3, 5], np.int32))
    masked, num_masked = mask_too_old([example], step=5, max_staleness=2)
    assert masked[0] is example
    assert num_masked == 0


def test_whoever_waits_for_groups_gets_the_error_of_the_engines() -> None:
    async def gathered() -> None:
        supply = Quiet()
        supply.failure.set_exception(RuntimeError("the last engine is gone"))
        await StepBatches(LocalHandle(Recorded([])), supply, curriculum_of(config()), config()).next(0)

    with pytest.raises(RuntimeError, match="the last engine is gone"):
        asyncio.run(gathered())
