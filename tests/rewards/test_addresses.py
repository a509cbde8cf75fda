"""Addresses that hold secrets are refused, and keys go only where they are meant to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from pydantic import ValidationError

from raylign.rewards.addresses import check_address, without_secrets
from raylign.rewards.base import Item, RewardFailure
from raylign.rewards.endpoint import HttpConfig, HttpReward
from raylign.rewards.judge.config import JudgeEndpoint
from raylign.rewards.rules import NumericConfig
from raylign.rewards.scoring import Scorer

SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@host/score",
        f"https://{SECRET}@host/score",
        f"http://host/score?api_key={SECRET}",
        f"http://host/score?a=1&access_token={SECRET}",
        f"https://host/score?sig={SECRET}",
        "http://[::1",
        "http://host:99999/score",
        "http://host:port/score",
        "ftp://host/score",
        "http://",
        "host/score",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no address|which would be written to config.yaml") as found:
        check_address(url)
    assert SECRET not in str(found.value)
    with pytest.raises(ValidationError):
        HttpConfig(url=url)
    with pytest.raises(ValidationError):
        JudgeEndpoint(url=url)


@pytest.mark.parametrize("url", ["http://host/score", "https://host:8443/a?model=x&n=3", "http://[::1]:80/score"])
def test_ordinary_addresses_are_taken(url: str) -> None:
    assert check_address(url) == url


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"ConnectError: http://user:{SECRET}@host/a", "ConnectError: http://***@host/a"),
        (f"url: 'https://{SECRET}@host:1/a'", "url: 'https://***@host:1/a'"),
        (f"http://h/a?n=1&api_key={SECRET}&m=2 failed", "http://h/a?n=1&api_key=***&m=2 failed"),
        (f"http://h/a?access_token={SECRET}#x", "http://h/a?access_token=***#x"),
        (f"http://h/a?sig={SECRET}", "http://h/a?sig=***"),
        ("http://h/a?n=1&monkey, 3 + 4 @ home, a@b.org", "http://h/a?n=1&monkey, 3 + 4 @ home, a@b.org"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)
def test_secrets_in_addresses_are_masked_in_any_text(text: str, masked: str) -> None:
    assert without_secrets(text) == masked


def test_a_failure_never_holds_the_secret_of_an_address() -> None:
    scorer = Scorer([NumericConfig()])
    failure = RewardFailure("unreachable", f"ConnectError: http://user:{SECRET}@host/a")
    ((_, written),) = scorer.combined([[failure]], 1).failures
    assert written == RewardFailure("unreachable", "ConnectError: http://***@host/a")


def test_the_key_of_openai_is_a_default_for_openai_alone() -> None:
    assert JudgeEndpoint().api_key_env == "OPENAI_API_KEY"
    assert JudgeEndpoint(url="https://api.openai.com/v2").api_key_env == "OPENAI_API_KEY"
    others = [
        "http://api.openai.com/v1",
        "https://api.openai.com.evil.org/v1",
        "https://evil.org/api.openai.com",
        "http://h",
    ]
    for url in others:
        endpoint = JudgeEndpoint(url=url)
        assert endpoint.api_key_env is None
        assert JudgeEndpoint.model_validate(endpoint.model_dump()) == endpoint
        assert JudgeEndpoint(url=url, api_key_env="OPENAI_API_KEY").api_key_env == "OPENAI_API_KEY"


class Handler(BaseHTTPRequestHandler):
    headers_seen: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        Handler.headers_seen.append(self.headers["Authorization"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"scores": [1]}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.headers_seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_http_reward_sends_the_key_of_the_named_variable_and_no_other(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not for this host")
    monkeypatch.setenv("SCORER_KEY", SECRET)
    HttpReward(HttpConfig(url=address)).score([Item("p", ("a",))])
    config = HttpConfig(url=address, api_key_env="SCORER_KEY")
    HttpReward(config).score([Item("p", ("a",))])
    assert Handler.headers_seen == [None, f"Bearer {SECRET}"]
    assert SECRET not in config.model_dump_json()
    with pytest.raises(ValueError, match="reward http: the environment variable NO_SUCH_KEY is not set"):
        HttpReward(HttpConfig(url=address, api_key_env="NO_SUCH_KEY"))
