"""`raylign sample` and `raylign export` on real parts: answers without a reward, read again by compare and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raylign.jobs.cli import run_command_line
from raylign.jobs.run.run import Run
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.loading import load_rows
from raylign.rollout.model_folder import check_model_folder, load_tokenizer
from tests.end_to_end.conftest import HELD_OUT

pytestmark = pytest.mark.ray


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_sample_needs_no_reward_resumes_and_is_compared(
    short_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sample"
    values = {
        "folder": str(folder),
        "model": str(short_run.folder.path),
        "data": HELD_OUT,
        "num_prompts": 6,
        "num_completions": 2,
        "deterministic": True,
        "sampling": {"max_tokens": 6},
        "engine": {"max_model_len": 32, "kv_cache_gib": 0.1},
    }
    recipe = tmp_path / "sample.yaml"
    recipe.write_text(yaml.safe_dump(values))
    words = ["sample", "--config", str(recipe)]
    assert run_command_line(words) == 0
    rows = lines_of(folder / "answers.jsonl")
    assert [(row["ordinal"], row["index"]) for row in rows] == [(n, i) for n in range(6) for i in range(2)]
    assert all(row["prompt"].endswith(" =") and "checkpoints/step-000003" in row["policy"] for row in rows)
    assert "messages" not in rows[0]  # a plain template has no chat
    assert json.loads((folder / "summary.json").read_text())["num_answers"] == 12

    kept = (folder / "draws.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "draws.jsonl").write_bytes(b"".join(kept[:4]) + b'{"ordinal"')  # as a kill leaves it
    assert run_command_line([*words, "--resume"]) == 0
    assert lines_of(folder / "answers.jsonl") == rows
    capsys.readouterr()
    assert run_command_line(words) == 2
    assert "go on with it by --resume" in capsys.readouterr().err

    of_one = tmp_path / "one.jsonl"
    of_one.write_text("".join(json.dumps(row) + "\n" for row in rows if row["index"] == 0))
    reward = '[{"name": "length", "free_tokens": 0, "max_tokens": 6}]'
    sides = ["--new.answers", str(of_one), "--reference.answers", str(folder / "draws.jsonl")]
    assert run_command_line(["compare", *sides, "--rewards", reward, "--folder", str(tmp_path / "compared")]) == 0
    found = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert found["by_reward"]["num_ties"] == 6

    as_data = DataConfig(source=str(of_one), prompt="{prompt}", reference="{response}", template="{prompt}")
    assert [item.references for item in load_rows(as_data).mapped] == [
        (row["response"],) if row["response"].strip() else () for row in rows[::2]
    ]


def test_a_run_is_exported_whole_with_a_card_and_never_over_something(
    short_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output = short_run.folder.path, tmp_path / "given"
    words = ["export", "--model", str(run), "--output", str(output)]
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    assert run_command_line([*words, "--push", "somebody/model"]) == 2
    assert "set HF_TOKEN in the environment" in capsys.readouterr().err and not output.exists()
    assert run_command_line(words) == 0
    check_model_folder(output)
    load_tokenizer(output)
    names = {path.name for path in output.iterdir()}
    assert not names & {"state", "complete.json"} and {"README.md", "training", "model.safetensors"} <= names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given"]
    text = (output / "README.md").read_text()
    matter = yaml.safe_load(text.split("---")[1])
    assert matter == {"library_name": "transformers", "tags": ["raylign", "grpo"]}
    for said in ("step 3", "| training | reasoning_gym:chain_sum", "| num_steps | 3 |", "| algorithm.name | grpo |"):
        assert said in text
    assert "| evaluation/accuracy |" in text and "![Reward](training/curve-01.svg)" in text
    assert (output / "training" / "curve-01.svg").read_text().count("<polyline") == 1

    capsys.readouterr()
    assert run_command_line(words) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert run_command_line(["export", "--model", str(tmp_path / "given"), "--output", str(tmp_path / "x")]) == 2
    assert "neither a run folder" in capsys.readouterr().err
