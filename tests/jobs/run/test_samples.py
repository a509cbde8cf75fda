"""The samples kept of a step are the ones worth reading."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.samples import sample_files, write_samples
from raylign.rollout.data.json_lines import read_json_lines
from raylign.rollout.sample import Completion, Failure, Group, Prompt, VersionSpan


def group(ordinal: int, rewards: list[float]) -> Group:
    def completion(index: int) -> Completion:
        tokens = np.arange(3, dtype=np.int32)
        logps = np.zeros(3, dtype=np.float32)
        return Completion(tokens, logps, (VersionSpan(0, 0, 3),), "stop", f"answer {ordinal}.{index} é")

    rewards_G = np.array(rewards, dtype=np.float32)
    prompt = Prompt(f"p-{ordinal}", ordinal, f"question {ordinal}", np.array([1], dtype=np.int32), ("5",))
    return Group(prompt, tuple(completion(i) for i in range(len(rewards))), {"exact": rewards_G}, rewards_G)


def test_best_worst_failed_and_random_groups_are_kept_once_each(tmp_path: Path) -> None:
    groups = [group(ordinal, [ordinal / 10, 0.0]) for ordinal in range(10)]
    failure = Failure("timeout", "exact", "no answer in 5 s")
    groups[4] = replace(group(4, [np.nan, np.nan]), failures=(failure,))
    with RunFolder.create(tmp_path, "name: a\n") as run_folder:
        path = write_samples(run_folder, 10, groups, seed=3)
        assert path == tmp_path / "samples" / "step-000010.jsonl"
        first = path.read_text()
        write_samples(run_folder, 10, groups, seed=3)
        assert path.read_text() == first
    lines = [line for _, line in read_json_lines(sample_files(tmp_path)[10])]
    assert [line["why"] for line in lines] == ["best", "worst", "failed", "random", "random"]
    assert [line["ordinal"] for line in lines[:3]] == [9, 0, 4]
    assert len({line["ordinal"] for line in lines}) == 5
    assert lines[0]["completions"][0] == {
        "text": "answer 9.0 é",
        "total": 0.9,
        "rewards": {"exact": 0.9},
        "stop_reason": "stop",
        "num_tokens": 3,
    }
    assert lines[2]["completions"][0]["total"] is None
    assert lines[2]["failures"] == [{"kind": "timeout", "where": "exact", "message": "no answer in 5 s"}]


def test_the_extremes_of_a_large_group_are_kept(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "name: a\n") as run_folder:
        path = write_samples(run_folder, 1, [group(0, [float(i) for i in range(20)])])
        assert path is not None
        line = json.loads(path.read_text())
        assert [completion["total"] for completion in line["completions"]] == [19, 18, 17, 16, 3, 2, 1, 0]
        assert line["num_completions"] == 20
        assert write_samples(run_folder, 2, []) is None


def test_a_group_that_shows_a_contrast_is_kept(tmp_path: Path) -> None:
    """The best and the worst are often all right and all wrong."""
    groups = [group(0, [1.0, 1.0]), group(1, [0.0, 0.0]), group(2, [1.0, 0.0]), group(3, [0.5, 0.4])]
    with RunFolder.create(tmp_path, "name: a\n") as run_folder:
        path = write_samples(run_folder, 1, groups, num_random=0)
    assert path is not None
    kept = {line["why"]: line["ordinal"] for _, line in read_json_lines(path)}
    assert kept == {"best": 0, "worst": 1, "widest rewards": 2}
