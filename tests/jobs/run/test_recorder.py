"""What a run tells its user between the steps: an alarm once as it begins, and once as it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.folder import RunFolder, read_metrics
from raylign.jobs.run.recorder import Recorder
from raylign.learners.meters.mismatch import WEIGHTED_SHARE


def test_an_alarm_is_told_as_it_begins_and_at_the_end_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(TrainConfig, [], {"folder": str(tmp_path / "run"), "rewards": [{"name": "numeric"}]})
    recorder = Recorder(config, RunFolder.create(config.folder, "", resume=False))
    for step, share in enumerate([0.9, 0.4, 0.3], start=1):
        recorder.step_trained(step, {WEIGHTED_SHARE: share, "staleness/mean": 2.0}, [])
    recorder.close()
    told = [line for line in capfd.readouterr().err.splitlines() if "alarm" in line]
    assert len(told) == 2
    assert told[0].startswith("step 2: effective sample size alarm: the update counts as if only 40% of its tokens")
    assert told[1] == (
        "the effective sample size alarm lasted to the end of the run: 2 of the steps 2 to 3, lowest 30%"
    )
    kept = (config.folder / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" ")[2] for line in kept] == told, "who closes the terminal has not lost it"


def test_the_throughput_of_a_step_whose_groups_were_ready_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["raylign", "train", "--config", "a.yaml"])
    config = load_config(TrainConfig, [], {"folder": str(tmp_path / "run"), "rewards": [{"name": "numeric"}]})
    recorder = Recorder(config, RunFolder.create(config.folder, "", resume=False))
    for step, busy_s in enumerate([2.0, 2.0, 0.01], start=1):
        recorder.step_trained(step, {"rollout/tokens": 1000.0, "time/rollout_s": busy_s}, [])
    recorder.ended(was_interrupted=False)
    recorder.ended(was_interrupted=True)
    recorder.close()
    speeds = [line["rollout/tokens_per_s"] for line in read_metrics(config.folder)]
    assert speeds == pytest.approx([500.0, 500.0, 3000 / 4.01])
    said = (config.folder / "run.log").read_text(encoding="utf-8")
    assert f"done: {config.folder}; look at {config.folder}/report.html" in said
    assert "stopped; go on by: raylign train --config a.yaml --resume" in said
