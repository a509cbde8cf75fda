"""`raylign submit` on a real cluster of one node that asks for a token, as those of cluster.yaml and KubeRay do.

Given a head of our own; checks that a job trains with the code of here and is gone on with, that Ctrl-C leaves it
alone, and what a user with a wrong address or without a token is told. Its processes are ended by their ids.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.nodes import Nodes, free_ports, nodes
from tests.end_to_end.processes import WatchedProcess
from tests.patience import finished

pytestmark = pytest.mark.ray

SUBMIT = [sys.executable, "-m", "raylign.jobs", "submit"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A cluster of one node with a dashboard and a token of its own."""
    with nodes(tmp_path_factory.mktemp("head"), [["--num-cpus=2", "--num-gpus=0"]], dashboard=True) as cluster:
        yield cluster


def submit(head: Nodes, *words: str, cwd: Path | None = None, **environment: str) -> CompletedProcess[str]:
    """`raylign submit …` of a user with the cluster's token, run to its end."""
    words = (*words, "--address", head.dashboard)
    return finished([*SUBMIT, *words], cwd, head.environment | environment, others=head.pids)


def job_id(done: CompletedProcess[str]) -> str:
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("job "))


def test_a_job_is_left_stopped_and_submitted_again_and_trains_with_the_uploaded_code(
    head: Nodes, start_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "reward.py").write_text(
        "import raylign\n"
        f"with open({str(tmp_path / 'imported')!r}, 'a') as file:\n"
        "    print(raylign.__file__, file=file)\n"
        "def reward(completions, **_):\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    run = tmp_path / "run"
    values = small_config(start_model, run, num_steps=1, cluster={"gpus": "always"})  # there is none: it waits
    values["rewards"] = [{"name": "function", "path": "reward.py:reward"}]  # of the user's folder: it travels too
    recipe = str(write_recipe(values, tmp_path / "recipe.yaml"))

    job = left_alone_by_ctrl_c(head, recipe, tmp_path)
    (state,) = [line for line in submit(head, "status").stdout.splitlines() if job in line]
    assert state.endswith("RUNNING") and str(run) in state
    second = submit(head, recipe, cwd=tmp_path)
    assert (second.returncode, job_id(second)) == (0, job) and "nothing was submitted" in second.stdout
    assert "starting the learner" in submit(head, "logs", job).stdout
    stopped = submit(head, "stop")  # the newest
    assert stopped.returncode == 0 and f"job {job}: STOPPED" in stopped.stdout, stopped.stdout + stopped.stderr

    # goes on in the folder, which a new run would be refused
    done = submit(head, recipe, "--cluster.gpus", "never", "--follow", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_id(done) != job and f"submitted; run folder {run}" in done.stdout
    assert done.stdout.rstrip().endswith(f"job {job_id(done)}: SUCCEEDED")
    assert len((run / "starts.jsonl").read_text().splitlines()) == 2
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"]
    assert (run / summary["checkpoint"] / "model.safetensors").is_file()
    # every process imported what was uploaded, not the editable install, and no links
    packages = head.temporary.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*")
    uploads = [path for path in packages if (path / "reward.py").is_file()]
    for uploaded in uploads:
        assert not (uploaded / "raylign" / "jobs").is_symlink()
        assert not list(uploaded.rglob("__pycache__/test_*"))
        assert sum(file.stat().st_size for file in uploaded.rglob("*") if file.is_file()) < 8 << 20
    imported = (tmp_path / "imported").read_text().splitlines()
    assert len(imported) >= 2  # of the check before the start, and of the reward server
    assert set(imported) <= {str(uploaded / "raylign" / "__init__.py") for uploaded in uploads}


def left_alone_by_ctrl_c(head: Nodes, recipe: str, folder: Path) -> str:
    """A job that was followed until it ran, and what was said then; gives its id."""
    words = [*SUBMIT, recipe, "--follow", "--address", head.dashboard]
    following = WatchedProcess(words, folder / "log", head.environment, head.pids, cwd=folder)
    try:
        following.wait_for(lambda: "starting the learner" in following.output(), "a job that runs")
        (job,) = {line.split()[1] for line in following.output().splitlines() if line.startswith("job ")}
        following.interrupt(signal.SIGINT)
        assert following.wait() == 130
    finally:
        following.end()
    (line,) = [line for line in following.output().splitlines() if line.startswith("left; ")]
    assert f"raylign submit logs {job} --follow --address {head.dashboard}" in line
    assert f"raylign submit stop {job} --address {head.dashboard}" in line
    return job


def test_who_cannot_be_let_in_or_is_not_there_is_one_line(head: Nodes, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)

    def told(address: str, environment: Mapping[str, str], *words: str) -> str:
        command = [*SUBMIT[:-1], *(words or ("submit", "status", "--address")), address]
        done = finished(command, None, {**head.environment, **environment}, others=head.pids)
        assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        return line

    (port,) = free_ports(1)
    assert "no Ray dashboard answers there (" in told(f"http://127.0.0.1:{port}", {})
    assert "refuses the token" in told(head.dashboard, {"RAY_AUTH_TOKEN_PATH": str(token)})
    assert "there is no token" in told(head.dashboard, {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert "asks for a token, and none was sent" in told(head.dashboard, {"RAY_AUTH_MODE": "disabled"})
    # who joins the cluster itself, as `train` does
    joins = ("doctor", "--cluster")
    assert "refuses the token" in told(head.address, {"RAY_AUTH_TOKEN_PATH": str(token)}, *joins)
    assert "asks for a token, and none" in told(head.address, {"RAY_AUTH_MODE": "disabled"}, *joins)
    done = submit(head, "logs", "nobody")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and "nobody: no such job" in done.stderr


@pytest.mark.slow  # what it makes of answers: tests/jobs/checks/test_doctor_cluster.py
def test_doctor_looks_at_every_node_of_a_cluster(head: Nodes, tmp_path: Path) -> None:
    head.join("--num-cpus=1", "--num-gpus=1")  # which it has not
    words = [sys.executable, "-m", "raylign.jobs", "doctor", "--cluster", head.dashboard, "--folder", str(tmp_path)]
    done = finished(words, None, {**head.environment, "COLUMNS": "250"}, others=head.pids)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    rows = {cells[0]: cells[1:] for cells in lines}
    assert rows["nodes"][:2] == ["ok", "2 up"], done.stdout + done.stderr
    assert rows["shared folder"][:2] == ["ok", f"{tmp_path}: written and read from 2 node(s)"]
    assert rows["weights between nodes"][0] == "ok" and "gloo: 1 MB reached 1 other node(s)" in done.stdout
    assert rows["ray of all nodes"][:2] == ["ok", "2.60.0"]
    assert [cells[0] for topic, cells in rows.items() if topic.startswith("clock of")] == ["ok", "ok"]
    (gpus,) = [cells for topic, cells in rows.items() if topic.startswith("GPUs of") and cells[0] == "bad"]
    assert gpus[1] == "Ray has 1, the driver shows 0" and "start Ray without --num-gpus" in gpus[2]
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []
