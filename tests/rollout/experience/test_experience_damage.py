"""The experience log on a bad day: killed processes, cut and flipped files, full and read-only disks."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.recovery import recover
from raylign.rollout.experience.replay import ReplayLog
from raylign.rollout.experience.schema import groups_to_batch
from raylign.rollout.experience.types import (
    START,
    ExperienceConfig,
    ExperienceDamageError,
    ExperienceError,
    ExperienceFullError,
    ExperienceWriteError,
    LogPosition,
)
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

FIFO = ExperienceConfig()
SEGMENT = "segment-000000.arrows"


def group(ordinal: int, num_tokens: int = 3) -> Group:
    token_ids = np.full(num_tokens, ordinal, np.int32)
    completion = Completion(token_ids, np.zeros(num_tokens, np.float32), (VersionSpan(0, 0, num_tokens),), "stop", "a")
    return Group(Prompt(str(ordinal), ordinal, "2 + 3", token_ids), (completion,), {}, np.ones(1, np.float32))


def append(log: ExperienceLog, ordinals: Sequence[int]) -> None:
    log.append(groups_to_batch([group(ordinal) for ordinal in ordinals]))


def train(log: ExperienceLog, count: int, step: int) -> list[int]:
    lease = log.lease(count, 60, step)
    assert lease is not None
    log.settle(lease.lease_id, step)
    return [one.prompt.ordinal for one in lease.rows.groups()]


def a_log(folder: Path, segment_mib: float = 256.0) -> LogPosition:
    """Five records of two groups, two of them trained."""
    with ExperienceLog.open(folder, ExperienceConfig(segment_mib=segment_mib)) as log:
        for ordinal in range(0, 10, 2):
            append(log, [ordinal, ordinal + 1])
        assert train(log, 2, 0) == [0, 1]
        position = log.position(0)
        log.commit(position)
    return position


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10
    path.write_bytes(bytes(content))


def record_places(folder: Path) -> list[tuple[int, int]]:
    """(start, end) of each record of the first segment."""
    places = [record.place for record in recover(folder, read_only=True).records]
    return [(place.start, place.start + place.length) for place in places if place.segment == 0]


def rows_in(folder: Path) -> list[int]:
    """Offsets that any Arrow reader finds."""
    segments = sorted(folder.glob("segment-*.arrows"))
    return pa.concat_tables(pa.ipc.open_stream(path).read_all() for path in segments).column("offset").to_pylist()


@pytest.mark.parametrize("record", range(5))
def test_a_flipped_bit_is_named_and_costs_its_record_only(tmp_path: Path, record: int) -> None:
    position = a_log(tmp_path)
    start, end = record_places(tmp_path)[record]
    before = (tmp_path / SEGMENT).read_bytes()[start:end]
    flip(tmp_path / SEGMENT, (start + end) // 2)
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        (damage,) = log.damage
        lost = [2 * record, 2 * record + 1] if record else []  # of the first record all was trained: nothing is lost
        assert (damage.record, damage.byte, damage.num_bytes, list(damage.offsets)) == (
            record,
            start,
            end - start,
            lost,
        )
        assert f"{SEGMENT} is damaged: record {record} at byte {start}" in str(damage)
        assert log.ledger.missing_ordinals() == lost and log.counters.num_lost == len(lost)
        kept = (tmp_path / damage.kept_as).read_bytes()
        assert len(kept) == len(before) and sum(a != b for a, b in zip(kept, before, strict=True)) == 1
        append(log, [*lost, 10])  # issued again
        good = [n for n in range(2, 10) if n not in lost]
        assert train(log, 9, 1) == [*good, *lost, 10]
    offsets = [n for n in range(10) if n // 2 != record]
    assert rows_in(tmp_path) == [*offsets, *range(10, 11 + len(lost))]
    with ExperienceLog.open(tmp_path, FIFO, position) as log:  # told once, known for ever
        assert log.damage == [] and log.counters.num_lost == len(lost)
        assert log.ledger.missing_ordinals() == []


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: hundreds of openings, each of which waits for the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="raylign-test-") as folder:
        yield Path(folder)


def test_the_last_record_cut_anywhere_is_lost_and_nothing_else(quick_path: Path) -> None:
    tmp_path = quick_path
    position = a_log(tmp_path / "whole")
    start, end = record_places(tmp_path / "whole")[-1]
    for size in [*range(start, end, 5), end - 1]:
        folder = tmp_path / "cut"
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(folder / SEGMENT, size)
        with ExperienceLog.open(folder, FIFO, position) as log:
            (damage,) = log.damage
            assert (damage.byte, damage.offsets, damage.kept_as != "") == (start, (8, 9), size > start)
            assert log.ledger.missing_ordinals() == [8, 9]
            append(log, [9, 8])
            assert train(log, 8, 1) == [2, 3, 4, 5, 6, 7, 9, 8]
        assert rows_in(folder) == [*range(8), 10, 11]
        shutil.rmtree(folder)


def test_a_tail_torn_anywhere_was_never_acknowledged_and_is_cut_silently(quick_path: Path) -> None:
    """The journal's last line half-written: a process died inside `append`."""
    tmp_path = quick_path
    position = a_log(tmp_path / "whole")
    journal = (tmp_path / "whole" / "journal.log").read_bytes()
    lines = journal.splitlines(keepends=True)
    last = next(n for n in reversed(range(len(lines))) if b'"append"' in lines[n])
    start = sum(map(len, lines[:last]))
    for size in range(start, start + len(lines[last])):
        folder = tmp_path / "torn"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.log").write_bytes(journal[:size])
        with ExperienceLog.open(folder, FIFO, position) as log:
            assert log.damage == []
            _, end = record_places(tmp_path / "whole")[-1]
            first, _ = record_places(tmp_path / "whole")[-1]
            assert log.num_torn_bytes == size - start + end - first
            append(log, [8, 9])
            assert train(log, 8, 1) == [2, 3, 4, 5, 6, 7, 8, 9]
        assert rows_in(folder) == [*range(10)]
        shutil.rmtree(folder)


