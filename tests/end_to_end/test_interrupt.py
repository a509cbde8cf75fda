"""Ctrl-C, `kill -9` and `--resume`: the checkpoint stays, the run goes on from it, no process is left behind.

One run, with adapters, is stopped three times, each time resumed where the last one ended.
"""

from __future__ import annotations

import ipaddress
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from raylign.jobs.checks.leftovers import find_leftovers
from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.jobs.run.folder import read_metrics
from raylign.rollout.owned_folders import clear_orphans, in_use
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.processes import WatchedProcess, interrupt_group, raylign
from tests.patience import wait_until

pytestmark = pytest.mark.ray


SLOW_TO_NOTICE = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own agents try to report a killed node for 60 s, a constant of Ray's, before they end; measured: 61 s."""


@dataclass(frozen=True)
class Stopped:
    """How one of the three ended."""

    folder: Path
    exit_code: int
    titles: set[str]
    """Of its processes while it ran."""
    output: str
    listening: dict[str, str]
    """Addresses at which they waited for connections, and which process it was."""
    modes: dict[str, int]
    """Of the folders in /tmp that they named, which say what others may do there."""

    @property
    def own_output(self) -> str:
        """Without the lines that Ray passes on from actors, among them its own complaints about a slow machine."""
        return "\n".join(line for line in self.output.splitlines() if "pid=" not in line)

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in read_metrics(self.folder)]

    @property
    def checkpoint_step(self) -> int:
        latest = CheckpointStore(self.folder / "checkpoints").latest()
        return latest.record.step if latest else 0


def stop_after_a_step(
    recipe: Path, folder: Path, stop: Callable[[WatchedProcess], None], log: Path, but: Collection[str] = ()
) -> Stopped:
    """Train, resuming if there is something to resume, and stop once a new step is recorded."""
    resume = ["--resume"] if folder.exists() else []
    steps_before = len(read_metrics(folder))
    with raylign("train", "--config", str(recipe), *resume, log=log) as process:
        process.wait_for(lambda: len(read_metrics(folder)) > steps_before, "a step")
        titles, listening, modes = process.titles(), process.listening(), process.modes_of_folders()
        stop(process)
        exit_code = process.wait()
        process.wait_until_none_is_left(30, but)
        return Stopped(folder, exit_code, titles, process.output(), listening, modes)


@pytest.fixture(scope="module")
def recipe(start_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that would take hours."""
    folder = tmp_path_factory.mktemp("interrupted")
    learner = {"learning_rate": 1e-2, "threads_per_rank": 1, "lora": {"rank": 4}}
    values = small_config(start_model, folder / "run", num_steps=100_000, learner=learner)
    return write_recipe(values, folder / "recipe.yaml")


@pytest.fixture(scope="module")
def interrupted(recipe: Path) -> Stopped:
    """SIGINT to its whole group, as a terminal does."""
    return stop_after_a_step(recipe, recipe.parent / "run", interrupt_group, recipe.parent / "1.log")


@pytest.fixture(scope="module")
def interrupted_again(recipe: Path, interrupted: Stopped) -> tuple[int, Stopped]:
    """Resumed, then SIGINT to raylign alone, as `kill -INT` does. With the step it was resumed from."""

    def interrupt(process: WatchedProcess) -> None:
        os.kill(process.pid, signal.SIGINT)

    before = interrupted.checkpoint_step
    return before, stop_after_a_step(recipe, interrupted.folder, interrupt, recipe.parent / "2.log")


def test_an_interrupted_run_saves_and_leaves_no_process(interrupted: Stopped) -> None:
    assert interrupted.exit_code == 130, interrupted.output
    assert any("ray::RolloutWorker" in title for title in interrupted.titles), interrupted.titles
    assert any("VLLM" in title for title in interrupted.titles), interrupted.titles
    assert interrupted.checkpoint_step == interrupted.steps[-1] >= 1
    assert "stopping after this step and saving" in interrupted.output
    assert "Traceback" not in interrupted.own_output


def test_a_run_listens_on_loopback_alone_and_its_folders_are_its_users(interrupted: Stopped) -> None:
    addresses = {place: place.split()[0].removeprefix("::ffff:") for place in interrupted.listening}
    assert len(addresses) >= 5
    open_to_others = [place for place, address in addresses.items() if not ipaddress.ip_address(address).is_loopback]
    assert open_to_others == [], interrupted.listening
    assert len(interrupted.modes) >= 1
    assert set(interrupted.modes.values()) == {0o700}, interrupted.modes


def test_engine_and_learner_agree_until_the_end(interrupted: Stopped) -> None:
    agree(interrupted)


def agree(stopped: Stopped) -> None:
    lines = read_metrics(stopped.folder)
    assert [line["weights/version"] for line in lines] == [line["step"] for line in lines]
    assert all(line["mismatch/mean_abs_logp_difference"] <= 1e-4 for line in lines)


@pytest.mark.slow
def test_a_resumed_run_that_is_interrupted_goes_on_where_it_was_and_still_ends_cleanly(
    interrupted_again: tuple[int, Stopped],
) -> None:
    before, stopped = interrupted_again
    assert stopped.exit_code == 130, stopped.output
    assert stopped.checkpoint_step == stopped.steps[-1] > before
    assert stopped.steps == list(range(1, stopped.steps[-1] + 1))  # resumed: none twice, none left out
    assert "Traceback" not in stopped.own_output
    agree(stopped)


@pytest.mark.slow
def test_no_process_outlives_a_killed_run(recipe: Path, interrupted_again: tuple[int, Stopped]) -> None:
    _, before = interrupted_again
    saved = before.checkpoint_step
    killed = stop_after_a_step(
        recipe,
        before.folder,
        lambda process: os.kill(process.pid, signal.SIGKILL),
        recipe.parent / "3.log",
        but=SLOW_TO_NOTICE,
    )
    assert killed.exit_code == -signal.SIGKILL
    assert killed.checkpoint_step == saved  # the last complete one: it can be resumed again
    assert killed.steps[-1] > saved
    folders = [Path(folder) for folder in killed.modes]
    assert folders and all(folder.exists() for folder in folders)
    wait_until(lambda: not in_use(folders), "end of Ray's agents")
    assert {each.path for each in find_leftovers()} >= set(folders)
    clear_orphans()  # as the next start does
    assert not any(folder.exists() for folder in folders)
