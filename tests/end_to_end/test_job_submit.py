"""The same program as a job on a Ray cluster: `ray start --head`, then `ray job submit --working-dir src`.

The cluster demands a token, as cluster.yaml's does. It is ended by the ids of the processes seen to start here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raylign.actors.node_start import PATIENT_ENVIRONMENT
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.nodes import free_ports
from tests.end_to_end.processes import WatchedProcess
from tests.patience import finished

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
)


RAY = """
from ray.scripts.scripts import main
from raylign.actors.node_start import patient_node_start
with patient_node_start():
    main()
"""
"""The program `ray`, without its limit for the start of a node."""


@dataclass(frozen=True)
class Head:
    """A running head node."""

    pid: int
    address: str
    environment: dict[str, str]
    temporary: Path


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A cluster of one node, with ports, folder and token of its own."""
    temporary = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))  # short: Ray's sockets live below it
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    environment |= PATIENT_ENVIRONMENT | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",  # the job says `python`
    }
    words = [sys.executable, "-c", RAY, "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
    words += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--object-store-memory=200000000"]
    words += [f"--temp-dir={temporary}", *(f"--{name}={port}" for name, port in ports.items())]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    process = WatchedProcess(words, tmp_path / "head.log", environment)
    try:
        process.wait_for(lambda: answers(f"{address}/api/version"), "dashboard")
        yield Head(process.pid, address, environment, temporary)
    finally:
        process.end()
        shutil.rmtree(temporary, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:  # asks for the token: it is up
        return True
    except OSError:
        return False


def test_a_submitted_job_trains_with_the_uploaded_code(head: Head, start_model: Path, tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import raylign\n"
        f"with open({str(tmp_path / 'imported')!r}, 'a') as file:\n"
        "    print(raylign.__file__, file=file)\n"
        "def reward(completions, **_):\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    values = small_config(start_model, tmp_path / "run", num_steps=1)
    values["rewards"] = [{"name": "function", "path": f"{reward}:reward"}]
    recipe = write_recipe(values, tmp_path / "recipe.yaml")

    words = [str(BIN / "ray"), "job", "submit", "--address", head.address, "--working-dir", "src", "--"]
    words += ["python", "-m", "raylign.jobs", "train", "--config", str(recipe)]
    done = finished(words, ROOT, head.environment, others=[head.pid])

    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"]
    assert (tmp_path / "run" / summary["checkpoint"] / "model.safetensors").is_file()
    # the links in src/ were followed, and every process imported what was uploaded, not the editable install
    packages = head.temporary.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*")
    (uploaded,) = (path for path in packages if path.is_dir())
    assert (uploaded / "raylign" / "jobs" / "train.py").is_file()
    assert not (uploaded / "raylign" / "jobs").is_symlink()
    assert sum(file.stat().st_size for file in uploaded.rglob("*") if file.is_file()) < 4 << 20
    imported = (tmp_path / "imported").read_text().splitlines()
    assert len(imported) >= 2  # of the check before the start, and of the reward server
    assert set(imported) == {str(uploaded / "raylign" / "__init__.py")}
