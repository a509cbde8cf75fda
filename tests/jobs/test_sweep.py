"""A grid of runs from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.config.sweep import SweepConfig
from raylign.jobs.sweep import expand, run_name, sweep, table

SAIL: dict[str, Any] = {
    "name": "sail",
    "models": {"Q0.5B": {"model.path": "Qwen/Qwen1.5-0.5B"}, "Q1.8B": {"model.path": "Qwen/Qwen1.5-1.8B"}},
    "datasets": {"PP10": {"data.source": "pku.jsonl"}},
    "sft": {"config": ["sail_sft"]},
    "tasks": {
        "DDP": {
            "config": ["sail_ddp"],
            "grid": {
                "algorithm.beta": [0.1],
                "algorithm.ddp.share": [0.2, 0.4],
                "algorithm.ddp.coefficient": [0.1, 0.2, 0.3],
            },
            "labels": {
                "algorithm.beta": "beta",
                "algorithm.ddp.share": "r",
                "algorithm.ddp.coefficient": "rho",
            },
            "then": [{"name": "GEN", "set": {"model": "{run}"}}],
        }
    },
}


def test_the_published_sweep_has_as_many_commands_in_the_published_order() -> None:
    runs = list(expand(SweepConfig.model_validate(SAIL)))
    assert len(runs) == 26, "2 SFT, and 12 tasks of two commands each"
    assert [run.name for run in runs[:2]] == ["SFT_Q0.5B_PP10", "SFT_Q1.8B_PP10"]
    assert [run.name for run in runs].count("DDP_Q0.5B_PP10_beta0.10r0.20rho0.30") == 1
    assert all(run.follows == before.name for before, run in zip(runs[2::2], runs[3::2], strict=True))
    task = runs[2]
    assert task.starts_from == "SFT_Q0.5B_PP10"
    assert task.words[:3] == ("train", "--config", "sail_ddp")
    assert "{start}" in task.words


def test_names_have_two_decimals_where_that_is_exact() -> None:
    assert (
        run_name("DPO", "L8B", "U0", {"beta": 0.1, "lr": 5e-7, "kind": "softmax"})
        == "DPO_L8B_U0_beta0.10lr5e-07kindsoftmax"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "tasks is empty"),
        ({"tasks": {"a": {"grid": {"seed": []}}}}, "grid.seed has no values"),
        ({"tasks": {"a": {"grid": {"seed": [1]}, "labels": {"sed": "s"}}}}, "labels names sed"),
        ({"tasks": {"a": {}}, "sft": {"grid": {"seed": [1]}}}, "sft.grid is set"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig.model_validate(values)


def test_a_run_that_fails_is_named_with_its_last_words_and_what_needs_it_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "folder": tmp_path,
        "models": {"none": {"model.path": str(tmp_path / "nothing")}},
        "sft": {"config": ["sft_arithmetic"]},
        "tasks": {"DPO": {"config": ["dpo_arithmetic"]}},
    }
    assert sweep(SweepConfig.model_validate(values)) == 1
    said = capsys.readouterr().out
    assert "SFT_none_data: failed with 2" in said and "nothing" in said
    assert "DPO_none_data: left out, since SFT_none_data failed" in said
    assert table([]).startswith("| run |")


def test_a_dry_run_prints_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(SweepConfig.model_validate({**SAIL, "folder": tmp_path / "x", "dry_run": True})) == 0
    assert "26 commands" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()
