"""Selection by score and at random, on the worked-out rows of the specification."""

from __future__ import annotations

import pytest

from raylign.jobs.data.hardness import SelectionMode, select_at_random, select_by_score

SCORES = [0.10, 0.50, 0.10, 0.90, 0.30, 0.70, 0.05, 0.50, 0.20, 0.60]


@pytest.mark.parametrize(
    ("mode", "num_examples", "expected"),
    [
        ("easy", 3, "dfj"),
        ("medium", 3, "bei"),
        ("hard", 3, "acg"),
        ("easy", 4, "dfjb"),
        ("medium", 4, "bhei"),
        ("hard", 4, "iacg"),
        ("medium", 5, "bheic"),
        ("hard", 5, "eiacg"),
        ("hard", None, "dfjbheiacg"),
        ("easy", 10, "dfjbheiacg"),
        ("medium", 99, "dfjbheiacg"),
    ],
)
def test_rows_are_chosen_and_ordered_as_worked_out(
    mode: SelectionMode, num_examples: int | None, expected: str
) -> None:
    assert "".join("abcdefghij"[place] for place in select_by_score(SCORES, mode, num_examples)) == expected


@pytest.mark.parametrize(
    ("num_rows", "num_examples", "expected"),
    [(10, 4, [8, 1, 5, 0]), (6, 3, [0, 1, 5]), (3, 3, [0, 1, 2]), (3, 8, [0, 1, 2])],
)
def test_random_rows_are_those_of_numpys_old_generator(num_rows: int, num_examples: int, expected: list[int]) -> None:
    assert select_at_random(num_rows, num_examples, 42) == expected
