"""A sweep at work: who starts when, what a failure stops, who may write the folder, what it leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.checks.data import Samples, check_data, remember_rows
from raylign.jobs.checks.findings import Findings
from raylign.jobs.config.sweep import PreparedSweepConfig, SweepConfig
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.run.output_folder import hold
from raylign.jobs.sweep.commands import SweepRun, expand
from raylign.jobs.sweep.execute import Execution
from raylign.jobs.sweep.manifest import MANIFEST, Prepared, Resources, read_manifest, write_manifest
from raylign.jobs.sweep.room import Room
from raylign.jobs.sweep.run import sweep, sweep_execute, sweep_status
from raylign.jobs.sweep.table import write_tables
from raylign.rollout.data.config import DataConfig
from raylign.rollout.model_folder import load_tokenizer


def command(folder: Path, name: str, needs: str | None = None, cores: int = 1) -> Prepared:
    """One that ends well where its folder has metrics, and fails where it has none."""
    place = folder / name
    words = ("report", "--folder", str(place))
    return Prepared(SweepRun(name, words, place, "T", "m", "d", starts_from=needs), Resources(cores))


def room(cores: int, gpus: int = 0) -> Room:
    return Room(list(range(cores)), [str(gpu) for gpu in range(gpus)], 1 << 40)


def test_a_failure_stops_only_what_needs_it_and_is_named_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "metrics.jsonl").write_text('{"step": 1}\n')
    prepared = [command(tmp_path, "bad"), command(tmp_path, "good"), command(tmp_path, "later", needs="bad")]
    states = Execution(tmp_path, prepared, Room([0], [], 1 << 40), None).run()
    assert states["good"] == "done"
    assert states["bad"].startswith("failed with 2; ") and "holds no run" in states["bad"]
    assert states["later"] == "left out, since bad failed"
    assert json.loads((tmp_path / "sweep.progress.json").read_text()) == states
    assert "[3/3]" in capsys.readouterr().out


def test_those_that_most_others_need_come_first(tmp_path: Path) -> None:
    names = ["alone", "sft", "a", "b"]
    prepared = [command(tmp_path, name, "sft" if name in ("a", "b") else None) for name in names]
    waiting = Execution(tmp_path, prepared, room(1), None)._waiting
    assert [one.run.name for one in waiting] == ["sft", "alone", "a", "b"]


def test_free_cores_are_shared_out_and_none_is_given_twice() -> None:
    free = room(4)
    first = free.take(Resources(cores=1), num_waiting=2, is_alone=True)
    second = free.take(Resources(cores=1), num_waiting=1, is_alone=False)
    assert first is not None and second is not None
    assert (first.cores, second.cores) == ((0, 1), (2, 3))
    assert free.take(Resources(cores=1), num_waiting=1, is_alone=False) is None
    free.give_back(first)
    assert free.cores == [0, 1]


def test_gpus_decide_where_there_are_some() -> None:
    free = room(64, gpus=8)
    shares = [free.take(Resources(cores=8, gpus=4), num_waiting=3, is_alone=n == 0) for n in range(3)]
    assert [share and share.gpus for share in shares] == [("0", "1", "2", "3"), ("4", "5", "6", "7"), None]


def test_memory_holds_back_and_a_command_too_large_for_all_runs_alone() -> None:
    free = Room([0, 1], [], 100)
    assert free.take(Resources(memory_bytes=80), 1, is_alone=True) is not None
    assert free.take(Resources(memory_bytes=80), 1, is_alone=False) is None
    assert room(2).take(Resources(cores=99), 1, is_alone=True) is not None


def test_two_sweeps_on_one_folder_are_refused(tmp_path: Path) -> None:
    values = {"folder": tmp_path, "models": {"m": {}}, "tasks": {"T": {}}}
    write_manifest(tmp_path, "sweep", [])
    with hold(tmp_path):
        with pytest.raises(ValueError, match="another process is writing the folder"):
            sweep(SweepConfig.model_validate(values))
        with pytest.raises(ValueError, match="another process is writing the folder"):
            sweep_execute(PreparedSweepConfig(folder=tmp_path))


def test_a_sweep_s_folder_that_cannot_be_written_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, "sweep", [command(tmp_path, "one")])

    def refuses(**_: object) -> None:
        raise PermissionError(13, "Permission denied")  # this user may be root, whom no mode stops

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuses)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied"):
        sweep_execute(PreparedSweepConfig(folder=tmp_path))
    assert not (tmp_path / "sweep.progress.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"version": 0, "runs": []}', "of version 0, and this raylign reads version 1"),
        ("[]", "of version None"),
        ('{"version": 1, "runs": [{}]}', "KeyError"),
        ('{"version": 1, "ru', "Unterminated"),
        (None, "has no sweep.json"),
    ],
)
def test_a_sweep_json_that_cannot_be_used_says_what_to_do(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        sweep_execute(PreparedSweepConfig(folder=tmp_path))
    assert "raylign sweep prep" in str(error.value)


def test_a_manifest_gives_the_commands_back_wherever_its_folder_was_moved(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "folder": tmp_path / "old",
        "tasks": {"T": {"grid": {"seed": [1]}, "then": [{"name": "E", "set": {"model": "{run}"}}]}},
    }
    runs = list(expand(SweepConfig.model_validate(values)))
    (tmp_path / "old").mkdir()
    write_manifest(tmp_path / "old", "s", [Prepared(run, Resources()) for run in runs])
    assert [one.run for one in read_manifest(tmp_path / "old")] == runs
    (tmp_path / "old").rename(tmp_path / "new")
    moved = read_manifest(tmp_path / "new")[0].run
    assert moved.folder == tmp_path / "new" / runs[0].folder.name and str(moved.folder) in moved.words
    values["tasks"]["T"]["grid"]["seed"] = [2]
    with pytest.raises(ValueError, match="lists other commands than this file"):
        sweep_execute(PreparedSweepConfig.model_validate({**values, "folder": tmp_path / "new"}))


def test_status_tells_done_broken_off_failed_and_waiting_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = [command(tmp_path, name, "cut" if name == "next" else None) for name in ("did", "cut", "bad", "next")]
    write_manifest(tmp_path, "s", prepared)
    (tmp_path / "did").mkdir()
    (tmp_path / "did" / "summary.json").write_text("{}")
    states = {"did": "done", "cut": "running", "bad": "failed with 2; x"}
    (tmp_path / "sweep.progress.json").write_text(json.dumps(states))
    assert sweep_status(PreparedSweepConfig(folder=tmp_path)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "did: done",
        "cut: broken off, execute goes on with it",
        "bad: failed with 2; x",
        "next: waiting, needs cut",
        "1 done, 1 broken off, 1 failed, 1 waiting",
    ]
    with hold(tmp_path):
        sweep_status(PreparedSweepConfig(folder=tmp_path))
    assert "cut: running" in capsys.readouterr().out


def test_the_table_has_the_numbers_of_what_followed_with_their_intervals(tmp_path: Path) -> None:
    then = [{"name": "E"}, {"name": "C", "command": "compare"}]
    values = {"folder": tmp_path, "tasks": {"T": {"grid": {"seed": [7]}, "labels": {"seed": "s"}, "then": then}}}
    runs = list(expand(SweepConfig.model_validate(values)))
    found: list[dict[str, Any]] = [
        {"num_steps": 9, "seconds": 2.5, "evaluation": {"evaluation/loss": 0.5}},
        {
            "model": "m",
            "evaluation/reward_mean": 0.25,
            "evaluation/accuracy": 0.5,
            "evaluation/accuracy_low": 0.4,
            "evaluation/accuracy_high": 0.6,
            "evaluation/num_prompts": 10.0,
        },
        {
            "new": {"mean_tokens": 12.0},
            "reference": {"mean_tokens": 14.0},
            "by_reward": {"win_rate": 0.75, "win_rate_low": 0.7, "win_rate_high": 0.8, "num_wins": 3},
            "by_judge": None,
            "kl": {"mean": 2.0, "standard_error": 0.5},
        },
    ]
    for run, name, result in zip(runs, ("summary", "evaluation", "comparison"), found, strict=True):
        run.folder.mkdir()
        (run.folder / f"{name}.json").write_text(json.dumps(result))
    page = write_tables(tmp_path, runs).read_text()
    assert "| E/accuracy |" in page and "0.5 [0.4, 0.6]" in page
    assert "| C/win_rate |" in page and "0.75 [0.7, 0.8]" in page and "2 [1.02, 2.98]" in page
    assert "num_prompts" not in page, "how, not what"
    (row,) = csv.DictReader((tmp_path / "sweep.csv").open())
    assert (row["values.s"], row["task"], row["C/win_rate"], row["C/win_rate_low"]) == ("7", "T", "0.75", "0.7")
    assert (row["loss"], row["E/reward_mean"], row["C/new_mean_tokens"]) == ("0.5", "0.25", "12.0")


def test_rows_of_several_commands_are_read_once(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 + 1", "answer": "2"}\n')
    shape = {"num_layers": 1, "width": 32, "num_heads": 1, "num_kv_heads": 1}
    data = DataConfig(source=str(rows))
    model = init_model(InitModelConfig(output=tmp_path / "model", data=data, **shape))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(str(model))
    samples = Samples("data", data, [], 64)
    with remember_rows():
        first, second, later = Findings(), Findings(), Findings()
        assert check_data(samples, tokenizer, 0, first) == 1
        rows.unlink()
        assert check_data(samples, tokenizer, 1, second) == 1
        assert first.facts == second.facts != []
    check_data(samples, tokenizer, 0, later)
    assert "not found" in later.problems[0]
