"""Stage generate: the teacher describes samples in general, then writes N rows.

Given the task's texts, demonstrations and passages; gives the rows whose reply could be read and whose input is new.
Which demonstrations a prompt shows is drawn by seed and row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.synthetic.config import RowsConfig
from raylign.jobs.synthetic.prompts import Demo, TaskTexts, generation_prompt, pattern_prompt, read_row
from raylign.jobs.synthetic.rows import Row, RowStage, StageResult, same_text, without_repeats
from raylign.jobs.synthetic.teacher import Question, Teacher, failure_words
from raylign.rewards.chat_reply import ChatFailure


@dataclass(frozen=True)
class Material:
    """What rows are written from."""

    texts: TaskTexts
    demos: Sequence[Demo] = ()
    passages: Sequence[str] = ()
    seed: int = 0
    iteration: int = 1


async def describe(teacher: Teacher, material: Material, config: RowsConfig) -> str | None:
    """The pattern; None without demonstrations."""
    if not material.demos:
        return None
    prompt = pattern_prompt(material.texts, material.demos[: config.pattern_demos])
    (answer,) = (await teacher.ask("pattern", [Question("pattern", prompt)])).values()
    if isinstance(answer, ChatFailure):
        raise ValueError(f"the teacher gave no description of the samples: {answer.kind}: {answer.message}")
    return answer[0].strip()


async def generate(teacher: Teacher, material: Material, pattern: str | None, config: RowsConfig) -> StageResult:
    """All initial rows."""
    rows = [_planned(number, material, config) for number in range(config.num_rows)]
    questions = [
        Question(
            row.row_id,
            generation_prompt(
                material.texts,
                pattern,
                [material.demos[place] for place in row.demos],
                None if row.passage is None else material.passages[row.passage][: config.passage_characters],
            ),
            sample=f"{material.seed}-{row.row_id}",
        )
        for row in rows
    ]
    replies = await teacher.ask("generate", questions)
    result = StageResult()
    written: list[Row] = []
    for row in rows:
        written += _written(row, replies[row.row_id], "generate", result.dropped)
    known = {same_text(demo.input) for demo in material.demos}
    result.rows, repeated = without_repeats(written, known, "generate", "input of another row or a demonstration")
    result.dropped += repeated
    result.facts = {
        "num_asked": len(rows),
        "num_passages": len(material.passages),
        "passages_used_again": max(0, len(rows) - len(material.passages)) if material.passages else 0,
        "prompts_with_demos": sum(bool(row.demos) for row in rows),
    }
    return result


def _planned(number: int, material: Material, config: RowsConfig) -> Row:
    """What row `number` is written from, by the seed."""
    row_id = f"r{number:04d}" if material.iteration == 1 else f"i{material.iteration}-r{number:04d}"
    random = Random(f"demos/{material.seed}/{row_id}")
    demos: list[int] = []
    if material.demos and random.random() < len(material.demos) / config.num_rows:
        demos = random.sample(range(len(material.demos)), min(config.demos_shown, len(material.demos)))
    passage = number % len(material.passages) if material.passages else None
    return Row(row_id, "initial", "", "", passage=passage, demos=tuple(demos))


def _written(row: Row, reply: list[str] | ChatFailure, stage: str, dropped: list[Dropped]) -> list[Row]:
    if isinstance(reply, ChatFailure):
        dropped.append(Dropped(row.row_id, stage, failure_words(reply), reply.message))
        return []
    if (read := read_row(reply[0])) is None:
        dropped.append(Dropped(row.row_id, stage, "no object with input and output", reply[0]))
        return []
    return [Row(row.row_id, row.stage, read.input, read.output, row.parent, row.passage, row.demos)]


def rewritten(row: Row, reply: list[str] | ChatFailure, dropped: list[Dropped]) -> list[Row]:
    """The rewrite of a row that the base model has answered, or none with the reason."""
    stage: RowStage = "harder" if row.is_solved else "easier"
    rewrite = Row(f"{row.row_id}{stage[0]}", stage, "", "", row.row_id, row.passage)
    return _written(rewrite, reply, "adapt", dropped)
