"""Everything killed at once, in the middle of a run: nothing is lost, nothing is trained twice, and in deterministic
mode the numbers are those of a run that was never killed. Replaying its experience gives them once more."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.metrics import deterministic_view
from raylign.jobs.train import train
from raylign.rollout.experience.recovery import recover
from raylign.rollout.experience.replay import ReplayLog
from tests.end_to_end.conftest import HELD_OUT, configured, small_config, write_recipe
from tests.end_to_end.kills import Kills
from tests.end_to_end.processes import WatchedProcess, raylign

pytestmark = pytest.mark.ray

NUM_STEPS = 6
GROUPS_PER_STEP = 8
Lines = list[dict[str, Any]]


def kill_everything(process: WatchedProcess) -> None:
    """SIGKILL to the driver, Ray, engines, learner and log, all at once."""
    everything = [psutil.Process(process.pid), *process.alive()]
    for one in everything:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def train_killed_after(
    step: int, recipe: Path, folder: Path, log: Path, before: Mapping[int, str] | None = None
) -> None:
    """`before`: titles of processes that are killed alone, by the steps that are trained then; the run goes on."""
    with raylign("train", "--config", str(recipe), log=log) as process:
        with Kills(folder, before or {}, pid=process.pid) as kills:
            process.wait_for(lambda: len(kills.done) == len(before or {}), "the kills")
        if before:
            process.wait_for(lambda: "the learner was lost" in process.output(), "the loss of the learner")
        process.wait_for(lambda: any(line["step"] >= step for line in read_metrics(folder)), f"step {step}")
        kill_everything(process)
        assert process.wait() == -signal.SIGKILL


def resume(values: dict[str, Any]) -> None:
    """To its end, by this process."""
    train(configured(values | {"resume": True}))


def views(folder: Path) -> Lines:
    """All that does not depend on the clock."""
    return [deterministic_view(line) for line in read_metrics(folder)]


def trained_ordinals(folder: Path) -> list[list[int]]:
    """By step."""
    log = ReplayLog.open(folder)
    return [log.lease(step).rows.batch().column("ordinal").to_pylist() for step in range(NUM_STEPS)]


@pytest.fixture(scope="module")
def killed_and_resumed(
    ray_session: None, start_model: Path, reward: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A deterministic run, killed after its third step (the last checkpoint is of the second), then resumed. Before,
    its log and its rank were killed alone, after the first and the second step, and it went on by itself."""
    folder = tmp_path_factory.mktemp("killed")
    values = deterministic(start_model, folder / "run", reward)
    recipe = write_recipe(values, folder / "recipe.yaml")
    before = {1: "ExperienceHost", 2: "RayTrainWorker"}
    train_killed_after(3, recipe, folder / "run", folder / "1.log", before)
    resume(values)
    return folder / "run"


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Something that a random model varies in, so that there is a gradient."""
    path = tmp_path_factory.mktemp("reward") / "letters.py"
    path.write_text(
        "def reward(completions, prompt, references, row):\n"
        "    return [float(len(set(text))) for text in completions]\n"
    )
    return {"name": "function", "path": f"{path}:reward"}


def deterministic(model: Path, folder: Path, reward: dict[str, Any]) -> dict[str, Any]:
    sampling = {"max_tokens": 4, "num_completions": 4, "temperature": 0.7}
    evaluation = {"data": HELD_OUT, "num_prompts": 8, "every_steps": 3}
    values = small_config(model, folder, num_steps=NUM_STEPS, sampling=sampling, evaluation=evaluation)
    values["rollout"] = {**values["rollout"], "deterministic": True}
    return values | {"checkpoints": {"every_steps": 2}, "rewards": [reward]}


@pytest.fixture(scope="module")
def uninterrupted(
    ray_session: None, start_model: Path, reward: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(configured(deterministic(start_model, folder, reward)))
    return folder


def test_a_killed_and_resumed_run_has_the_numbers_of_an_uninterrupted_one(
    killed_and_resumed: Path, uninterrupted: Path
) -> None:
    assert views(killed_and_resumed) == views(uninterrupted)
    assert [line["step"] for line in read_metrics(uninterrupted)] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    # at a temperature, without adapters, while the weights change
    learned = [line for line in read_metrics(uninterrupted) if "learner/loss" in line]
    assert all(line["mismatch/mean_abs_logp_difference"] <= 1e-4 for line in learned)
    assert all(line["learner/grad_norm"] > 0 for line in learned)


def test_no_prompt_is_lost_and_none_is_trained_twice(killed_and_resumed: Path) -> None:
    by_step = trained_ordinals(killed_and_resumed)
    assert [sorted(ordinals) for ordinals in by_step] == [
        list(range(step * GROUPS_PER_STEP, (step + 1) * GROUPS_PER_STEP)) for step in range(NUM_STEPS)
    ]


def test_the_log_and_a_rank_that_were_killed_before_cost_nothing_but_time(killed_and_resumed: Path) -> None:
    """The equality above holds with them; and the run says what it did, in its log and in its report."""
    said = (killed_and_resumed / "run.log").read_text()
    opened = [event for event in recover(killed_and_resumed / "experience", True).events if event["kind"] == "opened"]
    by_position = [event["position"] and event["position"]["step"] for event in opened]
    assert len(by_position) == 4 and by_position[:2] == [-1, None]  # as it stood, by another process of the log
    assert (
        said.count("the learner was lost in") == 1
        and "going back to" in said
        and "restart 1 of 3 without getting further (learner.max_restarts)" in said
    )
    assert said.count("starting another") == 0  # the engine stayed
    assert "started again" in (killed_and_resumed / "report.html").read_text()


def test_a_replay_trains_the_recorded_experience_bit_for_bit_without_an_engine(
    ray_session: None, start_model: Path, reward: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    values = deterministic(start_model, tmp_path / "replayed", reward) | {"replay": str(uninterrupted)}
    run = train(configured(values))
    assert not hasattr(run, "rollouts")  # no engine was started

    replayed, recorded = (
        [line for line in views(folder) if "learner/loss" in line] for folder in (tmp_path / "replayed", uninterrupted)
    )
    # a replay has no engines to tell of, but everything that the rewards and the learner did
    assert replayed == [{key: value for key, value in line.items() if key in replayed[0]} for line in recorded]
    assert len(replayed) == NUM_STEPS
    assert {key for key in recorded[0] if key.startswith(("learner/", "reward/", "mismatch/"))} <= (
        replayed[0].keys() | {"learner/tokens_per_s"}
    )


def test_an_asynchronous_run_killed_trains_every_prompt_once(
    ray_session: None, start_model: Path, reward: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("async-killed")
    values = small_config(start_model, folder / "run", num_steps=NUM_STEPS, checkpoints={"every_steps": 2})
    values |= {"async": {"max_staleness": 2}, "rewards": [reward]}
    recipe = write_recipe(values, folder / "recipe.yaml")
    train_killed_after(3, recipe, folder / "run", folder / "1.log")
    resume(values)
    lines = read_metrics(folder / "run")
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert max(line["staleness/max"] for line in lines) <= 2
    ordinals = [ordinal for step in trained_ordinals(folder / "run") for ordinal in step]
    assert len(ordinals) == len(set(ordinals)) == NUM_STEPS * GROUPS_PER_STEP
    # only prompts that were still being generated at the end may be missing below the highest
    assert max(ordinals) < (NUM_STEPS + 3) * GROUPS_PER_STEP
