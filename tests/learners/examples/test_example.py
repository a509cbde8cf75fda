"""Examples on their way to the ranks: what is one number for every token travels as that number."""

from __future__ import annotations

import pickle

import numpy as np

from raylign.learners.examples.example import Example, constant
from raylign.learners.examples.from_groups import examples_of
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

NUM_TOKENS = 10_000


def a_group(spans: tuple[VersionSpan, ...]) -> Group:
    tokens = np.arange(NUM_TOKENS, dtype=np.int32)
    completion = Completion(tokens, np.zeros(NUM_TOKENS, np.float32), spans, "stop", "")
    rewards = np.ones(1, np.float32)
    return Group(Prompt("0", 0, "", tokens[:2]), (completion,), {"exact": rewards}, rewards)


def test_an_example_of_one_advantage_and_one_version_travels_as_its_tokens_and_log_probs() -> None:
    group = a_group((VersionSpan(3, 0, NUM_TOKENS),))
    (example,) = examples_of([group], [np.ones(1, np.float32)], [np.array([0.25])], mask_truncated=False)
    sent = pickle.dumps(example, protocol=5)
    assert len(sent) < 2 * 4 * NUM_TOKENS + 2000
    came = pickle.loads(sent)
    for name, value in (("loss_mask", 1.0), ("advantages", 0.25), ("token_versions", 3)):
        array = getattr(came, name)
        np.testing.assert_array_equal(array, np.full(NUM_TOKENS, value))
        assert array.dtype == getattr(example, name).dtype
    np.testing.assert_array_equal(came.completion_ids, example.completion_ids)
    assert came.loss_mask.dtype == np.float32 and came.token_versions.dtype == np.int32


def test_arrays_of_several_values_and_empty_ones_travel_as_they_are() -> None:
    group = a_group((VersionSpan(3, 0, 4), VersionSpan(4, 4, NUM_TOKENS)))
    (example,) = examples_of([group], [np.ones(1, np.float32)], [np.array([0.25])], mask_truncated=False)
    came = pickle.loads(pickle.dumps(example))
    assert came.token_versions.tolist() == [3] * 4 + [4] * (NUM_TOKENS - 4)
    nothing = np.zeros(0, np.int32)
    empty = pickle.loads(pickle.dumps(Example(nothing, nothing, constant(1, 0), weight=2.0, facts={"side": 1.0})))
    assert empty.loss_mask.shape == (0,) and empty.weight == 2.0 and empty.facts == {"side": 1.0}
    assert empty.rollout_logps is None