def test_a_flipped_bit_anywhere_in_the_journal_never_trains_twice_and_loses_no_prompt(quick_path: Path) -> None:
    tmp_path = quick_path
    position = a_log(tmp_path / "whole")
    size = (tmp_path / "whole" / "journal.log").stat().st_size
    for byte in range(0, size, 3):
        folder = tmp_path / "flipped"
        shutil.copytree(tmp_path / "whole", folder)
        flip(folder / "journal.log", byte)
        with ExperienceLog.open(folder, FIFO, position) as log:
            assert any(damage.file.endswith("journal.log") for damage in log.damage), byte
            missing = [*log.ledger.missing_ordinals(), *range(log.counters.next_ordinal, 10)]
            if missing:
                append(log, missing)
            assert sorted(train(log, 8, 1)) == [2, 3, 4, 5, 6, 7, 8, 9], byte
        with ExperienceLog.open(folder, FIFO, position) as log:
            assert log.damage == []
            assert sorted(train(log, 8, 1)) == [2, 3, 4, 5, 6, 7, 8, 9], byte
        shutil.rmtree(folder)


def test_a_journal_that_is_gone_is_said_and_what_a_checkpoint_trained_stays_trained(tmp_path: Path) -> None:
    position = a_log(tmp_path)
    (tmp_path / "journal.log").unlink()
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        assert [damage.reason for damage in log.damage] == ["its journal line is damaged"] * 5
        assert log.ledger.missing_ordinals() == [*range(2, 10)]
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        assert log.damage == [] and log.ledger.missing_ordinals() == [*range(2, 10)]
        append(log, range(2, 10))
        assert train(log, 8, 1) == [*range(2, 10)]


def test_a_segment_that_is_gone_is_named_and_its_prompts_are_issued_again(tmp_path: Path) -> None:
    config = ExperienceConfig(segment_mib=0.004)
    position = a_log(tmp_path, segment_mib=0.004)
    assert len(list(tmp_path.glob("*.arrows"))) == 5
    (tmp_path / "segment-000002.arrows").unlink()
    with ExperienceLog.open(tmp_path, config, position) as log:
        (damage,) = log.damage
        assert damage.file.endswith("segment-000002.arrows") and damage.offsets == (4, 5) and damage.kept_as == ""
        assert log.ledger.missing_ordinals() == [4, 5]
    assert rows_in(tmp_path) == [0, 1, 2, 3, 6, 7, 8, 9]


def test_a_damaged_schema_is_written_again(tmp_path: Path) -> None:
    position = a_log(tmp_path)
    flip(tmp_path / SEGMENT, 100)
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        (damage,) = log.damage
        assert damage.offsets == () and "it was written again" in str(damage)
        assert train(log, 8, 1) == [*range(2, 10)]
    assert rows_in(tmp_path) == [*range(10)]


def test_damage_after_opening_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    position = a_log(tmp_path)
    with ExperienceLog.open(tmp_path, FIFO, position) as log:
        flip(tmp_path / SEGMENT, record_places(tmp_path)[2][0] + 50)
        lease = log.lease(4, 60, 1)
        assert lease is not None
        with pytest.raises(ExperienceDamageError, match=r"the record at byte .* is damaged; go on by --resume"):
            lease.rows.groups()


