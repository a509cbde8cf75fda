"""A grid of runs from one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.config.sweep import SweepConfig
from raylign.jobs.sweep.checks import filled_words
from raylign.jobs.sweep.commands import expand, run_name
from raylign.jobs.sweep.run import sweep

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


def test_nothing_starts_while_a_command_has_a_problem(tmp_path: Path) -> None:
    values = {
        "folder": tmp_path / "sweep",
        "models": {"none": {"model.path": str(tmp_path / "nothing")}},
        "sft": {"config": ["sft_arithmetic"]},
        "tasks": {"DPO": {"config": ["dpo_arithmetic"], "grid": {"seed": [1, 2]}}},
    }
    with pytest.raises(ValueError, match=r"SFT_none_data and 2 more: model.path: .*nothing"):
        sweep(SweepConfig.model_validate(values))
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_a_wrong_key_of_one_command_is_said_with_its_name(tmp_path: Path) -> None:
    values = {**SAIL, "folder": tmp_path, "sft": None, "tasks": {"T": {"set": {"learner.learning_rat": 1}}}}
    with pytest.raises(ValueError, match=r"T_Q0.5B_PP10.*: --learner.learning_rat: unknown option; did you mean"):
        sweep(SweepConfig.model_validate(values))


def test_a_dry_run_prints_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(SweepConfig.model_validate({**SAIL, "folder": tmp_path / "x", "dry_run": True})) == 0
    assert "26 commands" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "value", [0.001, 0.0014, 3e-5, 3.4e-5, 1e-3, 0.1, 1 / 3, 123456.789, 2, 5e-324, 1e22, 0, -0.25]
)
def test_a_name_gives_its_value_back(value: float) -> None:
    assert float(run_name("T", "m", "d", {"": value}).removeprefix("T_m_d_")) == value


def test_values_that_differ_get_names_that_differ() -> None:
    rates = [0.0010, 0.0014, 3.0e-5, 3.4e-5, 0.1, 0.1000001]
    sail = {**SAIL, "sft": None, "tasks": {"T": {"grid": {"learner.learning_rate": rates}}}}
    runs = list(expand(SweepConfig.model_validate(sail)))
    assert len({run.folder for run in runs}) == len(runs) == 12


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"T": {"grid": {"seed": [0, 0]}}}, "they are the same run twice"),
        ({"T": {"grid": {"name": ["a", "a"]}, "labels": {"name": "x"}}}, "they are the same run twice"),
        ({"T": {"grid": {"a": [1], "b": [2]}}, "T_Q0.5B": {}}, None),
        ({"../../evil": {}}, "are no paths"),
        ({"T": {"grid": {"model.path": ["a/b", "a-b"]}}}, "names or labels that differ"),
    ],
)
def test_runs_that_would_share_a_folder_or_leave_it_are_refused(
    tasks: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    config = SweepConfig.model_validate({**SAIL, "sft": None, "tasks": tasks, "folder": tmp_path, "dry_run": True})
    if words is None:
        assert sweep(config) == 0
        return
    with pytest.raises(ValueError, match=words):
        sweep(config)


def test_a_finished_folder_counts_as_done_only_with_the_same_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "folder": tmp_path,
        "models": {"m": {"model.path": "somewhere"}},
        "datasets": {"d": {"data.source": "rows.jsonl"}},
        "tasks": {"T": {"config": ["sft_arithmetic"]}},
    }
    config = SweepConfig.model_validate(values)
    (run,) = expand(config)
    assert run_command_line([*run.words, "--print-config"]) == 0
    run.folder.mkdir()
    written = capsys.readouterr().out
    assert "\nreplay: null\n" in written
    # as a raylign wrote it that did not know this key yet
    (run.folder / "config.yaml").write_text(written.replace("\nreplay: null\n", "\n"))
    (run.folder / "summary.json").write_text(
        '{"finished": true, "num_steps": 3, "seconds": 1.0, "checkpoint": "somewhere"}'
    )
    assert sweep(config) == 0
    assert "T_m_d: done before" in capsys.readouterr().out
    values["tasks"] = {"T": {"config": ["sft_arithmetic"], "set": {"learner.learning_rate": 0.5}}}
    with pytest.raises(ValueError, match=r"is finished with another config .learner.learning_rate: "):
        sweep(SweepConfig.model_validate(values))


def test_what_followed_a_run_is_done_too_when_the_sweep_is_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = [{"name": "exact"}]
    evaluation = {"name": "E", "set": {"model": "{run}", "rewards": rewards}}
    sides = {"new.model": "{run}", "reference.model": "{start}", "rewards": rewards}
    values: dict[str, Any] = {
        "folder": tmp_path,
        "models": {"m": {"model.path": "somewhere"}},
        "sft": {"config": ["sft_arithmetic"]},
        "tasks": {"T": {"config": ["dpo_arithmetic"], "then": [evaluation, {**evaluation, "name": "C"}]}},
    }
    values["tasks"]["T"]["then"][1] |= {"command": "compare", "set": sides}
    runs = list(expand(SweepConfig.model_validate(values)))
    folders = {run.name: run.folder for run in runs}
    results = ["summary", "summary", "evaluation", "comparison"]
    for run, result in zip(runs, results, strict=True):
        run.folder.mkdir()
        assert run_command_line([*filled_words(run, folders), "--print-config"]) == 0
        (run.folder / "config.yaml").write_text(capsys.readouterr().out)
        found = {
            "finished": True,
            "checkpoint": f"{run.folder}/checkpoints/step-000001",
            "num_steps": 1,
            "seconds": 1.0,
        }
        (run.folder / f"{result}.json").write_text(json.dumps(found))
    assert sweep(SweepConfig.model_validate(values)) == 0
    assert capsys.readouterr().out.count("done before") == 4
    sides["rewards"] = [{"name": "numeric"}]
    with pytest.raises(ValueError, match=r"C is finished with another config .rewards: "):
        sweep(SweepConfig.model_validate(values))


def test_keys_by_data_set_reach_runs_and_what_follows_them() -> None:
    follow_up = {"name": "E", "set": {"model": "{run}", "reference.model": "{start}"}, "datasets": {"d": {"seed": 4}}}
    values = {
        "models": {"m": {"model.path": "somewhere"}},
        "datasets": {"d": {}, "e": {}},
        "tasks": {"T": {"datasets": {"d": {"seed": 3}}, "then": [follow_up]}},
    }
    words = {run.name: run.words for run in expand(SweepConfig.model_validate(values))}
    assert words["T_m_d"][-2:] == ("--seed", "3") and "--seed" not in words["T_m_e"]
    assert words["T_m_d/E"][-6:] == ("--model", "{run}", "--reference.model", "somewhere", "--seed", "4")
    values["tasks"]["T"]["datasets"]["f"] = {}  # type: ignore[index]
    with pytest.raises(ValueError, match="T: datasets names f, which `datasets` has not"):
        SweepConfig.model_validate(values)
