"""Which rows were kept, dropped or answered anew, with text and weight: what a run of BDR shows for itself.

Given the weighed rows, the selector's state and the policy's answers; gives `selection.parquet` and, where asked,
`selected.jsonl`, the rows of the largest logits as they stood in the data, for a fresh sft (SEAL).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from raylign.jobs.run.folder import write_atomically
from raylign.learners.algorithms.facts import SelectionPlan
from raylign.learners.examples.row_shares import top_rows
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import FloatArray, Group

SELECTION_FILE, SELECTED_FILE = "selection.parquet", "selected.jsonl"
ANSWER = pa.struct([("text", pa.string()), ("version", pa.int32())])
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("source_row", pa.int64()),
        pa.field("prompt", pa.string()),
        pa.field("response", pa.string()),
        pa.field("weight", pa.float32()),
        pa.field("logit", pa.float32()),
        pa.field("state", pa.string()),
        pa.field("answers", pa.list_(ANSWER)),
    ]
)


def kept_rows(plan: SelectionPlan, weights: FloatArray, logits: FloatArray) -> set[int]:
    """Rows that count as kept: the top share to export, those that a gate over all rows would pass, or without either
    those that weigh no less than all did at the start."""
    if plan.kept_share is None:
        return set(np.flatnonzero(weights >= 1.0 - 1e-3).tolist())
    return set(top_rows(logits, plan.kept_share)) if plan.kept_share else set()


def write_selection(
    folder: Path,
    rows: PromptSource,
    plan: SelectionPlan,
    state: Mapping[str, Any],
    groups: Mapping[int, Group],
    step: int,
) -> None:
    """`state`: the algorithm's, with weights and logits. `groups`: the answers in use, by row."""
    weights, logits = state["weights"], state["logits"]
    kept = kept_rows(plan, weights, logits)
    lines = []
    for row in range(len(rows)):
        prompt, response = rows.texts_of_row(row)
        group = groups.get(row)
        answers = [
            {"text": completion.text, "version": completion.version_spans[-1].version}
            for completion in (group.completions if group else ())
            if completion.version_spans
        ]
        lines.append(
            {
                "row": row,
                "source_row": rows.mapped_row(row).index,
                "prompt": prompt,
                "response": response,
                "weight": float(weights[row]),
                "logit": float(logits[row]),
                "state": "regenerated" if answers else "kept" if row in kept else "dropped",
                "answers": answers,
            }
        )
    metadata = {"raylign.step": str(step), "raylign.fingerprint": rows.fingerprint}
    table = pa.Table.from_pylist(lines, schema=SCHEMA.with_metadata(metadata))
    temporary = folder / f".tmp-{SELECTION_FILE}"
    pa.parquet.write_table(table, temporary)
    temporary.replace(folder / SELECTION_FILE)
    if plan.export_share is not None:
        chosen = (rows.mapped_row(row).row for row in top_rows(logits, plan.export_share))
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in chosen)
        write_atomically(folder / SELECTED_FILE, text)


def read_selection(folder: Path) -> list[dict[str, Any]]:
    """The rows of `selection.parquet`; none where the run has no such file."""
    path = folder / SELECTION_FILE
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = pa.parquet.read_table(path).to_pylist()
    return rows
