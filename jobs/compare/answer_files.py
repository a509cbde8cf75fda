"""Answers to compare, from files.

Given a JSONL file in one of the formats below; gives one `SingleAnswer` a line, or an error that names the line.

    {"prompt": "…", "response": "…"}                     (`references` too, where a reward needs them)
    {"<prompt>": ["<answer>"]}                           the published format of win-rate files
    samples.jsonl of `raylign evaluate`                  with one completion for each prompt
    draws.jsonl of `raylign data best-of-n`              the first answer, or the best of the first n
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylign.rollout.best_worst import AnswerSet, best_and_worst
from raylign.rollout.data.json_lines import read_json_lines

SHOWN = 60
"""Characters of a prompt in an error."""


@dataclass(frozen=True)
class SingleAnswer:
    """One answer to one prompt."""

    prompt: str
    text: str
    num_tokens: int | None = None
    """None where the file does not say."""
    references: tuple[str, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True
    score: float | None = None
    """Total reward; None where it was not scored, or scoring failed."""


def read_answers(path: Path, best_of: int = 1) -> list[SingleAnswer]:
    """All lines of the file. `best_of`: see `answer_of_draw`; for a draw with several answers to a prompt only."""
    if not path.is_file():
        raise ValueError(f"no file {path}")
    answers = []
    for number, line in read_json_lines(path):
        try:
            answers.append(_answer(line, best_of))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number}: {error if str(error) else repr(error)}") from None
    if not answers:
        raise ValueError(f"{path} is empty: there are no answers to compare")
    return answers


def answer_of_draw(drawn: AnswerSet, best_of: int = 1) -> SingleAnswer:
    """The first answer, a plain sample of the policy; or the best of the first n by the scores of the draw."""
    index = 0
    if best_of > 1:
        if best_of > len(drawn.answers):
            raise ValueError(f"best_of is {best_of}, and the draw has {len(drawn.answers)} answers")
        scores = [score for score in drawn.scores[:best_of] if score is not None]
        if len(scores) < best_of:
            raise ValueError(f"one of the first {best_of} answers has no score, so there is no best of them")
        index = best_and_worst(scores, best_of)[0]
    answer = drawn.answers[index]
    return SingleAnswer(
        prompt=drawn.prompt,
        text=answer.text,
        num_tokens=len(answer.token_ids),
        references=drawn.references,
        messages=drawn.messages,
        row=drawn.row,
        finished=answer.finished,
        score=drawn.scores[index],
    )


def check_aligned(new: Sequence[SingleAnswer | None], reference: Sequence[SingleAnswer | None]) -> None:
    """Raise unless both answer the same prompts in the same order. None: a model gave no answer to that prompt."""
    for number, (one, other) in enumerate(zip(new, reference, strict=False), 1):
        if one is not None and other is not None and one.prompt != other.prompt:
            raise ValueError(
                f"line {number}: the two sides answer different prompts: {one.prompt[:SHOWN]!r} and "
                f"{other.prompt[:SHOWN]!r}; both must hold the same prompts in the same order"
            )
    if len(new) != len(reference):
        raise ValueError(
            f"{len(new)} answers of the new model and {len(reference)} of the reference: line "
            f"{min(len(new), len(reference)) + 1} is missing from the shorter one"
        )


def _answer(line: Any, best_of: int) -> SingleAnswer:
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, found {type(line).__name__}")
    if "answers" in line and "policy" in line:
        return answer_of_draw(AnswerSet.from_line(line), best_of)
    if best_of > 1:
        raise ValueError(f"best_of is {best_of}: only draws.jsonl of `data best-of-n` has several scored answers")
    if "prompt" in line and "completions" in line:
        completion = _only(line["completions"], "evaluate with num_completions 1: completions are kept best first")
        finished = completion["stop_reason"] == "stop"
        references = tuple(line.get("references", ()))
        return SingleAnswer(line["prompt"], completion["text"], completion["num_tokens"], references, finished=finished)
    if "prompt" in line and "response" in line:
        references = tuple(line.get("references", ()))
        return SingleAnswer(_text(line["prompt"]), _text(line["response"]), line.get("num_tokens"), references)
    if len(line) == 1:
        prompt, answers = next(iter(line.items()))
        if isinstance(answers, list):
            return SingleAnswer(prompt, _text(_only(answers, "a comparison takes one answer to each prompt")))
    raise ValueError(
        'expected {"prompt": …, "response": …}, {"<prompt>": ["<answer>"]}, samples.jsonl or draws.jsonl; found the '
        f"keys {', '.join(map(repr, list(line)[:5]))}"
    )


def _only(values: Sequence[Any], advice: str) -> Any:
    if len(values) != 1:
        raise ValueError(f"{len(values)} answers to one prompt; {advice}")
    return values[0]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {type(value).__name__}")
    return value
