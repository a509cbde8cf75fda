"""Preference learning on the real vLLM, DeepSpeed and Ray: a reward model, SAIL on every route, DPO with a resume."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raylign.jobs.run.checkpoints import CheckpointStore
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.metrics import deterministic_view, undocumented
from raylign.jobs.run.run import Run
from raylign.jobs.train import train
from raylign.learners.algorithms.preference.sail_routing import RouteDraws
from raylign.rewards.base import Item
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from tests.end_to_end.conftest import HELD_OUT, configured, small_config
from tests.patience import HANGS_S

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A data section: sums with the right answer and one that is off by fifty."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"{a} + {b} =", "chosen": f" {a + b}", "rejected": f" {a + b + 50}"}
        for a in range(8)
        for b in range(8)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": str(file), "prompt": "{prompt}", "reference": None, "template": "{prompt}"}


def step_lines(folder: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(folder) if "learner/loss" in line]


@pytest.fixture(scope="module")
def reward_model(
    ray_session: None, start_model: Path, pairs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    values = small_config(
        start_model,
        tmp_path_factory.mktemp("scorer") / "run",
        num_steps=8,
        data={**pairs, "rows": "25%:100%"},
        algorithm={"name": "reward_model"},
        rewards=[],
        learner={"learning_rate": 3e-3, "threads_per_rank": 1},
        evaluation={"pairs": {**pairs, "rows": "0%:25%"}},
    )
    return train(configured(values))


def test_a_reward_model_learns_to_rank_and_serves_as_a_reward(reward_model: Run) -> None:
    lines = step_lines(reward_model.folder.path)
    assert lines[-1]["learner/loss"] < lines[0]["learner/loss"]
    held_out = [line for line in read_metrics(reward_model.folder.path) if "evaluation/reward_accuracy" in line]
    assert len(held_out) == 2
    assert 0 <= held_out[-1]["evaluation/calibration_error"] <= 1
    assert held_out[-1]["evaluation/num_pairs"] == 16
    served = RewardModel(RewardModelConfig(model=str(checkpoint_of(reward_model))))
    item = Item("1 + 1 =", (" 2", " 52"), num_tokens=(2, 2), finished=(True, True))
    (scores,) = served.score([item])
    again = served.score([Item("1 + 1 =", (" 52",), num_tokens=(2,), finished=(True,))])[0]
    assert scores[1] == pytest.approx(again[0], abs=1e-5), "batching does not change a score"


def checkpoint_of(run: Run) -> Path:
    latest = CheckpointStore(run.folder.checkpoints_path).latest()
    assert latest is not None
    return latest.path


@pytest.fixture(scope="module")
def sail_run(
    reward_model: Run, start_model: Path, pairs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Asynchronous, with rows on every route, labelled by the reward model that was just trained."""
    values = small_config(
        start_model,
        tmp_path_factory.mktemp("sail") / "run",
        num_steps=5,
        data=pairs,
        algorithm={
            "name": "sail",
            "ddp": {"share": 0.2, "coefficient": 0.2},
            "dpp": {"share": 0.2, "coefficient": 0.2},
            "dpr": {"share": 0.2, "coefficient": 0.3},
            "baseline": "mean",
        },
        sampling={"max_tokens": 4, "num_completions": 2},
        rewards=[{"name": "reward_model", "model": str(checkpoint_of(reward_model))}],
        evaluation={"pairs": pairs, "data": HELD_OUT, "num_prompts": 16, "rewards": [{"name": "numeric"}]},
        **{"async": {"max_staleness": 1, "stale": "drop"}},
    )
    return train(configured(values))


def test_sail_takes_as_many_rows_of_each_route_as_were_drawn(sail_run: Run) -> None:
    draws = RouteDraws(3, 8, [0.2, 0.2, 0.2])
    lines = step_lines(sail_run.folder.path)
    assert len(lines) == 5
    for step, line in enumerate(lines):
        num_generated = draws.generated_before(step + 1) - draws.generated_before(step)
        shares = {route: line[f"sail/{route}_share"] for route in ("data", "ddp", "dpp", "dpr")}
        assert sum(shares.values()) == pytest.approx(1)
        assert 8 * (shares["dpp"] + shares["dpr"]) == pytest.approx(num_generated)
        if num_generated:
            assert line["staleness/max"] <= 1
            assert line["rollout/tokens"] > 0
    assert lines[-1]["weights/version"] >= 4, "engines follow the learner"


def test_sail_measures_answers_and_pairs_that_it_does_not_train_on(sail_run: Run) -> None:
    first, last = (line for line in read_metrics(sail_run.folder.path) if "evaluation/seconds" in line)
    assert first["evaluation/reward_margin"] == pytest.approx(0, abs=1e-5), "the policy begins as its own reference"
    assert {"evaluation/accuracy", "evaluation/reward_accuracy"} <= last.keys()


def test_every_metric_of_preference_runs_is_documented(sail_run: Run, reward_model: Run) -> None:
    for run in (sail_run, reward_model):
        assert undocumented({key for line in read_metrics(run.folder.path) for key in line}) == []


def test_dpo_resumes_number_for_number_and_the_reference_is_not_run_again(
    ray_session: None, start_model: Path, pairs: dict[str, Any], tmp_path: Path
) -> None:
    def run(folder: str, num_steps: int, resume: bool = False) -> Path:
        values = small_config(
            start_model,
            tmp_path / folder,
            num_steps=num_steps,
            resume=resume,
            data=pairs,
            algorithm={"name": "dpo"},
            rewards=[],
        )
        return train(configured(values)).folder.path

    whole = run("whole", 10)  # more than one epoch of 8 steps
    run("parts", 6)
    parts = run("parts", 10, resume=True)
    one, other = ([deterministic_view(line) for line in step_lines(folder)] for folder in (whole, parts))
    assert [line["step"] for line in one] == list(range(1, 11))
    for a, b in zip(one, other, strict=True):
        keys = [key for key in a if key.startswith(("learner/", "preference/")) and key != "learner/tokens_per_s"]
        assert [a[key] for key in keys] == [b[key] for key in keys]
    import sqlite3

    with sqlite3.connect(whole / "reference" / "rank0.sqlite") as database:
        (count,) = database.execute("select count(*) from logps").fetchone()
    answers = {(f"{a} + {b} =", text) for a in range(8) for b in range(8) for text in (a + b, a + b + 50)}
    assert count == len(answers), "each answer once, over all epochs"
    assert np.isfinite([line["learner/loss"] for line in one if line["learner/loss"] is not None]).all()


def test_a_reward_server_that_is_killed_is_started_again_and_answers(ray_session: None) -> None:
    from raylign.jobs.run.roles import start_reward_server
    from raylign.rewards.rules import ExactConfig
    from raylign.rollout.sample import Completion, Group, Prompt

    ids = np.zeros(1, np.int32)
    completion = Completion(ids, np.zeros(1, np.float32), (), "stop", "right")
    group = Group(Prompt("p", 0, "q", ids, ("right",)), (completion,))

    async def run() -> None:
        server = await start_reward_server([ExactConfig()])
        try:
            pid = await server.__ray_call__.remote(lambda self: os.getpid())
            os.kill(pid, signal.SIGKILL)
            (scored,) = await asyncio.wait_for(server.score.remote([group]), HANGS_S)
            assert scored.total_rewards is not None
            assert scored.total_rewards.tolist() == [1.0]
            assert await server.__ray_call__.remote(lambda self: os.getpid()) != pid
        finally:
            ray.kill(server)

    asyncio.run(run())
