"""configs/tasks.yaml of SAIL's published program, read as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raylign.jobs.config.loading import config_yaml, parse_words, resolve
from raylign.jobs.config.sweep import SweepConfig
from raylign.jobs.sweep.commands import expand
from tests.jobs.stand_ins import StandIns

DDP = {"pipeline": "DDP", "beta": [0.1], "r": [0.2, 0.4], "rho": [0.1, 0.2, 0.3]}
TASKS: dict[str, Any] = {
    "tag": "first",
    "pipelines": ["SFT", "DPO", "GEN"],
    "model": ["Q0.5B", "Q1.8B"],
    "dataset": ["PP10"],
    "tasks": [DDP],
}


def written(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_the_published_file_gives_the_published_commands(tmp_path: Path) -> None:
    config = SweepConfig(tasks_yaml=written(tmp_path, TASKS))
    runs = list(expand(config))
    assert len(runs) == 26, "2 SFT, and 12 tasks of two commands each"
    assert [run.name for run in runs].count("DDP_Q0.5B_PP10_beta0.10r0.20rho0.30") == 1
    assert [run.name for run in runs[:2]] == ["SFT_Q0.5B_PP10", "SFT_Q1.8B_PP10"]
    assert config.folder == Path("runs/first")
    assert "Qwen/Qwen1.5-0.5B" in runs[0].words and "PKU-Alignment/PKU-SafeRLHF-10K" in runs[0].words
    assert runs[3].name.endswith("/GEN") and runs[3].follows == runs[2].name


def test_it_comes_by_the_command_line_and_its_config_is_a_sweep_of_ours(tmp_path: Path) -> None:
    own = '{"Q0.5B": {"model.path": "/mine"}}'
    words = ["--tasks_yaml", str(written(tmp_path, TASKS)), "--models", own, "--name", "second"]
    config = resolve(SweepConfig, parse_words(SweepConfig, words, "raylign sweep").layers)
    assert (config.models["Q0.5B"]["model.path"], config.name) == ("/mine", "second")
    again = SweepConfig.model_validate(yaml.safe_load(config_yaml(config)))
    assert list(expand(again)) == list(expand(config))


def test_every_data_set_task_and_stage_passes_the_checks_before_a_start(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of a judge that is not asked here")
    tasks = [
        {"pipeline": "DPO", "beta": [0.1]},
        {"pipeline": "DPR", "beta": [0.1], "g": [0.3], "gamma": [0.3]},
    ]
    values = {**TASKS, "pipelines": ["SFT", "DPO", "GEN", "EVALREWARD", "EVALGPT"], "model": ["L8B"], "tasks": tasks}
    names = ["PP10", "PM0", "U30"]
    path = written(tmp_path, {**values, "dataset": names})
    findings = stand_ins.examine(["sweep", "--tasks_yaml", str(path)])
    assert findings.problems == []
    assert [warning for warning in findings.warnings if "overlap" in warning] == []
    plain = {**values, "pipelines": ["SFT", "DPO"], "tasks": tasks[:1], "dataset": ["AH10", "OS0", "OW0"]}
    assert stand_ins.examine(["sweep", "--tasks_yaml", str(written(tmp_path, plain))]).problems == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": ["Q0.5"]}, "tasks.yaml:6: unknown model 'Q0.5'; did you mean Q0.5B?"),
        ({"dataset": ["PH10"]}, "unknown data set 'PH10'; known: PP10"),
        ({"pipelines": ["SFTT"]}, "tasks.yaml:2: unknown pipeline 'SFTT'; did you mean SFT?"),
        ({"tasks": [{"pipeline": "DDP", "beta": [0.1], "r": [0.2]}]}, "DDP needs beta, r, rho; missing: rho"),
        ({"tasks": [{**DDP, "pi": [0.2]}]}, "unknown parameter of DDP 'pi'"),
        ({"tasks": [{**DDP, "beta": 0.1}]}, "a list of numbers is expected, not 0.1"),
        ({"tasks": []}, "`tasks` must be a list with something in it"),
        ({"pipeline": ["SFT"]}, "unknown key 'pipeline'; did you mean pipelines?"),
        ({"dataset": ["AH10"], "pipelines": ["SFT", "EVALREWARD"]}, "AH10 has no published reward model"),
    ],
)
def test_what_the_program_would_not_take_is_an_error_with_its_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = written(tmp_path, {**TASKS, **change})
    with pytest.raises(ValueError) as error:
        SweepConfig(tasks_yaml=path)
    assert words in str(error.value)


def test_tasks_of_two_kinds_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of them says what is run"):
        SweepConfig.model_validate({"tasks_yaml": written(tmp_path, TASKS), "tasks": {"T": {}}})
    with pytest.raises(ValueError, match="no file"):
        SweepConfig(tasks_yaml=tmp_path / "none.yaml")


def test_a_pipeline_may_come_twice(tmp_path: Path) -> None:
    config = SweepConfig(tasks_yaml=written(tmp_path, {**TASKS, "tasks": [DDP, {**DDP, "beta": [0.5]}]}))
    assert list(config.tasks) == ["DDP", "DDP-2"]
