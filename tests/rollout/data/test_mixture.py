"""Several sources of pairs in one order: whose turn it is, which row of it, and what the fingerprint covers."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from raylign.rollout.data.config import DataConfig, MoreDataConfig
from raylign.rollout.data.mixture import PairMixture, SourceTurns
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.data.shares import parts_of, shares_problem
from tests.rollout.data.small import small_tokenizer, write_rows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return small_tokenizer()


def opened(folder: Path, tokenizer: Any, name: str, count: int, seed: int = 0, **keys: Any) -> PromptSource:
    rows = [{"prompt": f"{name}{number}?", "chosen": " yes", "rejected": " no"} for number in range(count)]
    source = write_rows(folder / f"{name}.jsonl", *rows)
    config = DataConfig(source=source, prompt="{prompt}", reference=None, template="{prompt}", **keys)
    return PromptSource.open_pairs(config, tokenizer, seed, 100, 100)


def texts(rows: PairMixture, start: int, count: int) -> list[str]:
    return [rows.pair(ordinal).prompt.text for ordinal in range(start, start + count)]


def test_turns_by_hand() -> None:
    # Two thirds and a third: rows of the first are due before places 2 and 3, the one of the second before 3.
    two_to_one = SourceTurns([2, 1])
    assert [two_to_one.at(ordinal) for ordinal in range(6)] == [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1)]
    # 0.6 and 0.4: due before 2, 4, 5 and before 3, 5; the second row of the first may stand from place 1 on.
    assert [SourceTurns([3, 2]).at(ordinal)[0] for ordinal in range(5)] == [0, 1, 0, 0, 1]
    assert SourceTurns([600, 400]).at(10**9 + 4) == SourceTurns([3, 2]).at(10**9 + 4) == (1, 400_000_001)


@pytest.mark.parametrize("parts", [[1], [1, 1], [7, 3], [99, 1], [5, 3, 2], [7, 2, 1], [1, 1, 1, 1], [13, 8, 5, 3, 1]])
def test_every_source_has_its_share_to_within_one_row(parts: list[int]) -> None:
    total = sum(parts)
    turns = SourceTurns(parts)
    order = [turns.at(ordinal) for ordinal in range(3 * total)]
    for source, part in enumerate(parts):
        own = [number for whose, number in order if whose == source]
        assert own == list(range(3 * part))
        counts = list(accumulate((int(whose == source) for whose, _ in order), initial=0))
        assert all(abs(count * total - part * place) < total for place, count in enumerate(counts))
        most = 1 if len(parts) <= 2 else 2
        for length in (1, 2, 5, total // 2 + 1):
            stretches = (last - first for first, last in zip(counts, counts[length:], strict=False))
            assert all(abs(count * total - part * length) < most * total for count in stretches)


def test_turns_do_not_depend_on_what_was_asked_before() -> None:
    there, back = SourceTurns([5, 3, 2]), SourceTurns([5, 3, 2])
    forward = [there.at(ordinal) for ordinal in range(25)]
    assert [back.at(ordinal) for ordinal in reversed(range(25))] == forward[::-1]


def test_without_shares_every_pair_comes_once_in_an_epoch(tokenizer: Any, tmp_path: Path) -> None:
    sources = [opened(tmp_path, tokenizer, name, count) for name, count in (("a", 6), ("b", 3))]
    rows = PairMixture(sources, [None])
    assert len(rows) == 9
    everything = {*(f"a{number}?" for number in range(6)), *(f"b{number}?" for number in range(3))}
    first, second = texts(rows, 0, 9), texts(rows, 9, 9)
    assert set(first) == set(second) == everything
    assert first != second
    assert [text[0] for text in first] == list("aabaabaab")


def test_with_a_share_a_source_is_gone_through_as_often_as_it_needs(tokenizer: Any, tmp_path: Path) -> None:
    rows = PairMixture([opened(tmp_path, tokenizer, "a", 6), opened(tmp_path, tokenizer, "b", 2)], [0.5])
    seen = Counter(texts(rows, 0, len(rows)))  # 8 rows: 4 of the 6 of a, both of b twice
    assert Counter(text[0] for text in seen.elements()) == {"a": 4, "b": 4}
    assert (seen["b0?"], seen["b1?"]) == (2, 2)
    assert max(seen[f"a{number}?"] for number in range(6)) == 1
    # the rest of a follows in the next epoch
    assert {f"a{number}?" for number in range(6)} <= set(texts(rows, 0, 12))


def test_two_runs_and_a_resumed_one_have_the_same_order(tokenizer: Any, tmp_path: Path) -> None:
    def mixture(seed: int) -> PairMixture:
        return PairMixture(
            [opened(tmp_path, tokenizer, name, 5, seed + place) for place, name in enumerate("abc")], [0.3, 0.2]
        )

    whole = texts(mixture(0), 0, 40)
    assert texts(mixture(0), 0, 40) == whole
    assert texts(mixture(0), 23, 17) == whole[23:]
    assert texts(mixture(1), 0, 40) != whole
    rows = mixture(0)
    assert [rows.prompt(ordinal).ordinal for ordinal in range(40)] == list(range(40))
    assert [rows.pair(ordinal).prompt.ordinal for ordinal in range(40)] == list(range(40))


def test_the_fingerprint_covers_rows_keys_and_shares(tokenizer: Any, tmp_path: Path) -> None:
    a, b = opened(tmp_path, tokenizer, "a", 4), opened(tmp_path, tokenizer, "b", 4)
    other = opened(tmp_path, tokenizer, "b", 4, shuffle=False)
    mixtures = [([a, b], None), ([a, b], 0.3), ([a, b], 0.4), ([b, a], 0.3), ([a, other], 0.3)]
    fingerprints = [PairMixture(sources, [share]).fingerprint for sources, share in mixtures]
    assert len(set(fingerprints)) == len(mixtures)
    assert PairMixture([a, b], [0.3]).fingerprint == fingerprints[1]


def test_shares_are_what_is_written() -> None:
    assert parts_of([100, 7, 9], [0.1, 0.2]) == [7, 1, 2]
    assert parts_of([100, 7, 9], [None, None]) == [100, 7, 9]


def test_shares_that_cannot_be_kept_are_named() -> None:
    assert shares_problem([]) is shares_problem([None, None]) is shares_problem([0.1, 0.2]) is None
    assert "add up to 1," in str(shares_problem([0.3, 0.7]))
    assert "more_data[1].share is empty" in str(shares_problem([0.3, None]))
    for share in (0, -0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=r"share"):
            MoreDataConfig(share=share)
