"""The experience schema: scored groups as Arrow rows, on the wire and on disk.

Given groups, `groups_to_batch` gives a record batch with one row a group; `batch_to_groups` gives exactly them
back, its arrays views of the batch. `docs/experience.md` explains every column.

Nothing here loops over tokens: a column of lists is one flat array and its offsets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylign.rollout.late_text import Decode
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan

VERSION = 1
"""Raised when a column changes its meaning or goes. A new column that may be null needs no new version."""

SPAN = pa.struct([("version", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])
FAILURE = pa.struct([("kind", pa.string()), ("where", pa.string()), ("message", pa.string())])

SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("prompt_id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
        pa.field("references", pa.list_(pa.string())),
        pa.field("messages_json", pa.string()),
        pa.field("row_json", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("completion_texts", pa.list_(pa.string())),
        pa.field("completion_token_ids", pa.list_(pa.list_(pa.int32()))),
        pa.field("completion_logps", pa.list_(pa.list_(pa.float32()))),
        pa.field("completion_version_spans", pa.list_(pa.list_(SPAN))),
        pa.field("completion_stop_reasons", pa.list_(pa.string())),
        pa.field("rewards", pa.map_(pa.string(), pa.list_(pa.float32()))),
        pa.field("total_rewards", pa.list_(pa.float32())),
        pa.field("failures", pa.list_(FAILURE)),
        pa.field("timings_s", pa.map_(pa.string(), pa.float64())),
    ],
    metadata={"raylign.experience.version": str(VERSION)},
)


def groups_to_batch(groups: Sequence[Group]) -> pa.RecordBatch:
    """One row a group. The log fills `offset`."""
    prompts = [group.prompt for group in groups]
    completions = [completion for group in groups for completion in group.completions]
    spans = [span for completion in completions for span in completion.version_spans]
    failures = [failure for group in groups for failure in group.failures]
    per_group = _offsets(len(group.completions) for group in groups)

    def of_completions(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(per_group, values)

    columns = {
        "offset": pa.array(np.full(len(groups), -1, np.int64)),
        "ordinal": pa.array([prompt.ordinal for prompt in prompts], pa.int64()),
        "prompt_id": _strings(prompt.prompt_id for prompt in prompts),
        "prompt": _strings(prompt.text for prompt in prompts),
        "prompt_token_ids": _lists([prompt.token_ids for prompt in prompts], np.int32),
        "references": pa.array([prompt.references for prompt in prompts], pa.list_(pa.string())),
        "messages_json": _strings(_to_json(prompt.messages) for prompt in prompts),
        "row_json": _strings(_to_json(prompt.row) for prompt in prompts),
        "fingerprint": _strings(prompt.fingerprint for prompt in prompts),
        "completion_texts": of_completions(_strings(completion.text for completion in completions)),
        "completion_token_ids": of_completions(_lists([c.token_ids for c in completions], np.int32)),
        "completion_logps": of_completions(_lists([c.logps for c in completions], np.float32)),
        "completion_version_spans": of_completions(
            pa.ListArray.from_arrays(
                _offsets(len(completion.version_spans) for completion in completions),
                pa.StructArray.from_arrays(
                    [
                        pa.array([span.version for span in spans], pa.int32()),
                        pa.array([span.start for span in spans], pa.int32()),
                        pa.array([span.end for span in spans], pa.int32()),
                    ],
                    fields=list(SPAN),
                ),
            )
        ),
        "completion_stop_reasons": of_completions(_strings(completion.stop_reason for completion in completions)),
        "rewards": pa.MapArray.from_arrays(
            _offsets(len(group.rewards) for group in groups),
            _strings(name for group in groups for name in group.rewards),
            _lists([values for group in groups for values in group.rewards.values()], np.float32),
        ),
        "total_rewards": _lists([group.total_rewards for group in groups], np.float32),
        "failures": pa.ListArray.from_arrays(
            _offsets(len(group.failures) for group in groups),
            pa.StructArray.from_arrays(
                [
                    _strings(failure.kind for failure in failures),
                    _strings(failure.where for failure in failures),
                    _strings(failure.message for failure in failures),
                ],
                fields=list(FAILURE),
            ),
        ),
        "timings_s": pa.MapArray.from_arrays(
            _offsets(len(group.timings_s) for group in groups),
            _strings(name for group in groups for name in group.timings_s),
            pa.array([seconds for group in groups for seconds in group.timings_s.values()], pa.float64()),
        ),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def batch_to_groups(batch: pa.RecordBatch) -> list[Group]:
    """The groups of a batch. Their arrays are read-only views: the batch lives as long as they do."""
    check_version(batch.schema)
    column: Callable[[str], pa.Array] = batch.column
    prompt_ids, texts = column("prompt_id").to_pylist(), column("prompt").to_pylist()
    ordinals, fingerprints = column("ordinal").to_pylist(), column("fingerprint").to_pylist()
    references = column("references").to_pylist()
    messages = [tuple(json.loads(text)) for text in column("messages_json").to_pylist()]
    rows = [json.loads(text) for text in column("row_json").to_pylist()]
    prompt_token_ids = _views(column("prompt_token_ids"))
    completions = _completions(batch)
    rewards, timings = column("rewards"), column("timings_s")
    reward_names, reward_values = rewards.keys.to_pylist(), _views(rewards.items)
    reward_ends, totals = rewards.offsets.to_pylist(), _views(column("total_rewards"))
    has_total = column("total_rewards").is_valid().to_pylist()
    timing_names, timing_values, timing_ends = (
        timings.keys.to_pylist(),
        timings.items.to_pylist(),
        timings.offsets.to_pylist(),
    )
    failures = column("failures").to_pylist()
    return [
        Group(
            prompt=Prompt(
                prompt_id=prompt_ids[n],
                ordinal=ordinals[n],
                text=texts[n],
                token_ids=prompt_token_ids[n],
                references=tuple(references[n]),
                messages=messages[n],
                row=rows[n],
                fingerprint=fingerprints[n],
            ),
            completions=completions[n],
            rewards={reward_names[i]: reward_values[i] for i in range(reward_ends[n], reward_ends[n + 1])},
            total_rewards=totals[n] if has_total[n] else None,
            failures=tuple(Failure(**failure) for failure in failures[n]),
            timings_s={timing_names[i]: timing_values[i] for i in range(timing_ends[n], timing_ends[n + 1])},
        )
        for n in range(batch.num_rows)
    ]


def _completions(batch: pa.RecordBatch) -> list[tuple[Completion, ...]]:
    """By row. Inner lists are read whole and cut by the outer offsets."""
    ends = batch.column("completion_texts").offsets.to_pylist()
    first = ends[0]

    def inner(name: str) -> pa.Array:
        return batch.column(name).flatten()

    token_ids, logps = _views(inner("completion_token_ids")), _views(inner("completion_logps"))
    texts, stop_reasons = inner("completion_texts"), inner("completion_stop_reasons").to_pylist()
    spans = inner("completion_version_spans").to_pylist()
    return [
        tuple(
            Completion(
                token_ids=token_ids[i],
                logps=logps[i],
                version_spans=tuple(VersionSpan(**span) for span in spans[i]),
                stop_reason=stop_reasons[i],
                text=cast(str, Decode(texts, i)),
            )
            for i in range(start - first, end - first)
        )
        for start, end in pairwise(ends)
    ]


def batch_to_message(batch: pa.RecordBatch) -> NDArray[np.uint8]:
    """The batch as bytes in one piece, which Ray moves without a further copy and the log writes as they are."""
    return np.frombuffer(batch.serialize(), np.uint8)


def message_to_batch(message: Any) -> pa.RecordBatch:
    """The batch again, a view of the bytes."""
    return pa.ipc.read_record_batch(pa.py_buffer(message), SCHEMA)


def check_version(schema: pa.Schema) -> None:
    """Raise unless this code can read the schema."""
    found = (schema.metadata or {}).get(b"raylign.experience.version", b"none").decode()
    if found != str(VERSION):
        raise ValueError(
            f"this experience has schema version {found}, but this raylign reads version {VERSION}; "
            "use the raylign that recorded it"
        )


def reward_spreads(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """(rows,) standard deviation of each group's total rewards; 0 where they are unknown."""
    totals = [values[np.isfinite(values)] for values in _views(batch.column("total_rewards"))]
    return np.array([float(np.std(values, dtype=np.float64)) if len(values) else 0.0 for values in totals])


