"""The chat client against a real small server: several replies, cost, cache keys, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raylign.rewards.chat_cache import ChatRequest
from raylign.rewards.chat_client import ChatClient
from raylign.rewards.chat_config import ChatConfig
from raylign.rewards.chat_reply import ChatFailure, CostLimitReached, Reply, UnreadableReply
from raylign.rewards.chat_transport import MAX_REPLY_BYTES
from raylign.rewards.chat_usage import Usage
from tests.patience import HANGS_S
from tests.rewards.chat_server import ChatServer, Scripted, chat_server

USER = [{"role": "user", "content": "What is 2 + 2?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *USER]
Asked = list[Reply] | ChatFailure


def config(server: ChatServer, **values: Any) -> ChatConfig:
    one = {"url": server.address, "api_key_env": None, "requests_per_minute": None}
    defaults = {"model": "m", "endpoints": [one], "num_attempts": 2, "longest_pause_s": 0.05, "deadline_s": HANGS_S}
    return ChatConfig.model_validate(defaults | values)


def asked(chat: ChatConfig, *questions: dict[str, Any], usage_path: Path | None = None) -> tuple[list[Asked], Usage]:
    """One after another."""

    async def ask() -> tuple[list[Asked], Usage]:
        async with ChatClient(chat, "teacher", usage_path) as client:
            found = [await client.ask(**({"messages": USER} | question)) for question in questions]
            return found, client.meter.total

    return asyncio.run(ask())


def texts(found: Asked) -> list[str]:
    assert not isinstance(found, ChatFailure), found
    return [reply.text for reply in found]


def counting(several: bool) -> Callable[[dict[str, Any]], Scripted]:
    numbers = itertools.count()

    def answer(body: dict[str, Any]) -> Scripted:
        return Scripted([f"reply {next(numbers)}" for _ in range(body.get("n", 1) if several else 1)], usage=(10, 4))

    return answer


@pytest.mark.parametrize(("several", "num_calls"), [(True, 1), (False, 5)])
def test_several_replies_come_in_one_call_or_where_the_endpoint_has_no_n_in_several(
    several: bool, num_calls: int
) -> None:
    with chat_server(counting(several)) as server:
        (first, second), usage = asked(config(server), {"num_replies": 5}, {"num_replies": 1})
        assert texts(first) == [f"reply {index}" for index in range(5)] and texts(second) == ["reply 5"]
        assert len(server.asked) == num_calls + 1
        assert usage == Usage(num_calls + 1, 10 * (num_calls + 1), 4 * (num_calls + 1), 5 * (num_calls + 1), 0.0)


def test_an_endpoint_that_refuses_n_is_asked_one_by_one() -> None:
    with chat_server(lambda body: Scripted(status=400) if "n" in body else Scripted(["x"])) as server:
        (found, again), _ = asked(config(server), {"num_replies": 3}, {"num_replies": 2})
        assert texts(found) == ["x"] * 3 and texts(again) == ["x"] * 2
        assert [body.get("n") for body in server.asked] == [3, None, None, None, None, None]


def test_of_several_replies_only_the_missing_are_asked_again(tmp_path: Path) -> None:
    def accept(text: str) -> None:
        if text == "reply 1":
            raise UnreadableReply("no")

    with chat_server(counting(True)) as server:
        (found,), _ = asked(config(server, cache=tmp_path), {"num_replies": 3, "accept": accept})
        assert texts(found) == ["reply 0", "reply 3", "reply 2"]
        assert [body.get("n") for body in server.asked] == [3, None]
        for file in list(tmp_path.glob("*/*.json"))[:2]:
            file.unlink()
        (found,), _ = asked(config(server, cache=tmp_path), {"num_replies": 3})
        assert not isinstance(found, ChatFailure) and sum(reply.from_cache for reply in found) == 1
        assert server.asked[-1]["n"] == 2


def test_a_question_of_one_message_has_the_key_that_judge_caches_have() -> None:
    def key(messages: Sequence[dict[str, str]], **values: Any) -> str:
        return ChatRequest("m", messages, 0.7, 0.95, 1000, **values).key(0)

    known = json.dumps(["m", 0.7, 0.95, 1000, "What is 2 + 2?"]).encode()
    assert key(USER) == hashlib.blake2b(known, digest_size=16).hexdigest()
    others = [
        key(SYSTEM),
        key([*USER, {"role": "assistant", "content": "4"}, *USER]),
        key(USER, num_replies=2),
        key(USER, num_replies=3),
        key(USER, sample=0),
        key(USER, sample=1),
        ChatRequest("m", USER, 0.7, 0.95, 1000, num_replies=2).key(1),
    ]
    assert len({key(USER), *others}) == 8


def test_the_cost_limit_is_checked_before_a_call_against_the_most_that_it_could_cost(tmp_path: Path) -> None:
    question = {"max_tokens": 100, "temperature": 1.0}
    with chat_server(lambda body: Scripted(["x"], usage=(10, 100))) as server:
        priced = {"prompt_price": 0.0, "reply_price": 10_000.0}  # a longest reply costs 1.0
        for max_cost, num_calls in ((0.99, 0), (1.0, 1), (3.5, 3)):
            server.asked.clear()
            path = tmp_path / f"{max_cost}.jsonl"
            with pytest.raises(CostLimitReached, match=rf"teacher.max_cost is {max_cost:g}: .* a higher teacher.max"):
                asked(config(server, **priced, max_cost=max_cost), *[question] * 9, usage_path=path)
            assert len(server.asked) == num_calls
        # over a resume the limit still holds, and a higher one goes on
        with pytest.raises(CostLimitReached, match="3 is spent"):
            asked(config(server, **priced, max_cost=3.5), question, usage_path=path)
        with path.open("a") as file:
            file.write('{"stage": "", "num_')
        _, usage = asked(config(server, **priced, max_cost=4.5), question, usage_path=path)
        assert usage.cost == pytest.approx(4.0) and usage.num_calls == 4


def test_calls_at_once_cannot_break_the_limit_together() -> None:
    async def ask(chat: ChatConfig) -> list[Asked | BaseException]:
        async with ChatClient(chat, "teacher") as client:
            calls = [client.ask(USER, max_tokens=100, sample=number) for number in range(8)]
            return list(await asyncio.gather(*calls, return_exceptions=True))

    # each could cost 1.0 and costs 0.5: three and a half fit into 2.5 only one after another
    with chat_server(lambda body: Scripted(["x"], usage=(0, 50))) as server:
        found = asyncio.run(ask(config(server, reply_price=10_000.0, max_cost=2.5, num_attempts=1)))
        assert sum(isinstance(each, list) for each in found) == len(server.asked) == 4
        assert sum(isinstance(each, CostLimitReached) for each in found) == 4


def test_a_limit_without_prices_is_refused() -> None:
    with pytest.raises(ValueError, match="both prices are 0"):
        ChatConfig(model="m", max_cost=1.0)


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            Scripted(body=b"<html>no</html>", headers={"Content-Type": "text/html"}),
            "unreadable",
            "not a chat completion",
        ),
        (Scripted(body=b"{nonsense"), "unreadable", "not JSON, though it says so"),
        (Scripted(body=b"[1, 2]"), "unreadable", "not a chat completion"),
        (Scripted(body=b"{}"), "unreadable", "not a chat completion"),
        (Scripted(body=b""), "unreadable", ""),
        (Scripted([]), "unreadable", "not a chat completion"),
        (Scripted(["x" * (10 << 20)]), "unreadable", f"a reply of more than {MAX_REPLY_BYTES} bytes"),
        (
            Scripted(body=gzip.compress(b"x" * (64 << 20)), headers={"Content-Encoding": "gzip"}),
            "unreadable",
            "a reply packed as gzip",
        ),
        (Scripted(status=429), "rate_limited", "HTTP 429 at the last of 2 tries"),
        (Scripted(status=503), "unreachable", "HTTP 503"),
        (Scripted(status=400), "refused", "HTTP 400"),
    ],
)
def test_what_is_no_chat_completion_is_a_typed_failure(answer: Scripted, kind: str, said: str) -> None:
    with chat_server(lambda body: answer) as server:
        (found,), _ = asked(config(server), {})
        assert isinstance(found, ChatFailure) and found.kind == kind and said in found.message
        assert len(server.asked) == (1 if kind == "refused" else 2)


def test_an_empty_text_is_a_reply() -> None:
    with chat_server(lambda body: Scripted([""])) as server:
        (found,), _ = asked(config(server), {})
        assert texts(found) == [""]


def test_a_refused_key_ends_the_job_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    with chat_server(lambda body: Scripted(status=401)) as server:
        endpoint = {"url": server.address, "api_key_env": "TEACHER_KEY", "requests_per_minute": None}
        with pytest.raises(ValueError, match=r"the teacher 'm' .* refuses with HTTP 401.*teacher.endpoints") as caught:
            asked(config(server, endpoints=[endpoint]), {})
        assert server.asked[0]["key"] == "Bearer sk-very-secret" and "secret" not in str(caught.value)


def test_a_redirect_to_another_host_is_not_followed() -> None:
    with chat_server(lambda body: Scripted(["stolen"])) as other:
        there = Scripted(status=307, headers={"Location": other.address + "/chat/completions"})
        with chat_server(lambda body: there) as server, pytest.raises(ValueError, match="redirects to other hosts"):
            asked(config(server), {})
        assert other.asked == []


def test_a_redirect_within_the_host_is_followed() -> None:
    def answer(body: dict[str, Any]) -> Scripted:
        first = len(server.asked) == 1
        return Scripted(status=307, headers={"Location": "/v2/chat"}) if first else Scripted(["here"])

    with chat_server(answer) as server:
        (found,), _ = asked(config(server), {})
        assert texts(found) == ["here"]


def test_half_a_surrogate_pair_does_not_end_the_job(tmp_path: Path) -> None:
    with chat_server(lambda body: Scripted(["half \ud83d"])) as server:
        question = {"messages": [{"role": "user", "content": "half \ud83d"}]}
        (found,), _ = asked(config(server, cache=tmp_path), question)
        (again,), _ = asked(config(server, cache=tmp_path), question)
        assert texts(found) == ["half \ud83d"] and len(server.asked) == 1 and not isinstance(again, ChatFailure)
