"""What the user gives beside the definition, and the checks before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.data.job_folder import job_folder
from raylign.jobs.run.output_folder import hold
from raylign.jobs.synthetic.estimate import estimate
from raylign.jobs.synthetic.examine import examine_synthesis
from raylign.jobs.synthetic.generate import Material
from raylign.jobs.synthetic.given import Given, read_given
from raylign.jobs.synthetic.prompts import Demo, TaskTexts
from raylign.jobs.synthetic.rl_config import SyntheticRLConfig
from raylign.jobs.synthetic.synthetic_rl import check_target
from tests.jobs.stand_ins import TWO_CORES
from tests.jobs.synthetic.by_hand import NUM_ROWS, config_of, demos, make
from tests.jobs.synthetic_teacher import SumTeacher
from tests.rewards.chat_server import chat_server

NOBODY = "http://127.0.0.1:9/v1"


def saved(path: Path, columns: Sequence[str] = ("Input", "Output"), **splits: Sequence[tuple[str, str]]) -> Path:
    sets = {
        name: datasets.Dataset.from_dict({column: [row[place] for row in rows] for place, column in enumerate(columns)})
        for name, rows in splits.items()
    }
    datasets.DatasetDict(sets).save_to_disk(str(path))
    return path


def given_by(folder: Path, **values: Any) -> Given:
    return read_given(config_of(folder / "job", NOBODY, **{name: str(value) for name, value in values.items()}))


TRAIN = [("1 + 1", "2"), ("2 + 2", "4"), ("3 + 3", "6")]


@pytest.mark.parametrize("columns", [("Input", "Output"), ("input", "output")])
def test_demonstrations_and_test_rows_come_in_either_spelling(tmp_path: Path, columns: Sequence[str]) -> None:
    path = saved(tmp_path / "sums", columns, train=TRAIN, test=[("4 + 4", "8"), ("", "8")])
    found = given_by(tmp_path, dataset_path=path, num_demos=2)
    assert found.demos == (Demo("1 + 1", "2"), Demo("2 + 2", "4")) and found.test == (Demo("4 + 4", "8"),)
    assert found.warnings == (f"{path} (test): 1 of 2 rows have no input or no output",)
    file = tmp_path / "demos.jsonl"
    file.write_text(json.dumps(dict(zip(columns, ("9 + 9", "18"), strict=True))) + "\n")
    assert given_by(tmp_path, dataset_path=path, demo_examples=file).demos == (Demo("9 + 9", "18"),)
    assert given_by(tmp_path, dataset_path=path, num_demos=0).demos == ()


def test_a_test_set_that_shares_inputs_with_the_demonstrations_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "sums", train=TRAIN, test=[("1  +  1", "2"), ("4 + 4", "8")])
    (warning,) = given_by(tmp_path, dataset_path=path).warnings
    assert warning.startswith("1 of 2 test rows have the input of a demonstration")


def test_a_data_set_that_cannot_be_used_says_what_is_needed(tmp_path: Path) -> None:
    other = saved(tmp_path / "other", ("question", "answer"), train=TRAIN)
    with pytest.raises(ValueError, match="its columns are question, answer; Input and Output are needed"):
        given_by(tmp_path, dataset_path=other)
    (tmp_path / "plain").mkdir()
    with pytest.raises(ValueError, match=r"dataset_path is .*plain: not a folder that `datasets` saved"):
        given_by(tmp_path, dataset_path=tmp_path / "plain")
    empty = saved(tmp_path / "empty", train=[("", "")])
    with pytest.raises(ValueError, match="no row of train has both Input and Output"):
        given_by(tmp_path, dataset_path=empty)


def problems(folder: Path, given: Given | None = None, **changes: Any) -> tuple[list[str], list[str]]:
    config = config_of(folder / "job", NOBODY, model="nowhere", **changes)
    findings = examine_synthesis(config, given or Given(), TWO_CORES)
    return [each for each in findings.problems if not each.startswith("model: ")], findings.warnings


def test_what_is_wrong_is_found_before_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    endpoint = {"url": NOBODY, "api_key_env": "TEACHER_KEY"}
    found, _ = problems(tmp_path, teacher={"endpoints": [endpoint]}, passage_paths=[str(tmp_path / "no-library")])
    assert [each.split(":")[0] for each in found] == ["teacher", f"passage_paths holds {tmp_path / 'no-library'}"]
    assert found[0].startswith("teacher: endpoints: the environment variable TEACHER_KEY is not set")
    test = (Demo("1 + 1", "two"), Demo("2 + 2", "4"))
    assert problems(tmp_path, Given(test=test)) == (
        [],
        ["dataset_path: 1 of 2 test rows have no label that of form numeric reads, such as 'two'; they are left out"],
    )
    ((problem,), _) = problems(tmp_path, Given(test=test[:1]))
    assert "reads no label in any of 1 test rows" in problem


def test_a_config_that_cannot_work_is_refused(tmp_path: Path) -> None:
    for changes, said in (
        ({"task_instruction": " "}, "task_instruction is empty"),
        ({"scoring": {"max_tokens": 64}}, "no room is left for a prompt"),
        ({"rows": {"min_votes": 6}}, "there are only 5 votes for each row"),
        ({"task": "gsm9k"}, "did you mean 'gsm8k'"),
        ({"selection": {"easy_to_hard": True, "prob_sampling": True}}, "two orders"),
    ):
        with pytest.raises(ValueError, match=said):
            config_of(tmp_path, NOBODY, **changes)


def test_a_dry_run_counts_the_calls_that_are_made(tmp_path: Path) -> None:
    texts = TaskTexts("Add numbers.", None, "=")
    teacher = SumTeacher(terms=(6, 7), hard_terms=12)  # long enough that none repeats
    with chat_server(teacher) as server:
        config = config_of(tmp_path, server.address)
        expected = estimate(config, Material(texts, demos(3)), has_library=False)
        summary = make(config, Given(demos(3)))
    assert sum(each.num_calls for each in expected) == summary["teacher"]["total"]["num_calls"] == len(server.asked)
    assert [each.stage for each in expected] == ["pattern", "generate", "verify", "adapt", "verify rewrites"]
    assert expected[2].num_replies == NUM_ROWS * 4
    priced = config_of(tmp_path, NOBODY, teacher={"prompt_price": 1.0, "reply_price": 2.0})
    likely, most = (sum(each.cost(priced, at_most) for each in expected) for at_most in (False, True))
    assert 0 < likely <= most


def test_two_jobs_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "final"
    words = ["synthetic-rl", "--task_instruction", "Add.", "--folder", str(tmp_path / "job"), "--resume"]
    words += ["--target_model_path", str(target), "--task_name", "gsm8k"]
    (tmp_path / "job").mkdir()
    with hold(tmp_path / "job"):
        assert run_command_line(words) == 2
    assert "has no config.yaml" in capsys.readouterr().err  # `.lock` alone is no job
    config = config_of(tmp_path / "rows", NOBODY)
    with (
        job_folder(config.folder, config, resume=False, may_change=()),
        pytest.raises(ValueError, match=r"another process is writing the folder .*rows; wait for it"),
        job_folder(config.folder, config, resume=True, may_change=()),
    ):
        pass
    target.mkdir()
    (target / "something").touch()
    with pytest.raises(ValueError, match="something stands there already"):
        check_target(target, tmp_path / "job", resume=True)


def test_both_halves_are_of_one_config() -> None:
    values = {"task_instruction": ["Add", "them."], "experiment_name": "sums", "base_model_path": "a/b", "seed": 3}
    config = SyntheticRLConfig.model_validate(values)
    data, training = config.synthesis(), config.training(num_test=7)
    assert (config.model, data.instruction, data.model, training.model.path) == ("b", "Add them.", "a/b", "a/b")
    assert data.folder == Path("runs/sums/data") and training.folder == Path("runs/sums/train")
    assert training.evaluation.data is not None and training.evaluation.data.split == "test"
    assert training.evaluation.num_prompts == 7 and training.evaluation.every_steps == 0
    assert [reward.model_dump()["values"] for reward in training.rewards + training.evaluation.rewards] == [
        "train",
        "validation",
    ]
    # the paper's numbers
    assert (data.rows.num_rows, data.rows.num_votes, data.scoring.num_answers, data.scoring.temperature) == (
        500,
        16,
        64,
        0.7,
    )
    sampling, algorithm = training.sampling, training.algorithm.model_dump()
    assert (sampling.temperature, sampling.num_completions, sampling.max_tokens) == (1.2, 16, 2048)
    assert (algorithm["name"], algorithm["kl_coef"], training.num_epochs) == ("grpo", 0.01, 5)
    assert (training.rollout.prompts_per_step, training.learner.learning_rate) == (4, 1e-6)
