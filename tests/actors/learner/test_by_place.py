"""Examples for ranks of the log's node: what lies in its files travels as a place, all else as it is."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from raylign.actors.learner.by_place import LARGE_BYTES, by_place
from raylign.learners.examples.example import Example
from raylign.learners.examples.from_groups import examples_of
from raylign.rollout.experience import mapped_files
from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.schema import groups_to_batch
from raylign.rollout.experience.types import ExperienceConfig
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from tests.patience import HANGS_S

LARGE = LARGE_BYTES // 4


def logged(folder: Path, *lengths: int) -> list[Example]:
    """Of one group, as the loop makes them of a lease."""
    completions = tuple(
        Completion(np.arange(n, dtype=np.int32), np.full(n, -n, np.float32), (VersionSpan(1, 0, n),), "stop", "")
        for n in lengths
    )
    rewards = np.ones(len(lengths), np.float32)
    group = Group(Prompt("0", 0, "", np.arange(3, dtype=np.int32)), completions, {"exact": rewards}, rewards)
    with ExperienceLog.open(folder, ExperienceConfig()) as log:
        log.append(groups_to_batch([group]))
        lease = log.lease(1, 60)
        assert lease is not None
        return examples_of(lease.rows.groups(), [rewards], [np.ones(len(lengths), np.float32)], mask_truncated=False)


def test_long_answers_of_the_log_arrive_whole_though_only_their_places_are_sent(tmp_path: Path) -> None:
    lengths = (5, LARGE, 100_000)
    examples = logged(tmp_path, *lengths)
    sent = pickle.dumps(by_place(examples), protocol=5)
    assert len(sent) < 3000
    for given, came, length in zip(examples, pickle.loads(sent), lengths, strict=True):
        assert len(came.completion_ids) == length
        for name in ("prompt_ids", "completion_ids", "rollout_logps", "loss_mask", "advantages", "token_versions"):
            np.testing.assert_array_equal(getattr(came, name), getattr(given, name))
            assert getattr(came, name).dtype == getattr(given, name).dtype


def test_another_process_reads_them_itself(tmp_path: Path) -> None:
    examples = logged(tmp_path / "log", LARGE + 1)
    (tmp_path / "sent").write_bytes(pickle.dumps(by_place(examples)))
    code = f"import pickle; one, = pickle.load(open({str(tmp_path / 'sent')!r}, 'rb')); print(one.completion_ids.sum())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=HANGS_S)
    assert int(found.stdout) == examples[0].completion_ids.sum(dtype=np.int64)


def test_arrays_of_this_process_travel_as_bytes_and_mappings_are_forgotten_with_their_arrays(tmp_path: Path) -> None:
    examples = logged(tmp_path, LARGE)
    own = Example(np.arange(LARGE), np.arange(LARGE, dtype=np.int32), np.ones(LARGE, np.float32))
    (came,) = pickle.loads(pickle.dumps(by_place([own])))
    np.testing.assert_array_equal(came.completion_ids, own.completion_ids)
    assert mapped_files.place_of(own.completion_ids) is None
    assert mapped_files.place_of(examples[0].completion_ids) is not None
    strided = examples[0].completion_ids[::2]
    assert mapped_files.place_of(strided) is None
    del examples, strided
    gc.collect()
    assert not any(path.startswith(str(tmp_path)) for _, path in mapped_files._mapped.values())
