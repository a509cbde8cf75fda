"""A number can be attributed a month later: each start leaves a line, and what was printed is in run.log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from raylign.jobs.report.stage import read_stages
from raylign.jobs.report.starts import accuracy_words, starts_html
from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.provenance import printed_to, resuming_words, write_start


def test_each_start_leaves_machine_versions_code_command_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/raylign", "train", "--name", "a b", "--resume"])
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with RunFolder.create(tmp_path / "run", "name: a\n") as folder:
        write_start(folder.path, str(model))
        (model / "model.safetensors").write_bytes(b"weights")
        write_start(folder.path, str(model))
        folder.append_metrics({"step": 1})
    first, second = (json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines())
    assert first["command"] == "raylign train --name 'a b'"
    assert {"python", "raylign", "torch", "ray"} <= first["versions"].keys() and first["machine"]["cores"] >= 1
    assert first["model"]["path"] == str(model)
    assert first["model"]["fingerprint"] != second["model"]["fingerprint"]
    (stage,) = read_stages(tmp_path / "run")
    shown = starts_html(stage)
    assert "raylign train --name &#x27;a b&#x27;" in shown and first["model"]["fingerprint"] in shown
    (tmp_path / "run" / "starts.jsonl").write_text("half")
    assert starts_html(stage) == "" and "starts.jsonl" in stage.problems.lines()[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/bin/raylign", "train", "--resume", "--config", "a b.yaml"], "raylign train --config 'a b.yaml' --resume"),
        (["/x/jobs/__main__.py", "quickstart"], "raylign quickstart"),
        (["pytest", "tests"], "--resume"),
    ],
)
def test_the_command_that_goes_on_is_said_as_it_can_be_given(
    argv: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert resuming_words() == words


def test_what_is_printed_is_kept_by_lines(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[str] = []
    with printed_to(kept.append):
        print("\x1b[36mengine 0\x1b[0m died;", end=" ")
        print("starting another")
    print("after")
    assert kept == ["engine 0 died; starting another"]
    assert capsys.readouterr().out == "\x1b[36mengine 0\x1b[0m died; starting another\nafter\n"


def test_accuracies_that_are_sampled_in_two_ways_say_so() -> None:
    config = {"sampling": {"temperature": 1.0}, "evaluation": {"temperature": 0.0}}
    assert "at temperature 1.0, held-out ones at 0.0, greedily" in accuracy_words(config)
    assert accuracy_words(config | {"sampling": {"temperature": 0.0}}) == accuracy_words({}) == ""
