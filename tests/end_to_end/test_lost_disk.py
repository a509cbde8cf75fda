"""Everything killed and the run's disk lost: `--resume` goes on from the copy in object storage."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.run_copy import RunCopy
from raylign.rollout.experience.replay import ReplayLog
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.processes import raylign
from tests.end_to_end.test_resume import kill_everything

NUM_STEPS = 8
GROUPS_PER_STEP = 8


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_whose_disk_is_lost_goes_on_from_its_copy_and_answers_again_what_came_after_it(
    start_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-tests-5ecre7")
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    storage.start()
    try:
        host, port = storage.get_host_and_port()
        endpoint = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        address = f"s3://runs/lost?{endpoint}"
        folder = tmp_path / "run"
        checkpoints = {"every_steps": 2, "keep_last": 1, "copy_to": address}
        values = small_config(start_model, folder, num_steps=NUM_STEPS, checkpoints=checkpoints)
        values["async"] = {"max_staleness": 1}
        recipe = write_recipe(values, tmp_path / "recipe.yaml")
        copy = RunCopy(address)
        with raylign("train", "--config", str(recipe), log=tmp_path / "1.log") as process:
            process.wait_for(lambda: bool(copy.steps()), "the first copy")
            kill_everything(process)
            assert process.wait() == -signal.SIGKILL
        (step,) = copy.steps()[-1:]
        shutil.rmtree(folder)

        with raylign("train", "--config", str(recipe), "--resume", log=tmp_path / "2.log") as process:
            assert process.wait() == 0, process.output()
            said = process.output()
        assert f"brought back from s3://runs/lost?{endpoint}: step {step}" in said
        assert re.search(r"^\d+ prompts are answered again, and all from number \d+ on$", said, re.MULTILINE)
        assert [line["step"] for line in read_metrics(folder)] == list(range(1, NUM_STEPS + 1))
        log = ReplayLog.open(folder)
        trained = [
            ordinal for step in range(NUM_STEPS) for ordinal in log.lease(step).rows.batch()["ordinal"].to_pylist()
        ]
        assert sorted(trained) == list(range(NUM_STEPS * GROUPS_PER_STEP))
        assert copy.steps() == [NUM_STEPS]

        back = tmp_path / "back"
        assert copy.download(back) == NUM_STEPS
        assert (back / "report.html").read_bytes() == (folder / "report.html").read_bytes()
        assert "of-tests-5ecre7" not in "".join(path.read_text() for path in tmp_path.glob("*.log"))
    finally:
        storage.stop()
