"""Cores of engines and learner on CPU machines."""

from __future__ import annotations

import pytest

from raylign.actors.cores import parse_cores, share_of, split_cores


def test_engines_and_learner_get_half_each() -> None:
    assert split_cores({0, 1}, "auto") == ([0], [1])
    assert split_cores(range(5), "auto") == ([0, 1], [2, 3, 4])


def test_cores_given_to_engines_are_not_the_learners() -> None:
    assert split_cores(range(4), "1-2") == ([1, 2], [0, 3])


def test_a_single_core_is_shared() -> None:
    assert split_cores([3], "auto") == ([3], [3])
    assert split_cores([0], "0") == ([0], [0])


def test_several_engines_share_their_half() -> None:
    assert [share_of([0, 1, 2, 3], index, 2) for index in range(2)] == [[0, 1], [2, 3]]
    assert [share_of([0], index, 2) for index in range(2)] == [[0], [0]]


def test_cores_are_written_as_ranges() -> None:
    assert parse_cores("0-2,5") == [0, 1, 2, 5]
    with pytest.raises(ValueError, match="cpu_cores is 'two': write auto"):
        parse_cores("two")
