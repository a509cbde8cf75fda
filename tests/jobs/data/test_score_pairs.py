"""Soft labels for preference pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.data.score_pairs import ScorePairsConfig, score_pairs
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig

ROWS = [
    {"prompt": "1 + 1 =", "chosen": "2", "rejected": "3", "answer": 2, "kept": "yes"},
    {"prompt": "2 + 2 =", "chosen": "5", "rejected": "4", "answer": 4, "kept": "yes"},
    {"prompt": "3 + 3 =", "chosen": "broken", "rejected": "6", "answer": 6, "kept": "yes"},
]
REWARD = """
def reward(completions, references, **_):
    if "broken" in completions:
        raise RuntimeError("cannot read it")
    return [2.0 * (text == references[0]) - 1.0 for text in completions]
"""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    pairs, reward = tmp_path / "pairs.jsonl", tmp_path / "reward.py"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    reward.write_text(REWARD)
    data = {"source": str(pairs), "prompt": "{prompt}", "reference": "{answer}", "template": "{prompt}"}
    shape = {"num_layers": 1, "width": 32, "num_heads": 1, "num_kv_heads": 1}
    model = init_model(InitModelConfig(output=tmp_path / "model", data=DataConfig(**data), **shape))  # type: ignore[arg-type]
    return {
        "folder": tmp_path / "out",
        "model": str(model),
        "data": {**data, "shuffle": False},
        "rewards": [{"name": "function", "path": f"{reward}:reward"}],
    }


def test_scores_and_probabilities_stand_beside_the_row(values: dict[str, Any], tmp_path: Path) -> None:
    summary = score_pairs(ScorePairsConfig.model_validate({**values, "num_repeats": 2}))
    first, second = (json.loads(line) for line in (tmp_path / "out" / "scored.jsonl").read_text().splitlines())
    assert (first["chosen_score"], first["rejected_score"]) == (1.0, -1.0)
    assert first["bt_prob"] == pytest.approx(0.880797, abs=1e-6)
    assert second["bt_prob"] == pytest.approx(1 - 0.880797, abs=1e-6)
    assert first["kept"] == "yes"
    assert summary["failed"] == 1, "counted, and named"
    assert "cannot read it" in summary["first_failures"][0]
    with pytest.raises(ValueError, match="exists"):
        score_pairs(ScorePairsConfig.model_validate(values))


def test_a_file_with_prompt_chosen_and_rejected_is_read_as_it_is(values: dict[str, Any], tmp_path: Path) -> None:
    """From the command line, with the one key of `data` that has to be given."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in ROWS]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewards = json.dumps([{"name": "length", "free_tokens": 0, "max_tokens": 100}])
    words = ["--model", values["model"], "--folder", str(tmp_path / "out"), "--data.source", str(pairs)]
    words += ["--data.template", "{prompt}", "--rewards", rewards]
    assert run_command_line(["data", "score-pairs", *words]) == 0
    scored = [json.loads(line) for line in (tmp_path / "out" / "scored.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in scored] == [row["prompt"] for row in rows]  # in the order of the file


def test_without_a_reward_nothing_starts() -> None:
    with pytest.raises(ValueError, match="rewards is empty"):
        ScorePairsConfig()
