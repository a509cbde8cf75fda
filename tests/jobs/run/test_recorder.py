"""What a run tells its user between the steps: an alarm once as it begins, and once as it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.folder import RunFolder
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
