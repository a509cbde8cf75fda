"""Stage adapt: rows that the base model solves are made harder, the others easier.

Given verified initial rows; gives them with what the base model's one greedy answer was worth, and one rewrite of each,
which is verified like them. Only initial rows are adapted: a rewrite is never rewritten (the published code hardens
easier rewrites as well, which the paper does not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.synthetic.base_answers import BaseModelAnswers
from raylign.jobs.synthetic.generate import rewritten
from raylign.jobs.synthetic.prompts import rewrite_prompt
from raylign.jobs.synthetic.rows import Row, StageResult, same_text, without_repeats
from raylign.jobs.synthetic.teacher import Question, Teacher
from raylign.rollout.sampling import AnswerSamplingConfig


async def solve(base: BaseModelAnswers, rows: Sequence[Row], sampling: AnswerSamplingConfig) -> StageResult:
    """The rows with `is_solved`."""
    found = await base.answers("solve", rows, sampling)
    result = StageResult(facts={"num_unjudged": found.num_unjudged, "num_tokens": found.num_tokens})
    for row in rows:
        if row.row_id in found.by_row:
            result.rows.append(replace(row, is_solved=found.by_row[row.row_id].verdicts[0]))
        else:
            result.dropped.append(Dropped(row.row_id, "solve", _short(found.why_missing[row.row_id]), row.input))
    result.facts["num_solved"] = sum(bool(row.is_solved) for row in result.rows)
    return result


async def adapt(teacher: Teacher, rows: Sequence[Row], seed: int, known_inputs: Sequence[str]) -> StageResult:
    """One rewrite of each row, unverified. `known_inputs`: those of demonstrations."""
    questions = [
        Question(row.row_id, rewrite_prompt(bool(row.is_solved), row.input, row.label), sample=f"{seed}-{row.row_id}")
        for row in rows
    ]
    replies = await teacher.ask("adapt", questions)
    result = StageResult()
    written = [new for row in rows for new in rewritten(row, replies[row.row_id], result.dropped)]
    known = {same_text(text) for text in known_inputs} | {same_text(row.input) for row in rows}
    result.rows, repeated = without_repeats(written, known, "adapt", "input of another row or a demonstration")
    result.dropped += repeated
    num_harder = sum(bool(row.is_solved) for row in rows)
    result.facts = {"num_harder_asked": num_harder, "num_easier_asked": len(rows) - num_harder}
    return result


def _short(reason: str) -> str:
    return reason.split(":")[0] if reason.startswith("too long") else reason[:200]
