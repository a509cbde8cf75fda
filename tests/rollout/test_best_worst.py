"""Best and worst of n: which answers are taken, which pairs are dropped, what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from raylign.rollout.best_worst import Answer, AnswerSet, best_and_worst, check_sizes, original_lines, preference_row

SCORES = (0.2, -1.0, 0.9, 0.9, -1.0, 1.5, -2.0, 0.1)


def drawn(scores: Sequence[float | None], texts: Sequence[str] | None = None) -> AnswerSet:
    texts = texts or [f"answer {index}" for index in range(len(scores))]
    return AnswerSet(
        ordinal=4,
        prompt_id="3f2a-17",
        prompt="Human: hi\n\nAssistant:",
        answers=tuple(Answer(text, (5, 2), finished=index != 1) for index, text in enumerate(texts)),
        scores=tuple(scores),
        rewards={"exact": tuple(scores)},
        policy="models/sft@12ab",
        seed=7,
        fingerprint="3f2ac0de",
        references=("hello",),
        row={"question": "hi"},
    )


@pytest.mark.parametrize(("n", "expected"), [(2, (0, 1)), (3, (2, 1)), (4, (2, 1)), (6, (5, 1)), (8, (5, 6))])
def test_best_and_worst_are_the_first_of_equals_among_the_first_n(n: int, expected: tuple[int, int]) -> None:
    assert best_and_worst(SCORES, n) == expected


def test_a_row_has_all_that_training_needs() -> None:
    row = preference_row(drawn(SCORES), 4)
    assert isinstance(row, dict)
    assert row == {
        "prompt": "Human: hi\n\nAssistant:",
        "chosen": "answer 2",
        "rejected": "answer 1",
        "sft_target": "answer 2",
        "n": 4,
        "scores": [0.2, -1.0, 0.9, 0.9],
        "chosen_score": 0.9,
        "rejected_score": -1.0,
        "chosen_finished": True,
        "rejected_finished": False,
        "chosen_index": 2,
        "rejected_index": 1,
        "seed": 7,
        "policy": "models/sft@12ab",
        "prompt_id": "3f2a-17",
        "ordinal": 4,
        "fingerprint": "3f2ac0de",
        "references": ["hello"],
        "messages": [],
        "row": {"question": "hi"},
    }
    assert json.loads(json.dumps(row)) == row


def test_all_tied_answers_make_no_pair_but_a_tie_among_some_does() -> None:
    assert preference_row(drawn([1.0, 1.0, 1.0, 0.0]), 3) == "tied"
    row = preference_row(drawn([1.0, 1.0, 1.0, 0.0]), 4)
    assert isinstance(row, dict) and (row["chosen_index"], row["rejected_index"]) == (0, 3)


def test_a_missing_score_spoils_only_those_n_that_it_is_among() -> None:
    answers = drawn([0.1, 0.2, None, 0.4])
    assert isinstance(preference_row(answers, 2), dict)
    assert preference_row(answers, 3) == preference_row(answers, 4) == "unscored"
    assert preference_row(drawn([0.1, float("nan")]), 2) == "unscored"


def test_equal_texts_and_empty_texts_make_no_pair() -> None:
    assert preference_row(drawn([0.1, 0.2], ["same", "same"]), 2) == "same_text"
    assert preference_row(drawn([0.1, 0.2], ["", "good"]), 2) == "empty"
    assert preference_row(drawn([0.1, 0.2], ["bad", " \n"]), 2) == "empty"


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([], "best_of is empty"),
        ([1, 2], "at least 2"),
        ([8, 3], r"in rising order: \[3, 8\]"),
        ([3, 3], "each number once"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_sizes(sizes)


def test_there_is_no_best_of_more_than_were_drawn() -> None:
    with pytest.raises(ValueError, match=r"n is 9: allowed are 2 to 8"):
        best_and_worst(SCORES, 9)
    with pytest.raises(ValueError, match="prompt 3f2a-17 has 8 answers: there is no best of 9"):
        preference_row(drawn(SCORES), 9)


def test_the_published_format_appends_pairs_of_a_repeated_prompt() -> None:
    first, second = preference_row(drawn(SCORES), 2), preference_row(drawn(SCORES), 8)
    other = preference_row(replace(drawn(SCORES), prompt="Human: bye\n\nAssistant:"), 3)
    assert isinstance(first, dict) and isinstance(second, dict) and isinstance(other, dict)
    assert original_lines([first, other, second]) == [
        {
            "Human: hi\n\nAssistant:": {
                "responses": ["answer 0", "answer 1", "answer 5", "answer 6"],
                "pairs": [[0, 1], [2, 3]],
                "sft_target": "answer 0",
            }
        },
        {
            "Human: bye\n\nAssistant:": {
                "responses": ["answer 2", "answer 1"],
                "pairs": [[0, 1]],
                "sft_target": "answer 2",
            }
        },
    ]


def test_an_answer_set_comes_back_from_its_line() -> None:
    answers = drawn([0.1, None])
    assert AnswerSet.from_line(json.loads(json.dumps(answers.as_line()))) == answers
