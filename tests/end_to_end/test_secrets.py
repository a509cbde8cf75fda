"""Keys in the environment reach no file and no terminal: of a run, a judge, a sweep, a start that fails.

Six are planted before the session's Ray starts (conftest.py). The run is the one that other tests look at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from raylign.jobs.cli import run_command_line
from raylign.jobs.run.run import Run
from tests.end_to_end.conftest import small_config, write_recipe
from tests.patience import HANGS_S
from tests.rewards.chat_server import ChatServer, Scripted, chat_server

pytestmark = pytest.mark.ray


def holding(folder: Path, secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Files with the name of the key that they hold, one for each; at least something was looked at."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert files
    return [
        (str(file), name)
        for file in files
        for content in [file.read_bytes()]
        for name, secret in secrets.items()
        if secret.encode() in content
    ]


def in_text(text: str, secrets: dict[str, str]) -> list[str]:
    assert text
    return [name for name, secret in secrets.items() if secret in text]


@pytest.fixture
def judge(planted_secrets: dict[str, str]) -> Iterator[ChatServer]:
    """Says which of two answers is better, and refuses those of another key, repeating it."""

    def answer(body: dict[str, Any]) -> Scripted:
        if "refuse me" in json.dumps(body):
            said = f"no right: Bearer {planted_secrets['JUDGE_KEY']}"
            return Scripted(status=401, body=json.dumps({"error": {"message": said}}).encode())
        return Scripted(["[[7, 4]]"], usage=(10, 5))

    with chat_server(answer) as server:
        yield server


def test_a_run_and_its_ray_write_no_key(short_run: Run, planted_secrets: dict[str, str]) -> None:
    assert (short_run.folder.path / "report.html").is_file()
    assert holding(short_run.folder.path, planted_secrets) == []
    node: Any = ray._private.worker._global_node
    session = Path(node.get_session_dir_path())
    assert list((session / "logs").glob("worker-*"))
    assert holding(session, planted_secrets) == []


@pytest.mark.parametrize("question", ["which?", "refuse me"])
def test_a_judge_is_sent_its_own_key_and_nothing_else_gets_it(
    judge: ChatServer,
    planted_secrets: dict[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    question: str,
) -> None:
    for side, text in (("new", "1"), ("old", "2")):
        line = {"prompt": question, "response": text, "references": ["1"]}
        (tmp_path / f"{side}.jsonl").write_text(json.dumps(line) + "\n")
    recipe = tmp_path / "compare.yaml"
    endpoint = {"url": judge.address, "api_key_env": "JUDGE_KEY", "requests_per_minute": None}
    settings = {"model": "m", "endpoints": [endpoint], "cache": str(tmp_path / "cache"), "deadline_s": HANGS_S}
    recipe.write_text(yaml.safe_dump({"judge": {**settings, "num_attempts": 1}}))
    words = ["--config", str(recipe), "--folder", str(tmp_path / "out")]
    words += ["--new.answers", str(tmp_path / "new.jsonl"), "--reference.answers", str(tmp_path / "old.jsonl")]
    code = run_command_line(["compare", *words])
    assert [body["key"] for body in judge.asked] == [f"Bearer {planted_secrets['JUDGE_KEY']}"]
    told = capfd.readouterr()
    if question == "refuse me":
        assert code == 2 and "refuses with HTTP 401" in told.err and "no right: Bearer ***" in told.err
    else:
        assert code == 0
    assert in_text(told.out + told.err, planted_secrets) == []
    assert holding(tmp_path, planted_secrets) == []


def test_a_run_and_a_sweep_that_cannot_start_write_no_key(
    judge: ChatServer,
    start_model: Path,
    planted_secrets: dict[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The reward's service refuses, and repeats the key in its words."""
    rewards = [{"name": "http", "url": judge.address, "api_key_env": "JUDGE_KEY", "num_attempts": 1}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "refuse me", "answer": "2"}\n' * 8)
    values = small_config(start_model, tmp_path / "unused", rewards=rewards, data={"source": str(rows)})
    values["cluster"] = {"address": "local"}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    sweep = {"name": "s", "folder": str(tmp_path / "sweep"), "tasks": {"T": {"config": [str(recipe)]}}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    for words in (["train", "--config", str(recipe)], ["sweep", "--config", str(tmp_path / "sweep.yaml")]):
        code = run_command_line(words)
        told = capfd.readouterr()
        assert code == 2 and "HTTP 401" in told.err and "no right: Bearer ***" in told.err, told
        assert in_text(told.out + told.err, planted_secrets) == []
    assert holding(tmp_path, planted_secrets) == []
