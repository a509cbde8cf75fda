"""The stages of a synthesis against the scripted teacher over HTTP, with a base model that is a function."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raylign.jobs.synthetic.given import Given
from raylign.jobs.synthetic.prompts import Demo
from raylign.jobs.synthetic.rows import Row
from raylign.jobs.synthetic.selection import NoRowSelected
from raylign.jobs.synthetic.teacher import FAILURES_IN_A_ROW, TeacherDown
from raylign.rewards.chat_reply import CostLimitReached
from raylign.rollout.data.sources import read_rows
from tests.jobs.synthetic.by_hand import NUM_ROWS, FunctionModel, config_of, demos, make
from tests.jobs.synthetic_teacher import SumTeacher, kind_of, value_of
from tests.rewards.chat_server import ChatServer, Scripted, chat_server


@pytest.fixture
def teacher() -> SumTeacher:
    return SumTeacher()


@pytest.fixture
def server(teacher: SumTeacher) -> Iterator[ChatServer]:
    with chat_server(teacher) as server:
        yield server


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stage(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def test_from_a_definition_to_selected_rows_with_right_labels_and_lineage(
    server: ChatServer, teacher: SumTeacher, tmp_path: Path
) -> None:
    test = tuple(Demo(f"{number} - 1", str(number - 1)) for number in range(4))
    summary = make(config_of(tmp_path, server.address), Given(test=test))
    rows = read_rows(str(tmp_path / "synthetic.parquet"))
    assert all(int(row["output"]) == value_of(row["input"]) for row in rows)  # wrong at 10 %, outvoted by 5 votes
    assert {row["stage"] for row in rows} == {"initial", "harder", "easier"}
    by_id = {row["row_id"]: row for row in rows}
    for row in rows:
        assert row["prompt"] == f"{row['input']} =" and row["votes_asked"] == 5 and row["votes"] == len(row["all"])
        assert len(row["verdicts"]) == row["L"] == 8 and sum(row["verdicts"]) == row["k"]
        if row["stage"] != "initial":
            parent = by_id[row["parent"]]
            (longer := len(row["input"].split())), (shorter := len(parent["input"].split()))
            assert longer > shorter if row["stage"] == "harder" else longer <= shorter
    selected = read_rows(str(tmp_path / "selected"))
    assert [row["row_id"] for row in selected] == summary["selected_ids"]
    assert len(selected) == 6 and all(0 < row["k"] < 8 for row in selected)
    assert [row["score"] for row in selected] == sorted(row["score"] for row in selected)
    assert [row["input"] for row in read_rows(str(tmp_path / "selected"), split="test")] == [row.input for row in test]
    for split in ("teacher", "own"):
        pairs = read_rows(str(tmp_path / "sft"), split=split)
        assert all(int(pair["response"]) == value_of(pair["prompt"].removesuffix(" =")) for pair in pairs)
    assert summary["num_scored"] == len(rows) and summary["num_test"] == 4
    calls = teacher.calls
    assert calls["generate"] == NUM_ROWS
    asked = [summary["stages"][name]["num_asked"] for name in ("verify", "verify_rewrites")]
    assert calls["solve"] == sum(asked)  # four votes a call
    assert summary["teacher"]["total"]["num_calls"] == sum(calls.values()) == len(server.asked)
    page = (tmp_path / "report.html").read_text()
    assert "Right answers of the base model" in page and page.count("<pre>") >= 2 * len(selected)


def test_only_initial_rows_are_adapted_each_once_solved_ones_harder(tmp_path: Path) -> None:
    """Acceptance 11: a model that solves 3 of 5 rows."""
    solved = {"r0000", "r0002", "r0003"}

    def is_right(stage: str, row: Row, random: Random) -> bool:
        return row.row_id in solved if stage == "solve" else True

    model = FunctionModel(is_right)
    teacher = SumTeacher(terms=(5, 6), hard_terms=9)  # long enough to differ
    with chat_server(teacher) as server:
        rows, selection = {"num_rows": 5}, {"unsolved_policy": "demote"}
        make(config_of(tmp_path, server.address, rows=rows, selection=selection), model=model)
    assert (teacher.calls["harder"], teacher.calls["easier"]) == (3, 2)
    assert [row for name, row in model.asked if name == "solve"] == [f"r000{number}" for number in range(5)]
    assert len([row for name, row in model.asked if name == "score"]) == 10


def test_rewrites_see_input_and_output_and_nothing_else(server: ChatServer, tmp_path: Path) -> None:
    """Trap 15."""
    make(config_of(tmp_path, server.address))
    rewrites = [
        body["messages"][0]["content"] for body in server.asked if "Sample:\n" in body["messages"][0]["content"]
    ]
    assert len(rewrites) == NUM_ROWS
    for text in rewrites:
        sample = json.loads(text.split("Sample:\n")[1])
        assert set(sample) == {"input", "output"} and int(sample["output"]) == value_of(sample["input"])


def test_demonstrations_are_shown_in_their_share_of_the_prompts_three_at_a_time(
    server: ChatServer, teacher: SumTeacher, tmp_path: Path
) -> None:
    summary = make(config_of(tmp_path, server.address, rows={"num_rows": 40}), Given(demos(20)))
    texts = [body["messages"][0]["content"] for body in server.asked]
    written = [text for text in texts if kind_of(text) == "generate"]
    shown = [text for text in written if "Samples that exist already" in text]
    assert 10 <= len(shown) == summary["stages"]["generate"]["prompts_with_demos"] <= 30
    for text in written:
        assert text.count('{"input"') == (3 if text in shown else 0)
        assert ("Short sums of small numbers." in text) == (text in shown)
    assert teacher.calls["pattern"] == 1
    # the same seed shows the same ones
    other = {row["row_id"]: row["demos"] for row in stage(tmp_path, "generate")["rows"]}
    make(config_of(tmp_path / "again", server.address, rows={"num_rows": 40}), Given(demos(20)))
    again = {row["row_id"]: row["demos"] for row in stage(tmp_path / "again", "generate")["rows"]}
    both = again.keys() & other.keys()
    assert len(both) > 20 and {row: again[row] for row in both} == {row: other[row] for row in both}


def test_passages_are_taken_in_turn_and_the_named_domain_saves_a_call(
    server: ChatServer, teacher: SumTeacher, tmp_path: Path
) -> None:
    library = tmp_path / "library.jsonl"
    texts = [f"addition of numbers, part {number} {'x' * 50}" for number in range(5)] + ["cats", "dogs", "birds"] * 3
    library.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + "{broken\n")
    config = config_of(
        tmp_path / "job",
        server.address,
        passage_paths=[str(library)],
        index_folder=str(tmp_path / "index"),
        domain="arithmetic",
        rows={"passage_characters": 30},
    )
    summary = make(config)
    assert teacher.calls["keyword"] == 0 and teacher.calls["synonyms"] == 1
    assert (
        summary["stages"]["generate"]["passages_used_again"] == NUM_ROWS - summary["stages"]["passages"]["num_distinct"]
    )
    texts = [body["messages"][0]["content"] for body in server.asked]
    shown = [text.split("for the sample:\n")[1] for text in texts if kind_of(text) == "generate"]
    assert len(set(shown)) == 5 and all(len(text) <= 30 and text.startswith("addition") for text in shown)
    make(config_of(tmp_path / "other", server.address, passage_paths=[str(library)], index_folder=str(tmp_path / "i")))
    assert teacher.calls["keyword"] == 1 and teacher.calls["synonyms"] == 2


def test_rows_that_cannot_be_read_or_repeat_another_are_left_out_with_the_reason(tmp_path: Path) -> None:
    given = Given(demos(2))
    bad = iter(
        ["I cannot.", "{'input': 3}", '{"input": "1 + 1", "output": "2"}', '{"input": "1  +  1", "output": "2"}']
    )
    bad_solutions = "no number here"

    def misbehave(text: str, number: int) -> Scripted | None:
        if kind_of(text) == "generate" and (reply := next(bad, None)) is not None:
            return Scripted([reply])
        if kind_of(text) == "solve" and text.startswith("7 "):
            return Scripted([bad_solutions] * 4)
        return None

    with chat_server(SumTeacher(misbehave=misbehave)) as server:
        config = config_of(tmp_path, server.address, rows={"num_rows": 30, "own_vote": False, "min_votes": 1})
        summary = make(config, given)
    dropped = lines(tmp_path / "dropped.jsonl")
    reasons = summary["dropped_by_reason"]
    assert reasons["generate: no object with input and output"] == 2
    assert reasons["generate: input of another row or a demonstration"] >= 2
    assert reasons.get("verify: votes do not agree or cannot be read", 0) >= 1
    assert sum(reasons.values()) == len(dropped) == sum(each["dropped"] for each in summary["stages"].values())
    assert {"row_id", "stage", "reason", "text"} == set(dropped[0])


def test_nothing_of_a_reply_is_executed(tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path({str(tmp_path / 'evil')!r}).touch() or {{'input': '1 + 2', 'output': '3'}}"
    teacher = SumTeacher(misbehave=lambda text, number: Scripted([evil] * 4))
    # what can be read of it is one row
    with chat_server(teacher) as server, pytest.raises(ValueError, match="no row is"):
        make(config_of(tmp_path / "job", server.address, rows={"own_vote": False}))
    assert not (tmp_path / "evil").exists()


def test_without_a_row_that_is_solved_sometimes_the_job_stops_with_the_histogram(
    server: ChatServer, tmp_path: Path
) -> None:
    with pytest.raises(NoRowSelected, match=r"k = 0 of 8: █+ \d+ rows"):
        make(config_of(tmp_path, server.address), model=FunctionModel(lambda *_: False))
    # another policy goes on from there without a call
    num_calls = len(server.asked)
    summary = make(config_of(tmp_path, server.address, selection={"unsolved_policy": "promote"}))
    assert summary["num_selected"] == 6 and len(server.asked) == num_calls
    assert summary["resumed_stages"] == ["generate", "verify", "solve", "adapt", "verify_rewrites", "score"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_teacher_that_is_down_stops_the_job_and_a_resume_goes_on(tmp_path: Path, status: int) -> None:
    down = True

    def misbehave(text: str, number: int) -> Scripted | None:
        return Scripted(status=status) if down and number > 5 else None

    teacher = SumTeacher(misbehave=misbehave)
    with chat_server(teacher) as server:
        many = {"num_rows": 2 * FAILURES_IN_A_ROW}
        with pytest.raises(TeacherDown, match=r"left 20 questions in a row unanswered.*go on with --resume"):
            make(config_of(tmp_path, server.address, rows=many, teacher={"num_attempts": 1}))
        down = False
        first = len(server.asked)
        summary = make(config_of(tmp_path, server.address, rows=many, teacher={"num_attempts": 1}))
        assert summary["stages"]["generate"]["rows"] > 5
        generated = [body for body in server.asked[first:] if kind_of(body["messages"][0]["content"]) == "generate"]
        assert len(generated) == 2 * FAILURES_IN_A_ROW - 5


def test_a_teacher_that_answers_nothing_drops_no_row_and_a_resume_asks_again(tmp_path: Path) -> None:
    is_down = [True]
    with chat_server(SumTeacher(misbehave=lambda text, number: Scripted(status=503) if is_down[0] else None)) as server:
        with pytest.raises(TeacherDown, match=r"answered none of \d+ questions.*HTTP 503.*go on with --resume"):
            make(config_of(tmp_path, server.address, rows={"num_rows": 3}))
        is_down.clear()
        is_down.append(False)
        summary = make(config_of(tmp_path, server.address, rows={"num_rows": 3}))
    assert not any("unreachable" in reason for reason in summary["dropped_by_reason"])


def test_a_single_question_without_an_answer_costs_one_row(tmp_path: Path) -> None:
    def misbehave(text: str, number: int) -> Scripted | None:
        return Scripted(status=503) if number in (3, 4) else None

    with chat_server(SumTeacher(misbehave=misbehave)) as server:
        summary = make(config_of(tmp_path, server.address, teacher={"max_concurrent": 1}))
    assert summary["dropped_by_reason"]["generate: teacher: unreachable"] == 1


def test_the_cost_limit_stops_the_job_and_a_resume_with_a_higher_one_repeats_nothing(
    server: ChatServer, tmp_path: Path
) -> None:
    prices = {"prompt_price": 1000.0, "reply_price": 1000.0}
    with pytest.raises(CostLimitReached, match=r"go on with --resume and a higher teacher\.max_cost"):
        make(config_of(tmp_path, server.address, teacher=prices | {"max_cost": 2.5}))
    spent = json.loads((tmp_path / "teacher.json").read_text())["total"]["cost"]
    first = len(server.asked)
    assert 0 < spent <= 2.5 and first > 0
    summary = make(config_of(tmp_path, server.address, teacher=prices | {"max_cost": 1000.0}))
    calls = summary["teacher"]["total"]["num_calls"]
    assert calls == len(server.asked) > first and summary["teacher"]["repeated_in_flight"] == 0
    assert summary["teacher"]["total"]["cost"] > spent


def test_a_key_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret-9")
    with chat_server(SumTeacher()) as server:
        endpoint = {"url": server.address, "api_key_env": "TEACHER_KEY", "requests_per_minute": None}
        make(config_of(tmp_path, server.address, teacher={"endpoints": [endpoint], "cache": str(tmp_path / "cache")}))
        assert {body["key"] for body in server.asked} == {"Bearer sk-very-secret-9"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not any(b"very-secret" in path.read_bytes() for path in files)
    assert "very-secret" not in "".join(capfd.readouterr())


def test_a_stage_file_of_other_settings_is_refused(server: ChatServer, tmp_path: Path) -> None:
    make(config_of(tmp_path, server.address))
    with pytest.raises(ValueError, match=r"generate.json: the stage was made from something else"):
        make(config_of(tmp_path, server.address, teacher={"model": "other"}))
    with pytest.raises(ValueError, match=r"verify.json: the stage was made from something else"):
        make(config_of(tmp_path, server.address, rows={"num_votes": 5}))
    (tmp_path / "verify.json").write_text("{")
    with pytest.raises(ValueError, match=r"verify.json: not what this job writes .* remove the file"):
        make(config_of(tmp_path, server.address))


def test_a_stage_whose_file_is_removed_is_made_again_from_its_journal(server: ChatServer, tmp_path: Path) -> None:
    first = make(config_of(tmp_path, server.address))
    num_calls = len(server.asked)
    for name in ("verify", "score"):
        (tmp_path / f"{name}.json").unlink()
    again = make(config_of(tmp_path, server.address))
    assert again["selected_ids"] == first["selected_ids"] and len(server.asked) == num_calls
