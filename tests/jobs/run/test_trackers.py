"""Trackers get what the run folder gets, and a broken one is left behind."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path

import pytest

from raylign.actors.node_start import patient_node_start
from raylign.jobs.config.trackers import TrackersConfig
from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.trackers import Trackers, prometheus_name
from tests.patience import HANGS_S, wait_until

ROOT = Path(__file__).parents[3]
METRICS = {"step": 1.0, "reward/mean": 0.5, "learner/kl": None}


def test_no_tracker_is_needed(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "name: a\n") as run_folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        trackers = Trackers(TrackersConfig(), run_folder)
        trackers.log(1, METRICS)
        trackers.close()
    assert not (tmp_path / "wandb").exists() and not (tmp_path / "tensorboard").exists()


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    with RunFolder.create(tmp_path, "name: a\n") as run_folder:
        first = Trackers(TrackersConfig(tensorboard=True), run_folder)
        for step in (1, 2, 3):
            first.log(step, {"reward/mean": step / 10})
        first.close()
        time.sleep(1.1)  # event files are named by the second
        resumed = Trackers(TrackersConfig(tensorboard=True), run_folder, start_step=1)
        resumed.log(2, {"reward/mean": 0.9})
        resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, round(event.value, 6)) for event in events.Scalars("reward/mean")]
    assert scalars == [(1, 0.1), (2, 0.9)]


def test_wandb_works_offline_and_goes_on_under_the_same_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with RunFolder.create(tmp_path, "name: a\n") as run_folder:
        for step in (1, 2):
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                trackers = Trackers(TrackersConfig(wandb=True), run_folder)
                trackers.log(step, METRICS)
                trackers.close()
    run_id = (tmp_path / "wandb" / "run_id").read_text()
    logs = list((tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(logs) == 2
    # wandb's own process closes the files just after `finish` returns
    wait_until(lambda: all(b"reward/mean" in log.read_bytes() for log in logs), "metrics in wandb's files")


def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path / "a", "name: a\n") as run_folder,
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always")
        (run_folder.path / "tensorboard").write_text("a file where the folder should be")
        trackers = Trackers(TrackersConfig(tensorboard=True), run_folder)
        trackers.log(1, METRICS)
        trackers.log(2, METRICS)
        trackers.close()
    about_it = [str(warning.message) for warning in seen if "gets no more metrics" in str(warning.message)]
    assert len(about_it) == 1 and about_it[0].startswith("tensorboard failed")


def test_prometheus_names_are_legal() -> None:
    assert prometheus_name("reward/my-rule/mean") == "raylign_reward_my_rule_mean"


@pytest.mark.ray
def test_ray_serves_the_metrics_to_prometheus(tmp_path: Path) -> None:
    """In a process of its own: this one may be connected to the Ray of the end-to-end tests."""
    code = "import sys; from tests.jobs.run.test_trackers import page_of_a_run; page_of_a_run(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stdout.splitlines() if "ray_raylign_reward_mean{" in line]
    assert len(lines) == 1, done.stdout[:2000]
    assert 'run="my-run"' in lines[0] and lines[0].endswith(" 0.5")


def page_of_a_run(folder: str) -> None:
    """Start Ray with an exporter, log metrics, print its page."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # a short path of its own: sockets lie below it
    ray_folder = tempfile.mkdtemp(prefix="raylign-")
    with patient_node_start():
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            _metrics_export_port=port,
            _temp_dir=ray_folder,
        )
    try:
        with RunFolder.create(Path(folder) / "my-run", "name: a\n") as run_folder:
            trackers = Trackers(TrackersConfig(prometheus=True), run_folder)
            trackers.log(1, METRICS)
            address = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: "ray_raylign_reward_mean{" in _page(address), "metric on Ray's page")
            print(_page(address))
    finally:
        ray.shutdown()
        shutil.rmtree(ray_folder, ignore_errors=True)


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:  # the agent is not up yet
        return ""
