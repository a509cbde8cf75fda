"""The command line: quick help, lazy imports, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylign.jobs.cli import COMMANDS, _raised_by_raylign, run_command_line
from raylign.jobs.config.keys import dotted_keys
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig

HEAVY = ("torch", "vllm", "deepspeed", "ray", "transformers", "datasets", "plotly", "reasoning_gym", "wandb")
REPORT_IMPORTS = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"


def test_help_names_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "raylign.jobs", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "quickstart" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--seed", "-1"], ["train", "--sed", "1"]])
def test_help_and_config_errors_import_no_heavy_library(words: list[str]) -> None:
    program = (
        "from raylign.jobs.cli import run_command_line\n"
        f"try: run_command_line({words!r})\n"
        "except SystemExit: pass\n" + REPORT_IMPORTS
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command_line([command, "--help"])
    assert ended.value.code == 0
    assert f"raylign {command}" in capsys.readouterr().out


def test_help_of_train_shows_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command_line(["train", "--help", "all"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    missing = [key for key in dotted_keys(TrainConfig) if f"--{key} " not in text]
    assert not missing
    assert "Logits are divided by this before the softmax; 0 means greedy (evaluation only). (default: 1.0)" in text
    assert "numeric: 1 if the number that the completion gives" in text  # keys of list items are below


def test_print_config_gives_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "--config", "grpo_arithmetic", "--seed", "7"]
    assert run_command_line([*words, "--print-config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(TrainConfig, [printed]) == load_config(TrainConfig, ["grpo_arithmetic"], {"seed": 7})


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["--version"]) == 0
    assert re.fullmatch(r"raylign \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_an_unknown_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian: unknown command; did you mean train?")


def test_bad_config_is_one_line_for_each_problem_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raylign.jobs", "train", "--seed", "-1", "--sampling.max_tokens", "x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line.split(" is not allowed")[0] for line in done.stderr.splitlines()] == [
        "error: --seed: '-1'",
        "error: --sampling.max_tokens: 'x'",
    ]


def test_what_a_command_refuses_is_an_error_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["init-model", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: output folder {tmp_path} exists")


def test_a_value_error_of_a_library_keeps_its_traceback() -> None:
    with pytest.raises(ValueError) as foreign:
        int("x")
    assert not _raised_by_raylign(foreign.value)
    with pytest.raises(ValueError) as ours:
        load_config(TrainConfig, ["no such recipe"])
    assert _raised_by_raylign(ours.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/r/x"), "/r/x: Permission denied; give yourself the right to it"),
        (OSError(28, "No space left on device"), "No space left on device; make room on the disk"),
        (OSError(30, "Read-only file system", "/r"), "/r: Read-only file system; the disk is read-only"),
        (FileNotFoundError(2, "No such file or directory", "/r"), "/r: No such file or directory; check the path"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(
    error: OSError, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr("raylign.jobs.cli.report", refuse)
    assert run_command_line(["report", "--folder", "somewhere"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1


def test_a_connection_that_fails_is_no_error_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("raylign.jobs.cli.report", refuse)
    with pytest.raises(ConnectionRefusedError):
        run_command_line(["report", "--folder", "somewhere"])


@pytest.mark.parametrize("command", ["train", "plan", "evaluate", "sweep", "data best-of-n"])
def test_a_command_alone_names_a_recipe_to_start_from(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(command.split()) == 2
    *_, advice, example = capsys.readouterr().err.splitlines()
    assert advice == "error: start from a recipe, a file or one that comes with raylign:"
    assert example.startswith(f"raylign {command} --config ")
    assert run_command_line([*example.split()[1:], "--print-config"]) == 0


def test_a_member_that_a_group_has_not_is_answered_with_those_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["data", "foo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: data foo: unknown command. Commands: data best-of-n, ") and "train" not in said


def test_ctrl_c_while_imports_are_under_way_is_one_word(tmp_path: Path) -> None:
    """A module that hangs stands in the place of the first that takes long."""
    (tmp_path / "pydantic.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(600)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", "raylign.jobs", "plan"]
    with subprocess.Popen(words, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "stopped\n"


def test_a_terminal_that_cannot_show_a_character_shows_another() -> None:
    for encoding in ("latin-1", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-m", "raylign.jobs", "train", "--help"], capture_output=True, env=environment
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
