"""What the teacher is asked, in our own words, and how its replies become rows.

Given the texts of a task, demonstrations and a passage; gives one user message. The order of the parts is that of the
original program. `PROMPTS_VERSION` is part of every key: replies to older words are not taken for replies to these.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROMPTS_VERSION = 1

_KEYWORD = """\
Name the field of knowledge that the task below belongs to. Reply with the name of the field alone, in a few words."""

_SYNONYMS = """\
Write a JSON list of up to ten short terms that mean the same as, or belong to, this field: {domain}
Reply with the list alone."""

_PATTERN = """\
Read the task and the samples below. Describe what samples of this task look like in general: their subjects, their \
build, their length, their difficulty, how the output follows from the input. Do not mention or quote any single \
sample. Where you can, name forms that the samples do not show yet and that would suit the task as well."""

_GENERATE = """\
You write training data. Write one new sample for the task below, as one JSON object with the keys "input" and \
"output" and nothing around it. It must differ from every sample shown here, be precise and complete in itself, and be \
one of a varied set: choose an unusual subject, form or number. The output must be right."""

_HARDER = """\
The sample below is too simple for the model that is to learn from it. Write a similar one that is clearly harder: it \
should take several steps of thought and some invention. Reply with one JSON object with the keys "input" and "output" \
and nothing else."""

_EASIER = """\
The sample below is too hard for the model that is to learn from it. Write a simpler one, or one that asks for a part \
of the problem. Reply with one JSON object with the keys "input" and "output" and nothing else."""


@dataclass(frozen=True)
class TaskTexts:
    """What a task says of itself."""

    instruction: str
    input_instruction: str | None
    output_instruction: str


@dataclass(frozen=True)
class Demo:
    """A row that the user gave."""

    input: str
    output: str


def keyword_prompt(texts: TaskTexts, demos: Sequence[Demo]) -> str:
    """For the name of the field."""
    return _joined(_KEYWORD, f"Task: {texts.instruction}", _samples("Samples", demos))


def synonyms_prompt(domain: str) -> str:
    """For terms of the field."""
    return _SYNONYMS.replace("{domain}", domain)


def pattern_prompt(texts: TaskTexts, demos: Sequence[Demo]) -> str:
    """For a description of samples."""
    return _joined(_PATTERN, *_about(texts), _samples("Samples", demos))


def generation_prompt(texts: TaskTexts, pattern: str | None, demos: Sequence[Demo], passage: str | None) -> str:
    """For one new row. `pattern` goes with demos alone."""
    return _joined(
        _GENERATE,
        *_about(texts),
        f"What samples look like:\n{pattern}" if pattern and demos else "",
        _samples("Samples that exist already", demos),
        f"Use the content of this passage for the sample:\n{passage}" if passage else "",
    )


def rewrite_prompt(is_solved: bool, row_input: str, row_output: str) -> str:
    """For a harder or an easier row. The teacher sees input and output and nothing else of the row."""
    sample = json.dumps({"input": row_input, "output": row_output}, ensure_ascii=False)
    return _joined(_HARDER if is_solved else _EASIER, f"Sample:\n{sample}")


def _about(texts: TaskTexts) -> list[str]:
    return [
        f"Task: {texts.instruction}",
        f"Form of the input: {texts.input_instruction}" if texts.input_instruction else "",
        f"Form of the output: {texts.output_instruction}" if texts.output_instruction else "",
    ]


def _samples(title: str, demos: Sequence[Demo]) -> str:
    lines = [json.dumps({"input": demo.input, "output": demo.output}, ensure_ascii=False) for demo in demos]
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# replies


def read_row(reply: str) -> Demo | None:
    """The first object with input and output in a reply: as JSON, else as a Python literal, else none. Nothing of a
    reply is ever executed."""
    for text in _objects(reply):
        values = _parsed(text)
        if isinstance(values, Mapping):
            found = [_text(values.get(key, values.get(key.capitalize()))) for key in ("input", "output")]
            if all(found):
                return Demo(*(each or "" for each in found))
    return None


def read_terms(reply: str) -> list[str]:
    """The list in a reply; its words where there is none."""
    start, end = reply.find("["), reply.rfind("]")
    values = _parsed(reply[start : end + 1]) if 0 <= start < end else None
    if isinstance(values, list | tuple):
        return [str(value).strip() for value in values if isinstance(value, str) and value.strip()]
    return [term for word in re.split(r"[,\n]", reply) if (term := word.strip(" -*\t"))]


def _objects(reply: str) -> list[str]:
    """Candidates: from the first brace to the last, and what a code fence holds."""
    start, end = reply.find("{"), reply.rfind("}")
    found = [reply[start : end + 1]] if 0 <= start < end else []
    return [*found, *re.findall(r"```(?:json|python)?\s*(\{.*?\})\s*```", reply, re.DOTALL)]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _text(value: Any) -> str | None:
    """A number is taken as its text; anything that is not one piece of text is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None
