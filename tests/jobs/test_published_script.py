"""scripts/run_llama3_8b_blueorca_redorca.sh: the published options give a command line that `plan` accepts."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.jobs.stand_ins import StandIns

pytestmark = pytest.mark.usefixtures("one_tokenizer")
SCRIPT = Path(__file__).parents[2] / "scripts" / "run_llama3_8b_blueorca_redorca.sh"
NUM_ROWS = 200


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(SCRIPT), *options], cwd=folder, capture_output=True, text=True, timeout=600)


def words_of(folder: Path, *options: str) -> list[str]:
    done = run(folder, *options, "--dry_run")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    return words[words.index("train") :]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the published program would look for its data."""
    for name in ("BlueOrca", "RedOrca"):
        path = tmp_path / "examples" / "datasets" / name / "train.jsonl"
        path.parent.mkdir(parents=True)
        rows = [json.dumps({"question": f"{name} {n}?", "response": str(n)}) for n in range(NUM_ROWS)]
        path.write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "config", "place"),
    [
        ([], "bdr_blueorca_redorca", "BDR"),
        (["--selector_mode", "BDR", "--filter_rate", "0.1"], "bdr_blueorca_redorca", "BDR_filter_0.1"),
        (
            ["--selector_mode", "BDR_Online", "--online_generation_freq", "250", "--online_sample_ratio", "0.2"],
            "bdr_online_blueorca_redorca",
            "BDR_Online/ratio_0.2/size_1_filter_0.1",
        ),
        (
            [
                "--selector_mode",
                "BDR_Online",
                "--dynamic_mode",
                "--online_sample_size",
                "5",
                "--wandb_run_name",
                "mine",
            ],
            "bdr_online_blueorca_redorca",
            "BDR_Online/ratio_0.1/size_5_dynamic_filter_0.1",
        ),
    ],
)
def test_the_commands_of_its_readme_are_planned_without_a_problem(
    options: list[str], config: str, place: str, folder: Path, stand_ins: StandIns
) -> None:
    words = words_of(folder, *options)
    assert value(words, "--config") == config
    assert value(words, "--folder") == f"./checkpoint/llama3_8b_blueorca_redorca/{place}"
    assert value(words, "--trusted_data.source") == "./examples/datasets/BlueOrca/train.jsonl"
    findings = stand_ins.examine(words)
    assert findings.problems == []
    assert [warning for warning in findings.warnings if "overlap" in warning or "online_warmup" in warning] == []
    assert ("--algorithm.gate" in words) == (options[:2] == ["--selector_mode", "BDR"])


def test_rows_are_at_most_those_asked_for_and_never_the_held_out_ones(folder: Path) -> None:
    words = words_of(folder, "--max_samples_1", "50", "--max_samples_2", "300")
    assert (value(words, "--trusted_data.rows"), value(words, "--data.rows")) == ("0:50", "0%:100%")
    assert value(words_of(folder, "--max_samples_1", "199"), "--trusted_data.rows") == "0%:97%"


def test_data_and_keys_of_ones_own(folder: Path) -> None:
    words = words_of(folder, "--dataset_2", "own.jsonl", "--input_key_2", "ask", "--output_key_2", "say")
    assert value(words, "--data.source") == "own.jsonl"
    assert (value(words, "--data.prompt"), value(words, "--data.reference")) == ("{ask}", "{say}")
    assert value(words, "--trusted_data.prompt") == "{question}"
    scripts = folder / "examples" / "scripts"
    scripts.mkdir()
    assert value(words_of(scripts), "--data.source") == "../datasets/RedOrca/train.jsonl"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--selector", "BDR"], "unknown option --selector; --help lists them"),
        (["stray"], "unknown option stray"),
        (["--selector_mode", "BMO"], "choose BDR or BDR_Online"),
        (["--max_epochs"], "--max_epochs needs a value"),
        (["--learning_rate", "--max_epochs", "3"], "--learning_rate needs a value"),
        (["--dataset_1", "a.jsonl,b.jsonl"], "join the files"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    done = run(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_its_help_is_one_page(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and 20 < done.stdout.count("\n") < 50


def test_it_runs_raylign_train(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "--max_epochs", "1", "--", "--seed", "7"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "RAYLIGN": "echo called"},
        capture_output=True,
        text=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("called train --config bdr_blueorca_redorca") and last.endswith("--seed 7")
