"""`raylign data best-of-n` and `raylign compare` on the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylign.jobs.cli import run_command_line
from tests.end_to_end.conftest import HELD_OUT

pytestmark = pytest.mark.ray
ENGINE = {"max_model_len": 32, "kv_cache_gib": 0.1}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_of_several_n_come_from_one_draw_and_a_resume_draws_only_what_is_missing(
    ray_session: None, start_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "draw"
    values = {
        "folder": str(folder),
        "model": str(start_model),
        "data": HELD_OUT,
        "num_prompts": 12,
        "best_of": [2, 4],
        "sampling": {"max_tokens": 6},
        "rewards": [{"name": "length", "free_tokens": 0, "max_tokens": 6}],
        "engine": ENGINE,
        "deterministic": True,
    }
    recipe = tmp_path / "draw.yaml"
    recipe.write_text(yaml.safe_dump(values))
    words = ["data", "best-of-n", "--config", str(recipe)]
    assert run_command_line(words) == 0
    drawn = lines_of(folder / "draws.jsonl")
    assert sorted(line["ordinal"] for line in drawn) == list(range(12))
    assert all(len(line["answers"]) == 4 and None not in line["scores"] for line in drawn)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["num_answered"], summary["failed_prompts"]) == (12, {})
    for n in (2, 4):
        part, rows = summary["best_of"][str(n)], lines_of(folder / f"best_of_{n}.jsonl")
        assert part["num_pairs"] == len(rows) and len(rows) + sum(part["dropped"].values()) == 12
        assert all(row["chosen_score"] > row["rejected_score"] and len(row["scores"]) == n for row in rows)
    of_4 = lines_of(folder / "best_of_4.jsonl")
    assert of_4 and of_4[0]["policy"].startswith(str(start_model))

    kept = (folder / "draws.jsonl").read_bytes()
    whole_files = {n: (folder / f"best_of_{n}.jsonl").read_bytes() for n in (2, 4)}
    first_lines = kept.splitlines(keepends=True)[:7]
    (folder / "draws.jsonl").write_bytes(b"".join(first_lines) + b'{"ordinal": 3, "prom')
    assert run_command_line([*words, "--resume"]) == 0
    assert (folder / "draws.jsonl").read_bytes().startswith(b"".join(first_lines))
    assert len(lines_of(folder / "draws.jsonl")) == 12
    # a seed for every answer: the draw that was broken off ends in the same files
    assert {n: (folder / f"best_of_{n}.jsonl").read_bytes() for n in (2, 4)} == whole_files

    before = (folder / "summary.json").read_bytes()
    assert run_command_line(words) == 2
    assert "go on with it by --resume" in capsys.readouterr().err
    assert (folder / "summary.json").read_bytes() == before


def test_two_models_are_compared_with_the_kl_between_them(ray_session: None, start_model: Path, tmp_path: Path) -> None:
    """The same model twice, sampled independently: half of the wins, and no KL at all."""
    folder = tmp_path / "comparison"
    values = {
        "folder": str(folder),
        "new": {"model": str(start_model), "name": "new"},
        "reference": {"model": str(start_model), "name": "reference"},
        "data": HELD_OUT,
        "num_prompts": 30,
        "sampling": {"temperature": 1.0, "max_tokens": 8},
        "rewards": [{"name": "length", "free_tokens": 0, "max_tokens": 8}],
        "kl": True,
        "engine": ENGINE,
    }
    recipe = tmp_path / "compare.yaml"
    recipe.write_text(yaml.safe_dump(values))
    assert run_command_line(["compare", "--config", str(recipe)]) == 0
    found = json.loads((folder / "comparison.json").read_text())
    rates = found["by_reward"]
    assert rates["num_wins"] + rates["num_ties"] + rates["num_losses"] == 30 and rates["num_failed"] == 0
    assert rates["win_rate_low"] < 0.5 < rates["win_rate_high"]
    assert found["kl"] == {"mean": 0.0, "standard_error": 0.0, "num_answers": 30, "temperature": 1.0}
    texts = [(line["new"], line["reference"]) for line in lines_of(folder / "comparison.jsonl")]
    assert sum(new != reference for new, reference in texts) > 10  # independent draws
    assert found["new"]["mean_tokens"] > 0
    assert (folder / "comparison.html").stat().st_size > 1_000_000
