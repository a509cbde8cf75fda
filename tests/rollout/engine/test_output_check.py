"""What an engine may not hand in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raylign.rollout.engine.output_check import why_refused
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig

SAMPLING = SamplingConfig(max_tokens=4, num_completions=2)
GOOD = Completion(
    np.arange(3, dtype=np.int32),
    np.array([-0.5, 0.0, -2.0], np.float32),
    (VersionSpan(3, 0, 2), VersionSpan(4, 2, 3)),
    "stop",
    "abc",
)
PROMPT = Prompt(prompt_id="p", ordinal=0, text="q", token_ids=np.ones(2, np.int32))


def refused(*completions: Completion) -> str | None:
    return why_refused(Group(PROMPT, completions), SAMPLING)


def test_whole_groups_pass() -> None:
    assert refused(GOOD, GOOD) is None


def test_too_few_and_too_many_completions_are_refused() -> None:
    assert refused(GOOD) == "1 completions instead of 2"
    assert refused(GOOD, GOOD, GOOD) == "3 completions instead of 2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stop_reason": "aborted"}, "it is unfinished"),
        ({"logps": np.array([-0.5, np.nan, -2.0], np.float32)}, "a log-prob is not a finite number of at most 0"),
        ({"logps": np.array([-0.5, 0.7, -2.0], np.float32)}, "a log-prob is not a finite number of at most 0"),
        ({"version_spans": (VersionSpan(3, 0, 2),)}, "its weight versions cover [0] to [2] instead of all 3 tokens"),
        ({"version_spans": ()}, "its weight versions cover [] to [] instead of all 3 tokens"),
    ],
)
def test_incomplete_evidence_is_refused(change: dict[str, Any], words: str) -> None:
    assert refused(GOOD, replace(GOOD, **change)) == f"completion 1: {words}"


def test_more_tokens_than_asked_for_and_none_are_refused() -> None:
    long = Completion(np.zeros(5, np.int32), np.zeros(5, np.float32), (VersionSpan(0, 0, 5),), "length", "")
    none = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), (), "stop", "")
    assert refused(GOOD, long) == "completion 1: 5 tokens, where 1 to 4 were asked for"
    assert refused(GOOD, none) == "completion 1: 0 tokens, where 1 to 4 were asked for"


def test_a_completion_cannot_even_be_made_with_wrong_counts() -> None:
    with pytest.raises(ValueError, match="3 token ids but 2 log-probabilities"):
        replace(GOOD, logps=np.zeros(2, np.float32))
