"""The judge against a real small server that speaks the chat-completion protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raylign.rewards.judge.config import JudgeConfig
from raylign.rewards.judge.judge import AnswerPair, Judge, JudgeFailure, Verdict
from raylign.rewards.judge.prompt import QUESTION, UnreadableReply, question, read_scores
from raylign.rewards.judge.rate_limiter import RateLimiter
from tests.patience import HANGS_S
from tests.rewards.judge.judge_server import Handler, judge_server


@pytest.fixture
def address() -> Iterator[str]:
    with judge_server() as address:
        yield address


def judge(address: str, endpoint: dict[str, Any] | None = None, **values: Any) -> Judge:
    one = {"url": address, "api_key_env": None, "requests_per_minute": None} | (endpoint or {})
    defaults = {"model": "m", "endpoints": [one], "cache": None, "num_attempts": 3, "longest_pause_s": 0.3}
    return Judge(JudgeConfig.model_validate(defaults | {"deadline_s": HANGS_S} | values))


def pair(task: str = "plain", a: int = 7, b: int = 4, number: int = 0) -> AnswerPair:
    return AnswerPair(f"question {number} task={task} .", f"answer worth={a}.", f"reply worth={b}.")


def failure(address: str, task: str, **values: Any) -> JudgeFailure:
    (found,) = judge(address, **values).compare([pair(task)])
    assert isinstance(found, JudgeFailure)
    return found


def test_scores_are_those_of_the_answers_whichever_was_shown_first(address: str) -> None:
    pairs = [pair(number=number, a=number % 11, b=4) for number in range(44)]
    verdicts = [verdict for verdict in judge(address).compare(pairs) if isinstance(verdict, Verdict)]
    assert [(verdict.score_a, verdict.score_b) for verdict in verdicts] == [(n % 11, 4) for n in range(44)]
    swapped = [verdict.b_was_first for verdict in verdicts]
    assert 10 < sum(swapped) < 34
    again = judge(address).compare(pairs)
    assert [verdict.b_was_first for verdict in again if isinstance(verdict, Verdict)] == swapped
    other = judge(address, seed=1).compare(pairs)
    assert [verdict.b_was_first for verdict in other if isinstance(verdict, Verdict)] != swapped
    for body in Handler.asked[:44]:
        text = body["messages"][0]["content"]
        number = int(text.split("question ")[1].split()[0])
        assert (text.index("reply worth") < text.index("answer worth")) == swapped[number]


def test_a_score_of_10_is_not_read_as_1(address: str) -> None:
    (verdict,) = judge(address).compare([pair(a=10, b=9)])
    assert isinstance(verdict, Verdict) and (verdict.score_a, verdict.score_b) == (10, 9)
    assert read_scores("[[10, 1]]") == (10, 1)
    assert read_scores("Assistant A: 10\nAssistant B: 9.5") == (10, 9.5)


def test_the_last_scores_in_brackets_are_the_verdict() -> None:
    assert read_scores("At first [[2, 3]], but then\n[[ 8.5 ,7 ]]") == (8.5, 7)
    assert read_scores("Assistant A: 3, Assistant B: 4. So [[5, 6]]") == (5, 6)


@pytest.mark.parametrize("reply", ["", "tie", "[[7]]", "[[seven, 8]]", "[[11, 3]]", "[7, 8]", "Assistant A: 7"])
def test_a_reply_without_two_scores_cannot_be_read(reply: str) -> None:
    with pytest.raises(UnreadableReply):
        read_scores(reply)


def test_an_answer_that_looks_like_the_template_stays_as_it_is() -> None:
    text = question("{prompt}|{first}|{second}", "p", "{second}", "s")
    assert text == "p|{second}|s"
    assert "{" not in question(QUESTION, "p", "a", "b")
    with pytest.raises(ValueError, match=r"lacks \{second\}"):
        JudgeConfig(model="m", template="{prompt} {first}")


@pytest.mark.parametrize(
    ("task", "kind", "message", "num_requests"),
    [
        ("nonsense", "unreadable", "no [[score, score]] in the reply 'I cannot say [[good, bad]].'", 3),
        ("html", "unreadable", "not a chat completion: '<html>'", 3),
        ("limited", "rate_limited", "HTTP 429 at the last of 3 tries", 3),
        ("broken", "unreachable", "HTTP 503", 3),
        ("too_long", "refused", "HTTP 400", 1),
    ],
)
def test_a_judge_that_goes_wrong_is_a_typed_failure_and_no_tie(
    address: str, task: str, kind: str, message: str, num_requests: int
) -> None:
    found = failure(address, task)
    assert found.kind == kind and message in found.message
    assert len(Handler.asked) == num_requests


def test_a_judge_that_does_not_answer_in_time_is_a_timeout(address: str) -> None:
    found = failure(address, "slow", deadline_s=2, num_attempts=2)
    assert (found.kind, found.message) == ("timeout", "no reply within 2 s (judge.deadline_s)")
    assert len(Handler.asked) == 2


def test_nobody_listening_is_unreachable() -> None:
    assert failure("http://127.0.0.1:9/v1", "plain").kind == "unreachable"


@pytest.mark.parametrize("task", ["nonsense_once", "limited_once"])
def test_passing_trouble_is_tried_again(address: str, task: str) -> None:
    start = time.monotonic()
    (verdict,) = judge(address).compare([pair(task)])
    assert isinstance(verdict, Verdict) and (verdict.score_a, verdict.score_b) == (7, 4)
    assert len(Handler.asked) == 2
    assert time.monotonic() - start >= 0.2  # what Retry-After and the backoff ask for


def test_one_bad_pair_does_not_spoil_the_others(address: str) -> None:
    pairs = [pair(number=1), pair("nonsense", number=2), pair(number=3, a=1, b=2)]
    first, second, third = judge(address).compare(pairs)
    assert isinstance(first, Verdict) and isinstance(third, Verdict) and isinstance(second, JudgeFailure)


def test_a_key_that_is_refused_ends_the_comparison_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=r"refuses with HTTP 401.*check judge.endpoints"):
        judge(address, max_concurrent=1).compare([pair("unknown_key", number=number) for number in range(50)])
    assert len(Handler.asked) == 1


def test_the_key_comes_from_the_environment(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k-1")
    judge(address, {"api_key_env": "JUDGE_KEY"}).compare([pair()])
    assert Handler.asked[0]["key"] == "Bearer k-1"
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="environment variable JUDGE_KEY is not set"):
        judge(address, {"api_key_env": "JUDGE_KEY"})


def test_nothing_is_asked_twice(address: str, tmp_path: Path) -> None:
    pairs = [pair(number=number) for number in range(5)]
    judge(address, cache=tmp_path).compare(pairs[:3])
    verdicts = judge(address, cache=tmp_path).compare(pairs)
    assert [verdict.from_cache for verdict in verdicts if isinstance(verdict, Verdict)] == [True] * 3 + [False] * 2
    assert len(Handler.asked) == 5
    # another model, another answer, another order: each is another question
    judge(address, cache=tmp_path, model="n").compare(pairs[:1])
    judge(address, cache=tmp_path).compare([pair(number=0, b=5)])
    judge(address, cache=tmp_path).compare([AnswerPair(pairs[0].prompt, pairs[0].b, pairs[0].a)])
    assert len(Handler.asked) in (7, 8)  # the exchanged pair may by chance be shown as before
    for file in tmp_path.glob("*/*.json"):
        file.write_text(file.read_text()[:-20])
    judge(address, cache=tmp_path).compare(pairs)
    assert len(Handler.asked) in (12, 13)


def test_failures_are_not_cached(address: str, tmp_path: Path) -> None:
    judge(address, cache=tmp_path, num_attempts=1).compare([pair("nonsense_once")])
    (verdict,) = judge(address, cache=tmp_path, num_attempts=1).compare([pair("nonsense_once")])
    assert isinstance(verdict, Verdict) and not verdict.from_cache


def test_pairs_under_way_and_requests_per_minute_are_bounded(address: str) -> None:
    pairs = [pair("busy", number=number) for number in range(8)]
    done: list[int] = []
    judge(address, max_concurrent=2).compare(pairs, done.append)
    assert Handler.most_at_once == 2 and done == list(range(1, 9))
    start = time.monotonic()
    judge(address, {"requests_per_minute": 600}).compare([pair(number=number) for number in range(6)])
    assert time.monotonic() - start >= 0.5  # five intervals of 0.1 s


def test_several_addresses_take_turns_at_a_pace_of_their_own(address: str) -> None:
    one = {"url": address, "api_key_env": None, "requests_per_minute": 300}
    judge(address, endpoints=[{**one, "model": "x"}, {**one, "model": "y"}]).compare(
        [pair(number=number) for number in range(4)]
    )
    assert sorted(body["model"] for body in Handler.asked) == ["x", "x", "y", "y"]


def test_pace_is_the_lower_of_requests_and_tokens_per_minute() -> None:
    assert RateLimiter(60, None).interval_s(5000) == pytest.approx(1.0)
    assert RateLimiter(60, 60_000).interval_s(500) == pytest.approx(1.0)
    assert RateLimiter(60, 60_000).interval_s(2000) == pytest.approx(2.0)
    assert RateLimiter(None, None).interval_s(10**6) == 0
