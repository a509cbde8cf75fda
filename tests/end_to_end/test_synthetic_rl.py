"""`raylign synthetic-rl` with real engines and a real learner, from a definition to a model, and once more resumed."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import yaml

from raylign.jobs.cli import run_command_line
from raylign.rollout.data.sources import read_rows
from tests.jobs.synthetic_teacher import SumTeacher, value_of
from tests.patience import HANGS_S
from tests.rewards.chat_server import chat_server

pytestmark = pytest.mark.ray
ENGINE = {"max_model_len": 32, "kv_cache_gib": 0.1, "start_deadline_s": HANGS_S}


def test_from_a_definition_to_a_model(
    ray_session: None, start_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = tmp_path / "sums"
    columns = {"Input": [f"{number} + 1" for number in range(4)], "Output": [str(number + 1) for number in range(4)]}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)}).save_to_disk(str(sums))
    folder, target = tmp_path / "experiment", tmp_path / "final"
    teacher = SumTeacher(terms=(2, 2), hard_terms=3, wrong_share=0.0)
    with chat_server(teacher) as server:
        values = {
            "folder": str(folder),
            "target_model_path": str(target),
            "base_model_path": str(start_model),
            "dataset_path": str(sums),
            "task_instruction": "Add two numbers.",
            "task": {"form": "numeric", "output_instruction": "="},
            "template": "{prompt}",
            "rows": {"num_rows": 6, "num_kept": 8, "num_votes": 3},
            "scoring": {"num_answers": 8, "temperature": 1.0, "max_tokens": 2},
            "selection": {"unsolved_policy": "demote"},  # a random model solves few
            "teacher": {"endpoints": [{"url": server.address, "requests_per_minute": None}], "cache": None},
            "num_epochs": 1,
            "sampling": {"max_tokens": 2, "num_completions": 4},
            "rollout": {"prompts_per_step": 4, "engine": ENGINE},
            "algorithm": {"kl_coef": 0.0},
            "learner": {"learning_rate": 1e-3, "threads_per_rank": 1, "start_deadline_s": HANGS_S},
            "async": {"max_staleness": 0},
            "checkpoints": {"every_steps": 0},
        }
        recipe = tmp_path / "sums.yaml"
        recipe.write_text(yaml.safe_dump(values))
        words = ["synthetic-rl", "--config", str(recipe)]
        assert run_command_line([*words, "--dry_run"]) == 0
        assert "verify rewrites" in capsys.readouterr().out and server.asked == [] and not folder.exists()
        assert run_command_line(words) == 0
        num_calls = len(server.asked)
        assert run_command_line([*words, "--resume"]) == 0
        assert len(server.asked) == num_calls
        assert run_command_line(words) == 2  # without --resume nothing is overwritten
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_before"] is not None and summary["accuracy_after"] is not None
    assert summary["num_steps"] == 2 and summary["num_test"] == 4 and summary["num_selected"] == 8
    rows = read_rows(str(folder / "data" / "selected"))
    assert all(int(row["output"]) == value_of(row["input"]) and row["L"] == 8 for row in rows)
    assert (target / "config.json").is_file() and list(target.glob("*.safetensors")) and not (target / "state").exists()
    assert "target_model_path" in capsys.readouterr().err
