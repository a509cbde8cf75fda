"""Stage verify: the teacher solves each row several times, and the solutions vote for its label.

Given rows; gives those whose votes agree often enough, with label, targets and votes. The output that was written with
a row votes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.synthetic.config import RowsConfig
from raylign.jobs.synthetic.rows import Row, StageResult
from raylign.jobs.synthetic.teacher import Question, Teacher, failure_words
from raylign.jobs.synthetic.voting import verify
from raylign.rewards.chat_reply import ChatFailure
from raylign.rewards.tasks.task import Task


async def verify_rows(
    teacher: Teacher, task: Task, rows: Sequence[Row], config: RowsConfig, seed: int, stage: str = "verify"
) -> StageResult:
    """In the order of the rows."""
    questions = [Question(row.row_id, task.prompt(row.input), config.num_votes, f"{seed}-{row.row_id}") for row in rows]
    replies = await teacher.ask(stage, questions)
    result = StageResult(facts={"num_asked": len(rows)})
    for row in rows:
        solutions = replies[row.row_id]
        if isinstance(solutions, ChatFailure):
            result.dropped.append(Dropped(row.row_id, stage, failure_words(solutions), row.input))
            continue
        votes = [*solutions, row.output] if config.own_vote else solutions
        verified = verify(votes, task.read_votes(votes), seed, row.row_id, config.min_votes)
        if verified is None:
            result.dropped.append(Dropped(row.row_id, stage, "votes do not agree or cannot be read", row.input))
            continue
        result.rows.append(
            replace(
                row,
                label=verified.label,
                targets=verified.targets,
                num_read=verified.vote.num_read,
                num_votes=len(votes),
            )
        )
    return result
