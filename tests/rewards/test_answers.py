"""Answers as people and models write them: right in every usual form, and never right by a part of something longer.

Given completions and references by hand.
"""

from __future__ import annotations

import os
import time
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.answers import agreement, labelled
from raylign.rewards.answers import answer_of, reference_quantity, same_answer
from raylign.rewards.choices import choice
from raylign.rewards.quantities import UNREAD, Number, plain, quantities


def is_right(completion: str, reference: str) -> bool:
    return same_answer(completion, reference, "numeric", 0.0, answer_of)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", "5"),
        ("The answer is 1,234.", "1234"),
        ("it costs $1,234,567.50.", "1234567.50"),
        ("x = -3.5", "-3.5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("7 - 3 = 4", "4"),
        ("\u22128", "-8"),
        ("1, 2, 3", "3"),
        ("1,23", "23"),
        (".5", "0.5"),
        ("1.5e3 units", "1500"),
        ("2e-2", "0.02"),
        ("9" * 60, "9" * 60),
        ("+4", "4"),
        ("12 apples...", "12"),
        ("step 3: 10%", "10"),
        ("5 tons of CO2", "5"),
        ("e5", "5"),
        (r"3\times 10^{4}", "30000"),
        ("2^5", "32"),
        ("1\u00bd", "1.5"),
        (r"-\frac{1}{2}", "-1/2"),
    ],
)
def test_last_number_is_read_as_a_person_would(text: str, number: str) -> None:
    assert quantities(text)[-1].quantity == Number(Fraction(number))


@pytest.mark.parametrize("text", ["", "none", "...", "$", "-", "x^2", "(C)"])
def test_text_without_numbers_has_no_quantity(text: str) -> None:
    assert quantities(text) == []


@pytest.mark.parametrize("text", ["2+5", "7-3", "x+5", "x/2", "5 or 3", "x > 3", r"\frac{x}{2}", "3x", "12/05/2020"])
def test_part_of_an_expression_is_no_number(text: str) -> None:
    assert quantities(text)[-1].quantity == UNREAD


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("2", "1/2"),
        ("3/2", "1/2"),
        ("30", "12:30"),
        ("4", "3:4"),
        ("12:30 am", "12:30 pm"),
        (r"\frac{2}{3}", r"\frac{1}{3}"),
        (r"7\sqrt{2}", r"3\sqrt{2}"),
        ("2", r"3\sqrt{2}"),
        ("5{,}000", "10{,}000"),
        ("0", r"10,\!000"),
        ("(5,3)", "(1,3)"),
        ("[1,3)", "(1,3)"),
        ("3", "(1,3)"),
        ("(1,3)", "3"),
        (r"\boxed{\frac{x}{2}}", "2"),
        (r"\boxed{x+5}", "5"),
        (r"I get \boxed{5}, but \boxed{6}", "5"),
        ("log 6", "6"),
        ("sin(6)", "6"),
        ("6 mod 7", "7"),
        ("6+", "6"),
        (">6", "6"),
        ("<=6", "6"),
        ("6 \u2264 x", "6"),
        ("-(-6)", "-6"),
        ("it is not 6", "6"),
    ],
)
def test_wrong_answer_is_not_right_by_its_last_digits(completion: str, reference: str) -> None:
    assert not is_right(completion, reference)


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        ("\u20135", "-5"),
        ("- 5", "-5"),
        ("\u2212\u20ac5", "-5"),
        ("5 m^2", "5"),
        ("5 m\u00b2", "5"),
        ("1{,}234", "1234"),
        (r"1,\!234", "1234"),
        (r"1\,234", "1234"),
        ("1 234", "1234"),
        ("1\u2009234", "1234"),
        (r"\frac{5}{1}", "5"),
        ("\u00bd", "0.5"),
        ("0.5", "1/2"),
        ("1.5 million", "1500000"),
        ("5 [1]", "5"),
        ("It is [5]", "5"),
        ("The answer is 5. I used 2 steps.", "5"),
        ("the answer is 5, as computed in step 2", "5"),
        ("#### 5\nThanks to all 3", "5"),
        (r"\boxed{5}. I used 3 steps.", "5"),
        ("Answer: John has 5 apples. He ate 3.", "5"),
        ("The answer is 2 + 3 = 5.", "5"),
        ("12:30 pm", "12:30"),
        ("3:4", "6:8"),
        (r"$\left(1, 3\right)$", "(1,3)"),
        (r"\frac{6\sqrt{2}}{2}", r"3\sqrt{2}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("10000", r"10,\!000"),
        ("16", "16 (oranges)"),
        ("18", "She makes 9 * 2 = $<<9*2=18>>18 every day\n#### 18"),
    ],
)
def test_right_answer_in_another_dress_is_right(completion: str, reference: str) -> None:
    assert is_right(completion, reference)


@pytest.mark.parametrize("reference", ["2 apples and 3 pears", "x+5", r"\frac{x}{2}", "5 or 3", "She has 9 of 2"])
def test_reference_that_is_no_single_quantity_is_refused_with_the_way_out(reference: str) -> None:
    with pytest.raises(ValueError, match="math_verify"):
        reference_quantity(reference)


@pytest.mark.parametrize(
    "text",
    [
        "C",
        "c",
        "(C)",
        "C.",
        "**C**",
        "option C",
        r"\text{C}",
        "C) Paris",
        "The answer is (C) Paris.",
        "[C]",
        r"\boxed{\text{C}}",
        "<answer>C</answer>",
        "A good answer is C",
        "I take option C because A is wrong",
        "Answer: **C**",
    ],
)
def test_letter_of_an_option_is_found_in_any_dress(text: str) -> None:
    assert choice(text) == "C"


@pytest.mark.parametrize("text", ["A or C", "(A) or (C)", "A, C", "A cat sat.", "I am sure", "", "Paris"])
def test_text_that_names_no_option_or_several_has_no_letter(text: str) -> None:
    assert choice(text) is None


@pytest.mark.parametrize(
    "piece", [" ", "1", "1 ", "(1,", "1:", "1/", "- ", r"\frac{1", "the answer is ", "=1", "\n", "$ "]
)
def test_a_long_completion_costs_little_whatever_it_repeats(piece: str) -> None:
    began = time.process_time()
    answer_of(piece * 30_000)
    choice(piece * 30_000)
    assert time.process_time() - began < 2


def test_plain_text_keeps_what_is_no_number() -> None:
    assert plain("two words\u2009and 5") == "two words and 5"


DATA = Path(os.environ.get("RAYLIGN_DATA", Path(__file__).parents[3] / "shared/data"))


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no data folder (RAYLIGN_DATA)")
def test_real_answers_are_judged_as_labelled_and_no_wrong_one_is_right_in_any_notation() -> None:
    agreed, total = labelled(DATA)
    assert agreed == total > 2600
    for notation, right, num_right, taken, num_wrong in agreement(DATA):
        assert (right, taken) == (num_right, 0), notation
        assert num_wrong > 1000 or notation.startswith("fractions")
