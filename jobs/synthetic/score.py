"""Stage score: how many of L answers of the base model to each row are right.

Given verified rows; gives them with all L verdicts, and with the base model's own right answers, for training by
imitation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raylign.jobs.data.dropped import Dropped
from raylign.jobs.synthetic.base_answers import BaseModelAnswers
from raylign.jobs.synthetic.rows import Row, StageResult
from raylign.jobs.synthetic.selection import ScoredRow
from raylign.rollout.sampling import AnswerSamplingConfig


async def score(base: BaseModelAnswers, rows: Sequence[Row], sampling: AnswerSamplingConfig) -> StageResult:
    """In the order of the rows."""
    found = await base.answers("score", rows, sampling)
    result = StageResult(facts={"num_unjudged": found.num_unjudged, "num_tokens": found.num_tokens})
    for row in rows:
        judged = found.by_row.get(row.row_id)
        if judged is None:
            reason = found.why_missing[row.row_id]
            reason = reason.split(":")[0] if reason.startswith("too long") else reason[:200]
            result.dropped.append(Dropped(row.row_id, "score", reason, row.input))
            continue
        distinct = tuple(dict.fromkeys(judged.right_answers))
        result.rows.append(replace(row, verdicts=judged.verdicts, right_answers=distinct))
    return result


def scored_rows(rows: Sequence[Row]) -> list[ScoredRow]:
    """As the selection reads them."""
    return [ScoredRow(row.row_id, row.num_right, len(row.verdicts)) for row in rows]