def test_replay_refuses_what_it_cannot_know(tmp_path: Path) -> None:
    folder = tmp_path / "experience"
    a_log(folder)
    flip(folder / SEGMENT, record_places(folder)[0][0] + 50)
    with pytest.raises(ExperienceDamageError, match="the record at byte"):
        ReplayLog.open(tmp_path).lease(0).rows.groups()
    flip(folder / "journal.log", 10)
    for _ in range(2):
        with pytest.raises(ExperienceError, match=r"1 lines of the journal .* cannot be told any more"):
            ReplayLog.open(tmp_path)
        ExperienceLog.open(folder, FIFO).close()  # repairs; the line stays unknown


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_append_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, [0, 1])
        size = (tmp_path / SEGMENT).stat().st_size
        with file_size_limit(size + 1000), pytest.raises(ExperienceFullError) as caught:
            append(log, [2, 3])
        assert (tmp_path / SEGMENT).stat().st_size == size  # the half-written bytes are cut off
        said = str(caught.value)
        assert (
            str(tmp_path / SEGMENT) in said and "make room" in said and "nothing that was acknowledged is lost" in said
        )
        assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.EFBIG
        assert str(pickle.loads(pickle.dumps(caught.value))) == said  # it travels between actors
        append(log, [2, 3])  # room again
        assert train(log, 4, 0) == [0, 1, 2, 3]
    assert rows_in(tmp_path) == [0, 1, 2, 3]


def test_no_room_for_the_journal_line_takes_the_record_back(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        for ordinal in range(400):  # many lines about few bytes: the journal is the longer file
            append(log, [ordinal]) if ordinal < 2 else log.begin_commit(START)
        size = (tmp_path / SEGMENT).stat().st_size
        journal_size = (tmp_path / "journal.log").stat().st_size
        assert journal_size > 3 * size
        with file_size_limit(journal_size + 20):
            with pytest.raises(ExperienceFullError, match=r"journal\.log"):
                append(log, [2])
            with pytest.raises(ExperienceFullError):
                train(log, 1, 0)
        assert (tmp_path / SEGMENT).stat().st_size == size
        assert (tmp_path / "journal.log").stat().st_size == journal_size
        append(log, [2])
    with ExperienceLog.open(tmp_path, FIFO, START) as log:
        assert log.damage == [] and log.num_torn_bytes == 0 and train(log, 3, 0) == [0, 1, 2]


def test_no_room_for_a_new_segment_leaves_no_file(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, ExperienceConfig(segment_mib=0.004)) as log:
        append(log, [0, 1])
        with file_size_limit(500), pytest.raises(ExperienceFullError, match="segment-000001"):
            append(log, [2])
        assert [path.name for path in tmp_path.glob("*.arrows")] == [SEGMENT]
        append(log, [2])
    assert rows_in(tmp_path) == [0, 1, 2]


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ExperienceWriteError, match=r"cannot write .* /proc/self/experience.*check that the folder"):
        ExperienceLog.open(Path("/proc/self/experience"), FIFO)  # not even root can make a folder there


def test_a_file_that_turned_read_only_is_a_write_error(tmp_path: Path) -> None:
    with ExperienceLog.open(tmp_path, FIFO) as log:
        append(log, [0])
        assert log._writer._file is not None
        read_only, kept = os.open(tmp_path / SEGMENT, os.O_RDONLY), os.dup(log._writer._file)
        os.dup2(read_only, log._writer._file)
        with pytest.raises(ExperienceWriteError, match=r"segment-000000\.arrows") as caught:
            append(log, [1])
        assert not isinstance(caught.value, ExperienceFullError)
        os.dup2(kept, log._writer._file)
        append(log, [1])
        assert train(log, 2, 0) == [0, 1]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_experience_damage import ExperienceConfig, ExperienceLog, group, groups_to_batch
log = ExperienceLog.open(Path(sys.argv[1]), ExperienceConfig(segment_mib=0.3))
ordinal = log.counters.next_ordinal
while True:
    log.append(groups_to_batch([group(ordinal + n, num_tokens=3000) for n in range(4)]))
    ordinal += 4
    print(ordinal, flush=True)  # acknowledged
"""


def test_what_was_acknowledged_survives_kill_9_in_the_middle_of_appends(tmp_path: Path) -> None:
    acknowledged = 0
    for num_lines in (5, 11, 17):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = int(writer.stdout.readline())
        assert first == acknowledged + 4 or first == acknowledged + 8  # logged, but killed before it could say so
        last = [int(writer.stdout.readline()) for _ in range(num_lines)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        said = [int(line) for line in writer.stdout.read().splitlines()] or [last]
        writer.wait()
        with ExperienceLog.open(tmp_path, FIFO, START) as log:
            assert log.damage == []
            acknowledged = log.counters.num_logged
            assert acknowledged >= said[-1] and acknowledged % 4 == 0
            assert train(log, acknowledged, 0) == list(range(acknowledged))
    assert acknowledged > 40
    assert rows_in(tmp_path) == list(range(acknowledged))
