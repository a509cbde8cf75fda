"""What a lease hands out: where rows lie, however they lie, and none of their bytes."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path

import numpy as np
import pytest

from raylign.rollout.experience import logged_rows
from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.schema import groups_to_batch
from raylign.rollout.experience.types import ExperienceConfig, ExperienceDamageError, Lease
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

LONG = 300_000


def group(ordinal: int, num_tokens: int = 3) -> Group:
    token_ids = np.arange(ordinal, ordinal + num_tokens, dtype=np.int32)
    completion = Completion(
        token_ids, -token_ids.astype(np.float32), (VersionSpan(ordinal, 0, num_tokens),), "stop", f"text {ordinal}"
    )
    totals = np.array([ordinal, -ordinal], np.float32)
    prompt = Prompt(str(ordinal), ordinal, "2 + 3", token_ids[:2], row={"ordinal": ordinal})
    return Group(prompt, (completion, completion), {"exact": totals}, totals, timings_s={"score": float(ordinal)})


def leased(folder: Path, config: ExperienceConfig, records: list[list[int]], held_back: list[int]) -> Lease:
    """A lease of all groups, but for some that another lease has; appended as `records` say."""
    with ExperienceLog.open(folder, config) as log:
        for ordinals in records:
            log.append(groups_to_batch([group(ordinal) for ordinal in ordinals]))
        for offset in held_back:
            log.ledger.lease([offset])
        lease = log.lease(sum(map(len, records)) - len(held_back), 60)
        assert lease is not None
        return lease


@pytest.mark.parametrize("segment_mib", [256.0, 0.004], ids=["one segment", "many segments"])
def test_rows_come_as_they_were_logged_whichever_records_and_segments_they_lie_in(
    tmp_path: Path, segment_mib: float
) -> None:
    config = ExperienceConfig(segment_mib=segment_mib)
    lease = leased(tmp_path, config, [[4, 1, 7], [0], [2, 3, 5, 6], [8]], held_back=[1, 5])
    assert len(list(tmp_path.glob("segment-*"))) == (1 if segment_mib == 256 else 4)
    assert [(each.first, each.count) for each in lease.rows.ranges] == [(0, 1), (2, 1), (0, 1), (0, 1), (2, 2), (0, 1)]
    groups = lease.rows.groups()
    assert [one.prompt.ordinal for one in groups] == [4, 7, 0, 2, 5, 6, 8]
    for found in groups:
        given = group(found.prompt.ordinal)
        assert found.prompt.row == given.prompt.row and found.timings_s == given.timings_s
        np.testing.assert_array_equal(found.rewards["exact"], given.rewards["exact"])
        for mine, theirs in zip(found.completions, given.completions, strict=True):
            np.testing.assert_array_equal(mine.token_ids, theirs.token_ids)
            np.testing.assert_array_equal(mine.logps, theirs.logps)
            assert (mine.text, mine.version_spans) == (theirs.text, theirs.version_spans)
    assert lease.rows.batch().column("ordinal").to_pylist() == [4, 7, 0, 2, 5, 6, 8]


def test_a_lease_of_many_bytes_is_small_and_its_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, ExperienceConfig()) as log:
        log.append(groups_to_batch([group(0, LONG), group(1, LONG)]))
        lease = log.lease(2, 60)
        assert lease is not None
        sent = pickle.dumps(lease)
        assert len(sent) < 2000
        for one in pickle.loads(sent).rows.groups():
            for array in (one.completions[0].token_ids, one.completions[1].logps):
                owner = array
                while isinstance(owner, np.ndarray):
                    owner = owner.base
                assert not array.flags.owndata and owner is not None and len(array) == LONG


def test_a_checksum_is_read_in_parts_and_finds_a_byte_in_any_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_rows, "CHECKED_BYTES", 3 * mmap.PAGESIZE)
    with ExperienceLog.open(tmp_path, ExperienceConfig()) as log:
        place = log.append(groups_to_batch([group(0, LONG)]))
        assert place.offsets == range(1)
        lease = log.lease(1, 60)
        assert lease is not None
        (segment,) = tmp_path.glob("segment-*")
        content = segment.read_bytes()
        np.testing.assert_array_equal(lease.rows.groups()[0].completions[0].token_ids, np.arange(LONG))
        for place_in_file in (len(content) - 70_000, len(content) // 2):
            damaged = bytearray(content)
            damaged[place_in_file] ^= 1
            segment.write_bytes(damaged)
            with pytest.raises(ExperienceDamageError, match="is damaged; go on by --resume"):
                lease.rows.groups()
            segment.write_bytes(content)
    segment.unlink()
    with pytest.raises(ExperienceDamageError, match="is damaged"):
        lease.rows.groups()
