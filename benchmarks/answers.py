r"""How often a right answer counts as right and a wrong one as right, by the notation in which it is written.

Given real answers (GSM8K's model solutions with their labels; the answers of SVAMP, ASDiv and MAWPS), writes each in 24
notations, once with the right number and once with a wrong one, and gives a table. Needs no engine:

    python -m benchmarks.answers DATA
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from raylign.rewards.answers import answer_of, reference_quantity, same_answer
from raylign.rewards.quantities import Number

SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def grouped(number: str, mark: str) -> str:
    """`1234.5` with `mark` between thousands."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, point, rest = digits.partition(".")
    return sign + f"{int(whole):,}".replace(",", mark) + point + rest


def signed(number: str, dress: Callable[[str], str]) -> str:
    """`dress` on the digits, the sign before it."""
    return "\u2212" + dress(number[1:]) if number.startswith("-") else dress(number)


NOTATIONS: dict[str, Callable[[str], str]] = {
    "5": lambda n: n,
    "The answer is 5.": lambda n: f"The answer is {n}.",
    "#### 5": lambda n: f"2 and 3 make it.\n#### {n}",
    r"\boxed{5}": lambda n: rf"So it is \boxed{{{n}}}.",
    "<answer>5</answer>": lambda n: f"<think>2 + 3</think><answer>{n}</answer>",
    "**5**": lambda n: f"It is **{n}**",
    "$5$": lambda n: f"It is ${n}$.",
    "= 5": lambda n: f"x = {n}",
    "5 apples": lambda n: f"They have {n} apples.",
    "5 m^2": lambda n: f"{n} m^2",
    "€5": lambda n: signed(n, "€{}".format),
    r"\$5": lambda n: signed(n, r"\${}".format),
    "5 %": lambda n: f"{n} %",
    "1,234": lambda n: grouped(n, ","),
    "1{,}234": lambda n: grouped(n, "{,}"),
    r"1,\!234": lambda n: grouped(n, r",\!"),
    "1 234": lambda n: grouped(n, " "),
    "1 234 (thin space)": lambda n: grouped(n, "\u2009"),
    "- 5": lambda n: n.replace("-", "- "),
    "\u20135 (en dash)": lambda n: n.replace("-", "\u2013"),
    r"\frac{5}{1}": lambda n: signed(n, lambda digits: rf"\frac{{{digits}}}{{1}}"),
    r"5 \text{ cm}": lambda n: rf"\({n} \text{{ cm}}\)",
    "5 [1]": lambda n: f"It is {n} [1].",
    "a number after it": lambda n: f"The answer is {n}. It took 2 steps.",
}
COMPOUND = ("1/2", "12:30", "3:4", "(1,3)", r"\frac{1}{3}", r"3\sqrt{2}", "10{,}000", r"10,\!000")
WRONG_FOR_COMPOUND = (
    ("2", "3/2", "1"),
    ("30", "12", "1:30", "12:03"),
    ("4", "3", "4:3", "3:5"),
    ("3", "1", "(5,3)", "(3,1)"),
    ("3", "1", r"\frac{2}{3}", r"\frac{3}{1}"),
    ("2", "3", r"7\sqrt{2}", r"3\sqrt{3}", "32"),
    ("5{,}000", "0", "000", "10"),
    (r"5,\!000", "0", "000", "10"),
)


def lines(path: Path) -> Iterator[Any]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")
    yield from map(json.loads, filter(None, text.split("\n")))


def numbers(data: Path) -> list[str]:
    """Answers of word problems that are one plain number, both signs of each."""
    found: dict[str, None] = {}
    for file, column in (
        ("svamp/svamp.jsonl", "Answer"),
        ("asdiv/asdiv.jsonl", "Answer"),
        ("mawps/mawps.jsonl", "target"),
    ):
        for row in lines(data / file):
            try:
                quantity = reference_quantity(str(row[column]))
            except ValueError:
                continue
            if isinstance(quantity, Number) and not quantity.root and 10**6 % quantity.factor.denominator == 0:
                text = format(Decimal(quantity.factor.numerator) / quantity.factor.denominator, "f")
                found |= dict.fromkeys((text, f"-{text}") if quantity.factor > 0 else (text,))
    return list(found)


def agreement(data: Path) -> list[tuple[str, int, int, int, int]]:
    """Notation, right answers taken, right answers, wrong answers taken, wrong answers."""
    answers = numbers(data)
    table = []
    for name, write in NOTATIONS.items():
        right = [same_answer(write(number), number, "numeric", find=answer_of) for number in answers]
        pairs = [(wrong, number) for number in answers for wrong in wrongs(number)]
        taken = [same_answer(write(wrong), number, "numeric", find=answer_of) for wrong, number in pairs]
        table.append((name, sum(right), len(right), sum(taken), len(taken)))
    pairs = [(each, reference) for reference, given in zip(COMPOUND, WRONG_FOR_COMPOUND, strict=True) for each in given]
    right = [same_answer(reference, reference, "numeric", find=answer_of) for reference in COMPOUND]
    taken = [same_answer(wrong, reference, "numeric", find=answer_of) for wrong, reference in pairs]
    table.append(("fractions, times, ratios, tuples, roots", sum(right), len(right), sum(taken), len(taken)))
    return table


def wrongs(number: str) -> list[str]:
    """One more, the other sign, and another digit before it."""
    other = number[1:] if number.startswith("-") else f"-{number}"
    longer = f"-7{number[1:]}" if number.startswith("-") else f"7{number}"
    return [each for each in (str(Decimal(number) + 1), other, longer) if Decimal(each) != Decimal(number)]


def labelled(data: Path) -> tuple[int, int]:
    """Model solutions judged as their label says, and all."""
    agreed = total = 0
    for row in lines(data / "gsm8k/model_solutions.jsonl.gz"):
        for solver in SOLVERS:
            if row.get(solver):
                found = same_answer(row[solver]["solution"], row["ground_truth"], "numeric", find=answer_of)
                agreed, total = agreed + (found == row[solver]["is_correct"]), total + 1
    return agreed, total


def main() -> None:
    data = Path(sys.argv[1])
    agreed, total = labelled(data)
    print(f"model solutions judged as their label says: {agreed} of {total}\n")
    print("| notation | right taken as right | wrong taken as right |\n|---|---|---|")
    for name, right, num_right, taken, num_wrong in agreement(data):
        print(f"| `{name}` | {right} of {num_right} | {taken} of {num_wrong} |")


if __name__ == "__main__":
    main()
