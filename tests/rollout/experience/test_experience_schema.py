"""Groups survive the Arrow schema exactly; the documented way of opening a run works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.schema import (
    SCHEMA,
    batch_to_groups,
    batch_to_message,
    groups_to_batch,
    message_to_batch,
    reward_spreads,
)
from raylign.rollout.experience.types import ExperienceConfig
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan

DOCS = Path(__file__).parents[3] / "docs" / "experience.md"


def a_group(ordinal: int, num_completions: int = 2, num_tokens: int = 5) -> Group:
    random = np.random.default_rng(ordinal)
    completions = tuple(
        Completion(
            random.integers(0, 1000, num_tokens + n).astype(np.int32),
            -random.random(num_tokens + n).astype(np.float32),
            (VersionSpan(3, 0, 2), VersionSpan(4, 2, num_tokens + n)),
            "length" if n else "stop",
            f"größe {n}\n",
        )
        for n in range(num_completions)
    )
    totals = random.random(num_completions).astype(np.float32)
    prompt = Prompt(
        prompt_id=f"3f-{ordinal}",
        ordinal=ordinal,
        text="2 + 3 =",
        token_ids=np.array([7, 8, 9], np.int32),
        references=("5", "five"),
        messages=({"role": "user", "content": "2 + 3 ="},),
        row={"question": "2 + 3", "level": 2, "nested": {"a": [1, None, 0.5]}},
        fingerprint="3f",
    )
    rewards = {"exact": totals, "length": 1 - totals}
    return Group(prompt, completions, rewards, totals, (Failure("timeout", "exact", "3 s"),), {"generate": 0.25})


def unscored(ordinal: int) -> Group:
    return Group(a_group(ordinal).prompt, a_group(ordinal).completions)


def failed(ordinal: int) -> Group:
    return Group(Prompt("x", ordinal, "", np.zeros(0, np.int32)), (), failures=(Failure("engine", "engine", "-9"),))


def with_nan(ordinal: int) -> Group:
    nan = np.array([np.nan, 1.0], np.float32)
    empty = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), (), "aborted", "")
    return Group(a_group(ordinal).prompt, (empty, a_group(ordinal).completions[1]), {"exact": nan}, nan)


def assert_same(found: Group, expected: Group) -> None:
    """Field by field: == of arrays is an array, and NaN is not itself."""
    assert found.prompt.token_ids.dtype == np.int32
    np.testing.assert_array_equal(found.prompt.token_ids, expected.prompt.token_ids)
    for name in ("prompt_id", "ordinal", "text", "references", "messages", "row", "fingerprint"):
        assert getattr(found.prompt, name) == getattr(expected.prompt, name)
    assert len(found.completions) == len(expected.completions)
    for mine, theirs in zip(found.completions, expected.completions, strict=True):
        np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)
        assert mine.logps.dtype == np.float32 and mine.logps.tobytes() == theirs.logps.tobytes()
        assert (mine.version_spans, mine.stop_reason, mine.text) == (
            theirs.version_spans,
            theirs.stop_reason,
            theirs.text,
        )
    assert list(found.rewards) == list(expected.rewards)
    for name, rewards_G in expected.rewards.items():
        assert found.rewards[name].tobytes() == rewards_G.tobytes()
    assert (found.total_rewards is None) == (expected.total_rewards is None)
    if found.total_rewards is not None and expected.total_rewards is not None:
        assert found.total_rewards.tobytes() == expected.total_rewards.tobytes()
    assert (found.failures, found.timings_s) == (expected.failures, expected.timings_s)


GROUPS = [a_group(0), unscored(1), failed(2), with_nan(3), a_group(4, num_completions=9, num_tokens=300)]


def test_groups_come_back_exactly() -> None:
    batch = groups_to_batch(GROUPS)
    batch.validate(full=True)
    for found, expected in zip(batch_to_groups(batch), GROUPS, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("start", range(5))
def test_a_slice_of_a_batch_holds_the_groups_of_the_slice(start: int) -> None:
    found = batch_to_groups(groups_to_batch(GROUPS).slice(start, 2))
    for one, expected in zip(found, GROUPS[start : start + 2], strict=True):
        assert_same(one, expected)


def test_no_groups_make_an_empty_batch() -> None:
    assert batch_to_groups(groups_to_batch([])) == []


def test_arrays_are_views_of_the_message() -> None:
    message = batch_to_message(groups_to_batch(GROUPS))
    group = batch_to_groups(message_to_batch(message))[4]
    first, last = message.ctypes.data, message.ctypes.data + len(message)
    for completion in group.completions:
        assert first <= completion.logps.ctypes.data < last
        assert first <= completion.token_ids.ctypes.data < last


def test_the_spread_is_that_of_the_totals_that_are_known() -> None:
    two = Group(a_group(0).prompt, a_group(0).completions, {}, np.array([1, 3], np.float32))
    spreads = reward_spreads(groups_to_batch([two, failed(1), with_nan(2), unscored(3)]))
    assert spreads.tolist() == [1, 0, 0, 0]


def test_experience_of_another_version_is_refused() -> None:
    batch = groups_to_batch(GROUPS[:1]).replace_schema_metadata({"raylign.experience.version": "99"})
    with pytest.raises(ValueError, match="schema version 99, but this raylign reads version 1"):
        batch_to_groups(batch)


def test_a_row_may_hold_what_json_has_no_word_for() -> None:
    prompt = Prompt("x", 0, "", np.zeros(0, np.int32), row={"score": np.float32(0.5), "ids": np.arange(2)})
    assert batch_to_groups(groups_to_batch([Group(prompt, ())]))[0].prompt.row == {"score": 0.5, "ids": [0, 1]}


def test_the_docs_name_every_column_with_its_type() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert dict(rows) == {field.name: str(field.type).replace("string ('", "") for field in SCHEMA}
    assert [name for name, _ in rows] == SCHEMA.names


def test_the_pandas_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(import pandas.*?)```", DOCS.read_text(), re.DOTALL)
    run = tmp_path / "runs" / "my-run"
    with ExperienceLog.open(run / "experience", ExperienceConfig(segment_mib=0.01)) as log:
        for start in range(0, 6, 2):
            log.append(groups_to_batch([a_group(start), a_group(start + 1)]))
    assert len(list((run / "experience").glob("*.arrows"))) > 1
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    groups: Any = names["groups"]
    completions: Any = names["completions"]
    assert list(groups["ordinal"]) == [0, 1, 2, 3, 4, 5]
    assert len(completions) == 12
    expected = [float(total) for n in range(6) for total in np.asarray(a_group(n).total_rewards)]
    assert list(completions["total"]) == expected


def test_a_segment_is_an_ordinary_arrow_stream(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, ExperienceConfig()) as log:
        log.append(groups_to_batch(GROUPS[:2]))
        log.append(groups_to_batch(GROUPS[2:]))
    table = pa.ipc.open_stream(tmp_path / "segment-000000.arrows").read_all()
    assert table.column("offset").to_pylist() == [0, 1, 2, 3, 4]
    assert table.schema.equals(SCHEMA, check_metadata=True)
