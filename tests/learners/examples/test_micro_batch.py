"""Micro-batches: layouts worked out by hand, budgets kept, shards balanced."""

from __future__ import annotations

import numpy as np
import pytest

from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import (
    input_length,
    make_micro_batch,
    micro_batches,
    normalizers_of,
    plan_micro_batches,
    shard,
    stand_in,
)


def example(prompt: list[int], completion: list[int], mask: list[float] | None = None) -> Example:
    return Example(
        np.array(prompt, np.int32),
        np.array(completion, np.int32),
        loss_mask=np.array(mask if mask is not None else [1.0] * len(completion), np.float32),
    )


TWO = [example([1, 2], [3]), example([4, 5], [6, 7, 8], [1, 1, 0])]


def test_padded_rows_predict_each_completion_token_from_the_one_before() -> None:
    batch = make_micro_batch(TWO, [0, 1], "padded")
    assert batch.input_ids.tolist() == [[1, 2, 0, 0], [4, 5, 6, 7]]
    assert batch.predictor_index.tolist() == [1, 5, 6, 7]
    assert batch.targets.tolist() == [3, 6, 7, 8]
    assert batch.sequence_index.tolist() == [0, 1, 1, 1]
    assert batch.sequence_lengths.tolist() == [1, 2]
    assert batch.num_input_tokens == 6
    assert batch.advantages is None


def test_packed_row_restarts_positions_at_each_sequence() -> None:
    batch = make_micro_batch(TWO, [0, 1], "packed")
    assert batch.input_ids.tolist() == [[1, 2, 4, 5, 6, 7]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3]]
    assert batch.predictor_index.tolist() == [1, 3, 4, 5]
    assert batch.runs == ((1, 2), (1, 4))


def test_garbage_under_the_mask_does_not_reach_the_tensors() -> None:
    masked = example([1], [2, 3], [1, 0])
    masked.rollout_logps = np.array([-1.0, np.nan], np.float32)
    batch = make_micro_batch([masked], [0], "padded")
    assert batch.rollout_logps is not None
    assert batch.rollout_logps.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_sequence_is_in_one_micro_batch_within_the_budget(layout: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 200).tolist()
    plan = plan_micro_batches(lengths, 100, layout)  # type: ignore[arg-type]
    assert sorted(i for part in plan for i in part) == list(range(200))
    for part in plan:
        longest, total = max(lengths[i] for i in part), sum(lengths[i] for i in part)
        assert (longest * len(part) if layout == "padded" else total) <= 100


def test_a_sequence_longer_than_the_budget_is_alone() -> None:
    assert plan_micro_batches([3, 500, 4], 10, "padded") == [[0, 2], [1]]
    assert plan_micro_batches([], 10, "padded") == []


def test_bucketing_wastes_little_on_real_length_spreads() -> None:
    rng = np.random.default_rng(0)
    examples = [example([1] * int(rng.integers(5, 20)), [1] * int(rng.integers(1, 25))) for _ in range(512)]
    batches = micro_batches(examples, 2048, "padded")
    positions = sum(batch.input_ids.numel() for batch in batches)
    assert 1 - sum(batch.num_input_tokens for batch in batches) / positions < 0.1
    packed = micro_batches(examples, 2048, "packed")
    assert sum(batch.input_ids.numel() for batch in packed) == sum(batch.num_input_tokens for batch in packed)


def test_bucketing_wastes_at_most_8_percent_on_a_long_tail_even_with_a_large_budget() -> None:
    # p99 / median of about 10: one micro-batch of 8192 positions would be padded to the longest, 40 % of it padding
    lengths = (16 + np.minimum(512, 46 * np.exp(np.random.default_rng(0).normal(size=128)))).astype(int).tolist()
    plan = plan_micro_batches(lengths, 8192, "padded")
    positions = sum(len(part) * max(lengths[i] for i in part) for part in plan)
    assert 1 - sum(lengths) / positions <= 0.08
    assert len(plan) <= 24


def test_shards_are_disjoint_complete_and_balanced_in_tokens() -> None:
    rng = np.random.default_rng(1)
    examples = [example([1] * int(n), [1]) for n in rng.integers(1, 100, 101)]
    shares = [shard(examples, rank, 4) for rank in range(4)]
    assert sorted(i for share in shares for i in share) == list(range(101))
    loads = [sum(input_length(examples[i]) for i in share) for share in shares]
    assert max(loads) - min(loads) <= 100


def test_normalizers_count_masked_tokens_nowhere() -> None:
    normalizers = normalizers_of([*TWO, example([1], [2, 3], [0, 0])])
    assert normalizers.num_tokens == 3
    assert normalizers.num_sequences == 2


def test_a_stand_in_has_the_same_fields_and_no_weight() -> None:
    like = example([1], [2])
    like.advantages = np.ones(1, np.float32)
    batch = stand_in(like, "packed")
    assert batch.advantages is not None
    assert batch.old_logps is None
    assert batch.loss_mask.tolist() == [0]
    assert batch.num_input_tokens == 0
