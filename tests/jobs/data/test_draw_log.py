"""The raw file of a draw survives its process, and takes up nothing that does not belong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raylign.jobs.data.draw_log import DrawIdentity, DrawLog
from raylign.jobs.data.policy_identity import policy_identity
from tests.jobs.data.drawing_by_hand import IDENTITY, draw_by_hand, drawing, prompts
from tests.patience import wait_until


def draw(folder: Path, count: int) -> DrawLog:
    with DrawLog(folder / "draws.jsonl", IDENTITY) as log:
        asyncio.run(draw_by_hand(log, prompts(count)))
        return log


def test_each_prompt_is_drawn_once_and_a_second_draw_adds_only_what_is_missing(tmp_path: Path) -> None:
    draw(tmp_path, 5)
    before = (tmp_path / "draws.jsonl").read_bytes()
    log = draw(tmp_path, 8)
    assert (tmp_path / "draws.jsonl").read_bytes().startswith(before)
    assert sorted(log.drawn) == list(range(8))
    lines = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()]
    assert sorted(line["ordinal"] for line in lines) == list(range(8))
    assert all(len(line["answers"]) == len(line["scores"]) == 4 for line in lines)
    assert {line["policy"] for line in lines} == {"fake@1"} and {line["seed"] for line in lines} == {5}


def test_a_draw_killed_in_the_middle_goes_on_to_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / "killed" / "draws.jsonl"
    program = [sys.executable, "-m", "tests.jobs.data.drawing_by_hand", str(path.parent), "0.2"]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    process = subprocess.Popen(program, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 3, "three lines", [process])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with path.open("ab") as file:  # as if the kill had come in the middle of a line
        file.write(b'{"ordinal": 39, "prompt_id": "p-')
    kept = path.read_bytes().rpartition(b"\n")[0]
    assert 3 <= kept.count(b"\n") + 1 < 40

    resumed, whole = draw(path.parent, 40), draw(tmp_path / "whole", 40)
    assert path.read_bytes().startswith(kept)
    assert resumed.drawn == whole.drawn


def test_without_rewards_answers_are_kept_without_scores(tmp_path: Path) -> None:
    with DrawLog(tmp_path / "draws.jsonl", IDENTITY) as log:
        asyncio.run(draw_by_hand(log, prompts(1), settings=drawing(rewards=[])))
        assert (log.drawn[0].scores, log.drawn[0].rewards) == ((None,) * 4, {})


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (replace(IDENTITY, fingerprint="another"), ":1: drawn from other data .*choose a new folder"),
        (replace(IDENTITY, policy="fake@2"), ":1: drawn from fake@1, and the model is now fake@2"),
        (replace(IDENTITY, num_answers=8), ":1: 4 answers, and 8 are wanted"),
    ],
)
def test_answers_of_other_data_another_model_or_another_n_are_refused(
    tmp_path: Path, identity: DrawIdentity, words: str
) -> None:
    draw(tmp_path, 2)
    with pytest.raises(ValueError, match=words):
        DrawLog(tmp_path / "draws.jsonl", identity)


def test_damage_in_the_middle_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "draws.jsonl"
    draw(tmp_path, 3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-9], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=r"draws.jsonl:2: not what this job writes.*its prompt is drawn again"):
        DrawLog(path, IDENTITY)
    path.write_text("\n".join([lines[0], lines[0]]) + "\n")
    with pytest.raises(ValueError, match=r":2: ordinal \d is in the file twice"):
        DrawLog(path, IDENTITY)


def test_a_policy_is_another_when_its_weights_change(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3_000_000))
    before = policy_identity(str(tmp_path))
    assert before.startswith(f"{tmp_path}@") and policy_identity(str(tmp_path)) == before
    weights.write_bytes(bytes(2_999_999) + b"\x01")
    assert policy_identity(str(tmp_path)) != before
    assert policy_identity("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
