"""`raylign compare` on files: by reward and by a judge, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs.checks.findings import PlanError
from raylign.jobs.checks.machine import GIB, Machine
from raylign.jobs.cli import run_command_line
from raylign.jobs.compare.answer_files import read_answers
from raylign.jobs.compare.compare import compare, examine_compare
from raylign.jobs.compare.config import CompareConfig
from raylign.jobs.compare.sides import scored
from raylign.jobs.config.loading import ConfigError, load_config
from raylign.rewards.rules import NumericConfig
from tests.patience import HANGS_S
from tests.rewards.judge.judge_server import Handler, judge_server

TWO_CORES = Machine(2, 16 * GIB, 8 * GIB, 8 * GIB, ())


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def responses(path: Path, texts: Sequence[str], **more: Any) -> Path:
    lines = [{"prompt": f"q{n}", "response": text, "references": [str(n)], **more} for n, text in enumerate(texts)]
    return write(path, lines)


def configured(folder: Path, new: Path, reference: Path, **values: Any) -> CompareConfig:
    sides = {"new": {"answers": str(new), "name": "new"}, "reference": {"answers": str(reference), "name": "old"}}
    return load_config(CompareConfig, [], {"folder": str(folder), "rewards": [{"name": "numeric"}]} | sides | values)


@pytest.fixture
def address() -> Iterator[str]:
    with judge_server() as address:
        yield address


def judge_of(address: str, **values: Any) -> dict[str, Any]:
    endpoint = {"url": address, "api_key_env": None, "requests_per_minute": None}
    return {"model": "m", "endpoints": [endpoint], "cache": None, "num_attempts": 1, "deadline_s": HANGS_S} | values


def test_two_files_are_compared_by_reward_with_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = responses(tmp_path / "new.jsonl", ["it is 0", "it is 1", "it is 9", "3"])
    old = responses(tmp_path / "old.jsonl", ["0", "no", "2", "3"])
    found = compare(configured(tmp_path / "out", new, old))
    rates = found["by_reward"]
    assert (rates["num_wins"], rates["num_ties"], rates["num_losses"], rates["num_failed"]) == (1, 2, 1, 0)
    assert (rates["mean_score_new"], rates["mean_score_reference"]) == (0.75, 0.75)
    assert found["new"]["mean_characters"] == 5.5 and found["new"]["mean_tokens"] is None
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found
    lines = [json.loads(line) for line in (tmp_path / "out" / "comparison.jsonl").read_text().splitlines()]
    assert [line["winner"] for line in lines] == ["tie", "new", "reference", "tie"]
    assert "Plotly.newPlot(" in (tmp_path / "out" / "comparison.html").read_text()
    assert "win rate, ties half, 50.0%" in capsys.readouterr().out


def test_the_published_format_of_answers_is_read(tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", [{"q0": ["3"]}, {"q1": ["4"]}])
    assert [(answer.prompt, answer.text) for answer in read_answers(new)] == [("q0", "3"), ("q1", "4")]


def test_samples_of_an_evaluation_are_read_if_they_hold_one_completion(tmp_path: Path) -> None:
    completion = {"text": "3", "stop_reason": "length", "num_tokens": 7}
    line = {"prompt": "q", "references": ["3"], "completions": [completion]}
    (answer,) = read_answers(write(tmp_path / "samples.jsonl", [line]))
    assert (answer.text, answer.num_tokens, answer.finished, answer.references) == ("3", 7, False, ("3",))
    several = write(tmp_path / "several.jsonl", [line, line | {"completions": [completion] * 2}])
    with pytest.raises(ValueError, match=r"several.jsonl:2: 2 answers to one prompt; evaluate with num_compl"):
        read_answers(several)


def draw_line(number: int, texts: Sequence[str], scores: Sequence[float | None]) -> dict[str, Any]:
    answers = [{"text": text, "token_ids": [1] * len(text), "finished": True} for text in texts]
    rest: dict[str, Any] = {"references": [str(number)], "messages": [], "failures": [], "row": {}}
    return rest | {
        "ordinal": number,
        "prompt_id": f"p{number}",
        "prompt": f"q{number}",
        "answers": answers,
        "scores": list(scores),
        "rewards": {},
        "policy": "sft",
        "seed": 0,
        "fingerprint": "f",
    }


def test_of_a_draw_the_first_answer_is_taken_or_the_best_of_n(tmp_path: Path) -> None:
    path = write(tmp_path / "draws.jsonl", [draw_line(0, ["a", "bb", "ccc"], [0.1, 0.3, 0.9])])
    assert [read_answers(path, n)[0].text for n in (1, 2, 3)] == ["a", "bb", "ccc"]
    assert read_answers(path, 3)[0].num_tokens == 3
    with pytest.raises(ValueError, match=":1: best_of is 4, and the draw has 3 answers"):
        read_answers(path, 4)
    unscored = write(tmp_path / "unscored.jsonl", [draw_line(0, ["a", "b"], [None, 1.0])])
    with pytest.raises(ValueError, match="one of the first 2 answers has no score"):
        read_answers(unscored, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "bad.jsonl is empty"),
        ('{"prompt": "q", "response": "a"}\nnonsense\n', "bad.jsonl:2: "),
        ("[1]\n", ":1: expected an object, found list"),
        ('{"prompt": "q", "answer": "a"}\n', "found the keys 'prompt', 'answer'"),
        ('{"q": ["a", "b"]}\n', ":1: 2 answers to one prompt"),
        ('{"prompt": "q", "response": 3}\n', ":1: expected a text, found int"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_answers(tmp_path / "bad.jsonl")


def test_files_that_do_not_align_are_refused_with_the_line(tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", [{"q0": ["3"]}, {"q1": ["4"]}, {"q2": ["5"]}])
    swapped = write(tmp_path / "swapped.jsonl", [{"q0": ["3"]}, {"q2": ["4"]}, {"q1": ["5"]}])
    rewards = [{"name": "length", "free_tokens": 1, "max_tokens": 2}]
    with pytest.raises(ValueError, match="line 2: the two sides answer different prompts: 'q1' and 'q2'"):
        compare(configured(tmp_path / "out", new, swapped, rewards=rewards))
    short = write(tmp_path / "short.jsonl", [{"q0": ["3"]}, {"q1": ["4"]}])
    with pytest.raises(ValueError, match="3 answers of the new model and 2 of the reference: line 3 is missing"):
        compare(configured(tmp_path / "out2", new, short, rewards=rewards))


def test_a_reward_that_fails_on_some_is_counted_and_no_tie(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"prompt": "q0", "response": "0", "references": ["0"]},
        {"prompt": "q1", "response": "1"},
    ]
    new = write(tmp_path / "new.jsonl", lines)
    old = write(tmp_path / "old.jsonl", lines)
    found = compare(configured(tmp_path / "out", new, old))
    assert (found["by_reward"]["num_ties"], found["by_reward"]["num_failed"]) == (1, 1)
    assert "has no reference" in found["new"]["first_failures"][0]


def test_a_comparison_in_which_nothing_could_be_decided_is_an_error(tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", [{"q0": ["3"]}])
    with pytest.raises(
        ValueError, match="not one of 1 pairs could be decided by the reward; first: numeric: exception"
    ):
        compare(configured(tmp_path / "out", new, new))
    assert (tmp_path / "out" / "comparison.jsonl").exists()  # what there is stays to be read


def test_scores_of_another_reward_are_not_taken_over(tmp_path: Path) -> None:
    path = write(tmp_path / "draws.jsonl", [draw_line(0, ["0"], [0.25])])
    (answer,), _ = scored(read_answers(path), [NumericConfig()])
    assert answer.score == 1.0
    (answer,), _ = scored(read_answers(path), [])
    assert answer.score is None


def test_a_judge_decides_beside_the_reward(tmp_path: Path, address: str) -> None:
    new = responses(tmp_path / "new.jsonl", ["worth=10", "worth=5", "worth=2", "the same"])
    old = responses(tmp_path / "old.jsonl", ["worth=9", "worth=5 too", "worth=4", "the same"])
    found = compare(configured(tmp_path / "out", new, old, judge=judge_of(address)))
    rates = found["by_judge"]
    assert (rates["num_wins"], rates["num_ties"], rates["num_losses"], rates["num_failed"]) == (1, 2, 1, 0)
    assert rates["num_asked"] == 3 == len(Handler.asked)  # two equal answers are a tie, and cost nothing
    lines = [json.loads(line) for line in (tmp_path / "out" / "comparison.jsonl").read_text().splitlines()]
    assert [line.get("judge", {}).get("winner") for line in lines] == ["new", "tie", "reference", None]
    assert lines[0]["judge"]["new_score"] == 10


def test_failures_of_the_judge_are_counted_by_kind_and_no_tie(tmp_path: Path, address: str) -> None:
    lines = [{"prompt": f"q{n} task={task} .", "response": "worth=3"} for n, task in enumerate(["plain", "nonsense"])]
    new = write(tmp_path / "new.jsonl", lines)
    old = write(tmp_path / "old.jsonl", [line | {"response": "worth=1"} for line in lines])
    found = compare(configured(tmp_path / "out", new, old, rewards=[], judge=judge_of(address)))
    assert found["by_reward"] is None
    rates = found["by_judge"]
    assert (rates["num_wins"], rates["num_ties"], rates["num_failed"]) == (1, 0, 1)
    assert rates["failures"] == {"unreadable": 1} and "no [[score, score]]" in rates["first_failure"]


def test_a_resumed_comparison_asks_the_judge_only_what_is_new(tmp_path: Path, address: str) -> None:
    new = responses(tmp_path / "new.jsonl", ["worth=3", "worth=4"])
    old = responses(tmp_path / "old.jsonl", ["worth=1", "worth=9"])
    judge = judge_of(address, cache=str(tmp_path / "cache"))
    compare(configured(tmp_path / "out", new, old, judge=judge))
    found = compare(configured(tmp_path / "out", new, old, judge=judge, resume=True))
    assert found["by_judge"]["num_from_cache"] == 2 == len(Handler.asked)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"new": {}}, "new: give new.model or new.answers, one of them"),
        ({"new": {"model": "m", "best_of": 4}}, "new.best_of is 4: it chooses among the answers of a draws.jsonl"),
        ({"rewards": []}, "rewards is empty and there is no judge"),
        ({"kl": True}, "kl is true: it needs two models"),
        ({"kl": True, "new": {"model": "m"}, "reference": {"model": "r"}}, "greedy answers are no sample"),
        ({"judge": {}}, "judge.model: is missing"),
    ],
)
def test_config_that_makes_no_sense_is_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        base = {"folder": str(tmp_path / "out"), "rewards": [{"name": "numeric"}]}
        load_config(CompareConfig, [], base | {"new": {"answers": "a"}, "reference": {"answers": "b"}} | values)


def test_all_problems_are_found_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    new = responses(tmp_path / "new.jsonl", ["1"])
    judge = {"model": "m", "endpoints": [{"api_key_env": "NO_SUCH_KEY"}]}
    config = configured(tmp_path, new, tmp_path / "none.jsonl", judge=judge, shown_with=[str(tmp_path)])
    problems = "\n".join(examine_compare(config, TWO_CORES).problems)
    assert "reference.answers: no file" in problems
    assert "environment variable NO_SUCH_KEY is not set" in problems
    assert "holds no comparison.json" in problems
    assert "exists and is not empty" in problems
    with pytest.raises(PlanError):
        compare(config)


def test_earlier_comparisons_stand_in_the_same_charts(tmp_path: Path) -> None:
    new = responses(tmp_path / "new.jsonl", ["0", "1"])
    old = responses(tmp_path / "old.jsonl", ["0", "no"])
    compare(configured(tmp_path / "first", new, old))
    compare(configured(tmp_path / "second", old, new, shown_with=[str(tmp_path / "first")]))
    text = (tmp_path / "second" / "comparison.html").read_text()
    assert text.count("new against old, by reward</td>") == 2


def test_the_command_line_reaches_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = responses(tmp_path / "new.jsonl", ["0"])
    words = ["compare", "--new.answers", str(new), "--reference.answers", str(new), "--folder", str(tmp_path / "out")]
    assert run_command_line([*words, "--rewards", '[{"name": "numeric"}]']) == 0
    assert "by reward: win 0.0%, tie 100.0%, loss 0.0%" in capsys.readouterr().out
    assert run_command_line(words) == 2
    assert "rewards is empty and there is no judge" in capsys.readouterr().err
