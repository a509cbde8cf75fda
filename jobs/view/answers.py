"""Answers of two runs or checkpoints to the same prompts, side by side.

Given folders; gives what answers each holds (held-out answers of a step, kept samples, an evaluation, both sides of a
comparison, drawn answers), and pairs of them by prompt. Texts are escaped here: nothing of them is ever HTML.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from raylign.jobs.view.files import read_as, read_lines

Order = Literal["as they come", "best first", "worst first", "largest change first"]
ORDERS: tuple[Order, ...] = ("as they come", "best first", "worst first", "largest change first")
LONGEST_COMPARED = 20_000
"""Characters; words of longer texts are not compared one by one."""


@dataclass(frozen=True)
class Answer:
    """One answer to one prompt."""

    text: str
    score: float | None = None


@dataclass(frozen=True)
class Both:
    """Two answers to one prompt."""

    prompt: str
    left: Answer
    right: Answer

    @property
    def change(self) -> float | None:
        """How much more the right one scores."""
        if self.left.score is None or self.right.score is None:
            return None
        return self.right.score - self.left.score


def answer_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """What there is to read in a folder: label, file, and which of its answers."""
    found: dict[str, tuple[Path, str]] = {}
    for part, words in (("evaluation", "held-out answers"), ("samples", "kept samples")):
        for path in sorted((folder / part).glob("step-*.jsonl"), reverse=True):
            found[f"{words}, {path.stem.replace('-', ' ')}"] = (path, "response")
    if (folder / "comparison.jsonl").is_file():
        found["comparison: new"] = (folder / "comparison.jsonl", "new")
        found["comparison: reference"] = (folder / "comparison.jsonl", "reference")
    if (folder / "samples.jsonl").is_file():
        found["answers"] = (folder / "samples.jsonl", "response")
    for path in sorted(folder.glob("draws*.jsonl")):
        found[f"drawn answers ({path.stem})"] = (path, "response")
    return found


def read_answers(path: Path, which: str) -> dict[str, Answer]:
    """The first answer to each prompt, in the order of the file."""
    return read_as(path, f"answers {which}", lambda place: dict(_answers(read_lines(place), which))) or {}


def paired(left: Mapping[str, Answer], right: Mapping[str, Answer], order: Order) -> list[Both]:
    """Prompts that both answer. Best and worst are the right one's; an answer without a score comes last."""
    both = [Both(prompt, answer, right[prompt]) for prompt, answer in left.items() if prompt in right]
    if order == "best first":
        both.sort(key=lambda each: -_or_low(each.right.score))
    elif order == "worst first":
        both.sort(key=lambda each: math.inf if each.right.score is None else each.right.score)
    elif order == "largest change first":
        both.sort(key=lambda each: -_or_low(None if each.change is None else abs(each.change)))
    return both


def marked(text: str, other: str) -> str:
    """HTML: the text, with the words marked that the other has not."""
    if len(text) + len(other) > LONGEST_COMPARED:
        return escape(text)
    words, others = re.findall(r"\s+|[^\s]+", text), re.findall(r"\s+|[^\s]+", other)
    parts = []
    for kind, start, end, _, _ in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        said = escape("".join(words[start:end]))
        parts.append(said if kind == "equal" or not said.strip() else f"<mark>{said}</mark>")
    return "".join(parts)


def _answers(lines: Sequence[Mapping[str, Any]], which: str) -> Iterator[tuple[str, Answer]]:
    seen: set[str] = set()
    for line in lines:
        prompt = line.get("prompt")
        answer = _answer(line, which)
        if isinstance(prompt, str) and answer is not None and prompt not in seen:
            seen.add(prompt)
            yield prompt, answer


def _answer(line: Mapping[str, Any], which: str) -> Answer | None:
    """Of a line of any of our files."""
    if which in ("new", "reference"):
        text, score = line.get(which), line.get(f"{which}_score")
        judge = line.get("judge")
        if score is None and isinstance(judge, Mapping):
            score = judge.get(f"{which}_score")
        return _made(text, score)
    if isinstance(completions := line.get("completions"), list):
        first = completions[0] if completions else None
        return _made(first.get("text"), first.get("total")) if isinstance(first, Mapping) else None
    if isinstance(answers := line.get("answers"), list):
        first, scores = (answers[0] if answers else None), line.get("scores")
        score = scores[0] if isinstance(scores, list) and scores else None
        return _made(first.get("text"), score) if isinstance(first, Mapping) else None
    return _made(line.get("response"), line.get("reward", line.get("score")))


def _made(text: Any, score: Any) -> Answer | None:
    if not isinstance(text, str):
        return None
    is_number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
    return Answer(text, float(score) if is_number else None)


def _or_low(value: float | None) -> float:
    return -math.inf if value is None else value
