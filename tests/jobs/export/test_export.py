"""`raylign export`: the folder whatever happens on the way, and its upload to a hub that is here."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raylign.jobs.cli import run_command_line
from raylign.jobs.run.checkpoints import CheckpointRecord, CheckpointStore
from raylign.jobs.run.output_folder import hold
from tests.jobs.export.fake_hub import FakeHub, fake_hub

TOKEN = "hf_of_nobody"
CONFIG = """
data: {source: some/set, split: train, rows: "0%:100%", template: "{prompt}"}
more_data: [{source: other/set, split: train, rows: "0:9", share: 0.3}]
model: {path: models/start}
algorithm: {name: dpo}
"""


@pytest.fixture(scope="module")
def run(make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    lines = [{"step": step, "learner/loss": 1 / step} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = make_tiny_model("qwen2", True)

    def write(place: Path) -> None:
        shutil.copytree(model, place, dirs_exist_ok=True)

    for step in (2, 4):
        CheckpointStore(folder / "checkpoints").save(CheckpointRecord(step, 0, "f"), write)
    (folder / "checkpoints" / "step-000002" / "model.safetensors").chmod(0o600)  # as libraries write it
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(TOKEN) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def words(run: Path, output: Path, *more: str) -> list[str]:
    return ["export", "--model", str(run), "--output", str(output), *more]


def test_the_folder_is_for_others_and_about_its_checkpoint(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "given"
    assert run_command_line(words(run / "checkpoints" / "step-000002", output)) == 0
    assert stat.S_IMODE((output / "model.safetensors").stat().st_mode) & 0o044 == 0o044
    lines = (output / "training" / "metrics.jsonl").read_text().split("\n")
    assert [json.loads(line)["step"] for line in lines if line] == [1, 2]
    assert not list(output.glob(".*")) and not list(output.parent.glob(".*"))
    card = (output / "README.md").read_text()
    assert "| training | other/set | train | 0:9 |" in card and "- other/set" in card


def test_what_a_killed_export_left_is_no_obstacle_and_two_at_once_are_told_apart(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, half = tmp_path / "given", tmp_path / ".given.half-written"
    (half / "training").mkdir(parents=True)
    (half / "training" / "old.svg").write_text("of before")
    (half / "old.txt").write_text("of before")
    with hold(half):
        assert run_command_line(words(run, output)) == 2
    assert "another process is writing the folder" in capsys.readouterr().err
    assert run_command_line(words(run, output)) == 0
    assert not half.exists() and not (output / "old.txt").exists() and not (output / "training" / "old.svg").exists()


def test_no_folder_within_what_it_is_copied_from(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(words(run, run / "checkpoints" / "step-000004" / "given")) == 2
    assert "lies in the checkpoint that it is copied from" in capsys.readouterr().err


def test_a_push_with_a_token_in_the_environment_uploads_all_of_it(run: Path, tmp_path: Path) -> None:
    with fake_hub(TOKEN) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-m", "raylign.jobs", *words(run, tmp_path / "given", "--push", "me/mine")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert f"uploaded: {hub.address}/me/mine" in done.stdout and TOKEN not in done.stdout + done.stderr
    there = {str(path.relative_to(tmp_path / "given")): path.read_bytes()
             for path in (tmp_path / "given").rglob("*") if path.is_file()}  # fmt: skip
    assert hub.files["me/mine"] == there and "training/config.yaml" in there
    assert hub.private == {"me/mine": True} and len(hub.large) == 1


def test_a_repository_is_public_where_that_is_asked_for(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    assert run_command_line(words(run, tmp_path / "given", "--push", "me/open", "--private", "false")) == 0
    assert hub.private == {"me/open": False} and "README.md" in hub.files["me/open"]


@pytest.mark.parametrize(("name", "token"), [("stranger/model", TOKEN), ("me/model", "hf_old_one")])
def test_a_push_that_is_refused_leaves_the_folder_and_says_why(
    run: Path,
    tmp_path: Path,
    hub: FakeHub,
    name: str,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert run_command_line(words(run, tmp_path / "given", "--push", name)) == 2
    said = capsys.readouterr().err
    assert f"push to {name} failed: " in said and "is whole, so upload it later" in said
    assert said.startswith("error: ") and said.count("\n") == 1 and token not in said
    assert (tmp_path / "given" / "README.md").is_file() and not hub.files.get(name)


def test_a_hub_that_breaks_off_or_is_not_there_is_one_line(
    run: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.breaks_at_commit = True
    assert run_command_line(words(run, tmp_path / "one", "--push", "me/one")) == 2
    assert "push to me/one failed: " in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert run_command_line(words(run, tmp_path / "two", "--push", "me/two")) == 2
    assert "push to me/two failed: " in capsys.readouterr().err


def test_no_token_no_push(
    run: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    assert run_command_line(words(run, tmp_path / "given", "--push", "me/mine")) == 2
    assert "push needs a token: set HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "given").exists() and not hub.private