def has_completions(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """(rows,) false for groups that failed."""
    return np.diff(batch.column("completion_texts").offsets.to_numpy()) > 0


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(np.fromiter(chain((0,), accumulate(lengths)), np.int32))


def _strings(values: Iterable[str]) -> pa.Array:
    texts = list(values)
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:  # half a surrogate pair, in somebody's message: its escape says as much, and ends no run
        return pa.array([text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts], pa.string())


def _lists(arrays: Sequence[NDArray[Any] | None], dtype: type[np.generic]) -> pa.Array:
    """A list array of numpy arrays; None becomes null."""
    missing = np.array([array is None for array in arrays], np.bool_)
    present = [np.asarray(array, dtype) for array in arrays if array is not None]
    values = pa.array(np.concatenate(present) if present else np.zeros(0, dtype))
    offsets = _offsets(0 if array is None else len(array) for array in arrays)
    mask = pa.array(missing) if missing.any() else None
    return pa.ListArray.from_arrays(offsets, values, mask=mask)


def _views(lists: pa.Array) -> list[NDArray[Any]]:
    """Each list of a list array, as a view of the values' memory."""
    values = lists.values.to_numpy(zero_copy_only=True)
    ends = lists.offsets.to_pylist()
    return [values[start:end] for start, end in pairwise(ends)]


def _to_json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What a data row may hold and JSON has no word for."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
