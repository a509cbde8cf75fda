"""BDR and BDR_Online on the real vLLM, DeepSpeed and Ray: answers beside the training, exact resumes, what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.curricula.selection import read_selection
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.metrics import deterministic_view, undocumented
from raylign.jobs.run.run import Run
from raylign.jobs.train import train
from tests.end_to_end.conftest import configured, small_config

pytestmark = pytest.mark.ray
NUM_ROWS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sums, those to weigh all wrong by one in every fourth row."""
    folder = tmp_path_factory.mktemp("rows")

    def section(name: str, first: int, count: int, off: int) -> dict[str, Any]:
        rows = [
            {"question": f"{a} + {b} =", "response": f" {a + b + (off if n % 4 == 0 else 0)}"}
            for n, (a, b) in enumerate(divmod(first + number, 10) for number in range(count))
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"source": str(folder / name), "reference": "{response}", "template": "{prompt}"}

    return {
        "data": section("weighed.jsonl", 0, NUM_ROWS, 1),
        "trusted_data": section("trusted.jsonl", 50, 16, 0),
        "evaluation": {"trusted": section("held_out.jsonl", 80, 8, 0), "every_steps": 3},
    }


def values_of(model: Path, folder: Path, data: dict[str, Any], **sections: Any) -> dict[str, Any]:
    values = small_config(
        model,
        folder,
        rewards=[],
        sampling={"max_tokens": 4, "num_completions": 2},
        checkpoints={"every_steps": 2},
        **data,
    )
    values["rollout"] = {**values["rollout"], "deterministic": True}
    return values | sections


def online(**keys: Any) -> dict[str, Any]:
    selector = {"learning_rate": 0.1}
    return {"name": "bdr_online", "masked_share": 0.3, "online_warmup_steps": 0, "selector": selector, **keys}


DYNAMIC = online(dynamic=True, generation_every_steps=3)


def step_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if "learner/loss" in line]


@pytest.fixture(scope="module")
def dynamic_run(
    ray_session: None, start_model: Path, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Six steps that wait for their answers: refreshes before steps 2 and 5."""
    folder = tmp_path_factory.mktemp("dynamic") / "run"
    return train(configured(values_of(start_model, folder, data, num_steps=6, algorithm=DYNAMIC)))


def test_fresh_answers_have_ratios_of_one(dynamic_run: Run) -> None:
    """Nothing is shifted, re-tokenised or of another version: engine and learner agree on every token."""
    lines = step_lines(dynamic_run.folder.path)
    assert [line["step"] for line in lines if "refresh/rows" in line] == [2, 5]
    for line in (lines[1], lines[4]):
        assert line["refresh/rows"] == 12
        if line["selection/sampled_share"]:
            assert line["selection/max_ratio"] == pytest.approx(1, abs=1e-3)
            assert line["selection/min_ratio"] == pytest.approx(1, abs=1e-3)
    later = [line for line in lines[2:4] if line["selection/sampled_share"]]
    assert any(abs(line["selection/max_ratio"] - 1) > 1e-3 for line in later)  # the policy has moved on since


def test_a_run_shows_which_rows_were_kept_dropped_and_answered_anew(dynamic_run: Run) -> None:
    folder = dynamic_run.folder.path
    rows = read_selection(folder)
    assert len(rows) == NUM_ROWS
    anew = [row for row in rows if row["state"] == "regenerated"]
    assert 0 < len(anew) <= 12
    assert {answer["version"] for row in anew for answer in row["answers"]} == {4}  # asked for before step 5
    assert "Selection of rows" in (folder / "report.html").read_text()
    assert undocumented({key for line in read_metrics(folder) for key in line}) == []
    losses = [line["evaluation/loss"] for line in read_metrics(folder) if "evaluation/loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_resumed_run_has_the_numbers_of_an_uninterrupted_one(
    dynamic_run: Run, start_model: Path, data: dict[str, Any], tmp_path: Path
) -> None:
    """Selector, its moments, masked rows and answers come from the checkpoint: step 4 stands between two refreshes.
    The same run without its last checkpoint is one that ended before it was saved."""
    shutil.copytree(dynamic_run.folder.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    train(configured(values_of(start_model, tmp_path / "run", data, num_steps=6, algorithm=DYNAMIC, resume=True)))
    views = [[deterministic_view(line) for line in step_lines(folder)] for folder in
             (tmp_path / "run", dynamic_run.folder.path)]  # fmt: skip
    assert views[0] == views[1]
    assert read_selection(tmp_path / "run") == read_selection(dynamic_run.folder.path)


def test_training_goes_on_while_answers_are_made(
    ray_session: None, start_model: Path, data: dict[str, Any], tmp_path: Path
) -> None:
    values = values_of(start_model, tmp_path / "run", data, num_steps=40)
    values |= {"async": {"max_staleness": 1}, "algorithm": online(generation_every_steps=5), "checkpoints": {}}
    values["rollout"] = {**values["rollout"], "deterministic": False}
    lines = step_lines(train(configured(values)).folder.path)
    asked = [line["refresh/asked_at_step"] for line in lines if "refresh/rows" in line]
    assert asked[0] == 0  # fixed rows are answered before the first step
    assert len(asked) >= 2
    used_at = [line["step"] for line in lines if "refresh/rows" in line]
    assert all(used > step for used, step in zip(used_at[1:], asked[1:], strict=True))
    assert any(line["selection/sampled_share"] > 0 for line in lines[:4])
