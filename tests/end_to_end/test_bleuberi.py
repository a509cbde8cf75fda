"""The BLEUBERI chain on the real parts: `data grpo` → GRPO with BLEU, `data sft` → SFT, on the outputs unedited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raylign.jobs.cli import run_command_line
from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.conftest import small_config

pytestmark = pytest.mark.ray


def saved(path: Path) -> list[dict[str, Any]]:
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(str(path))["train"].to_list()
    return rows


def run(command: str, values: dict[str, Any], folder: Path, *flags: str) -> int:
    recipe = folder / f"{command.replace(' ', '-')}.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return run_command_line([*command.split(), "--config", str(recipe), *flags])


def test_rows_are_chosen_by_bleu_and_trained_on_unedited(
    ray_session: None, start_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.jsonl"
    sums = [(a, b) for a in range(5) for b in range(5)]
    lines = [
        {
            "id": f"s{a}{b}",
            "source": "sums",
            "messages": [{"role": "user", "content": f"{a} + {b}"}, {"role": "assistant", "content": str(a + b)}],
            "ref_output_gold": f"{a + b}",
            "ref_output_long": f"{a} + {b} = {a + b}",
        }
        for a, b in sums
    ]
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines))
    engine = {"max_model_len": 96, "kv_cache_gib": 0.1}
    values = {
        "hf_dataset_path": str(pool),
        "ref_models": ["long", "gold"],
        "metric": "bleu",
        "model": str(start_model),
        "num_examples": 8,
        "inference_max_new_tokens": 6,
        "output_dir": str(tmp_path / "data"),
        "output_dataset_name": "hard",
        "engine": engine,
        "deterministic": True,
    }
    assert run("data grpo", values, tmp_path) == 0
    chosen = tmp_path / "data" / "data_grpo" / "hard"
    rows = saved(chosen)
    assert len(rows) == 8 and all(len(row["references"]) == 2 and row["bleu_score"] < 1 for row in rows)
    summary = json.loads((chosen / "summary.json").read_text())
    assert (summary["this_session"]["num_answers"], summary["rows_dropped"]) == (25, {})
    # another choice asks the model nothing
    assert run("data grpo", values, tmp_path, "--selection_mode", "easy", "--output_dataset_name", "easy") == 0
    again = json.loads((chosen.parent / "easy" / "summary.json").read_text())["this_session"]
    assert (again["num_answers"], again["num_scores_from_cache"]) == (0, 25)
    capsys.readouterr()
    assert run("data grpo", values, tmp_path, "--num_examples", "9") == 2
    assert "num_examples: 8 -> 9" in capsys.readouterr().err

    learned = {"source": str(chosen), "prompt": "{prompt}", "reference": "{references}"}
    rollout = {"prompts_per_step": 4, "engine": engine}
    grpo = small_config(start_model, tmp_path / "grpo", data=learned, rewards=[{"name": "bleu"}], rollout=rollout)
    grpo |= {"algorithm": {"name": "grpo", "kl_coef": 0.04, "clip_high": 0.2}}
    assert run("train", grpo, tmp_path) == 0
    steps = [line for line in read_metrics(tmp_path / "grpo") if "learner/loss" in line]
    assert len(steps) == 2 and np.isfinite([line["learner/loss"] for line in steps]).all()
    assert all(0 < line["reward/bleu/mean"] < 1 and line["reward/bleu/words/mean"] > 0 for line in steps)
    assert steps[0]["reward/bleu/shortest_reference_words/mean"] == 1

    assert run("data sft", {"input_data_path": str(chosen), "output_dir": str(tmp_path / "data")}, tmp_path) == 0
    taught = tmp_path / "data" / "data_sft" / "hard_SFT"
    assert [row["id"] for row in saved(taught)][:2] == [f"{rows[0]['id']}_0", f"{rows[0]['id']}_1"]
    sft = small_config(start_model, tmp_path / "sft", rollout=rollout, algorithm={"name": "sft"}, rewards=[])
    sft |= {"data": {"source": str(taught), "messages": "messages"}}
    assert run("train", sft, tmp_path) == 0
    steps = [line for line in read_metrics(tmp_path / "sft") if "learner/loss" in line]
    assert len(steps) == 2 and np.isfinite([line["learner/loss"] for line in steps]).all()
