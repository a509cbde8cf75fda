"""Who ends the warm process: a command within a cluster of its process leaves that cluster's alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylign.actors.warm.copies import ADDRESS_VARIABLE
from raylign.actors.warm.process import OFF_VARIABLE, cool_down, warm_up
from raylign.jobs.cli import run_command_line


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a process that this test has begun, as a cluster does; or of one that an outer cluster of this process has."""
    monkeypatch.delenv(OFF_VARIABLE, raising=False)
    was_begun = warm_up()
    yield os.environ[ADDRESS_VARIABLE]
    if was_begun:
        cool_down()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="where there is a GPU, nothing is copied")
def test_a_command_leaves_the_warm_process_of_the_cluster_that_it_runs_in(address: str, tmp_path: Path) -> None:
    words = [
        "train",
        "--config",
        "grpo_arithmetic",
        "--model.path",
        str(tmp_path / "none"),
        "--folder",
        str(tmp_path / "run"),
    ]
    assert run_command_line(words) == 2
    assert os.environ.get(ADDRESS_VARIABLE) == address and Path(address).exists()
