"""The `http` reward against a real small server."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raylign.rewards.base import Item, RewardFailure, Score
from raylign.rewards.endpoint import HttpConfig, HttpReward
from tests.patience import HANGS_S

ANSWERS = {
    "html": b"<html>",
    "brackets": b"[" * 200_000,
    "digits": b'{"scores": [' + b"1" * 5000 + b"]}",
    "infinite": b'{"scores": [1e999, NaN]}',
    "packed": gzip.compress(bytes(1 << 26)),
    "latin": b'{"scores": ["\xe4", "\xf6"]}',
    "endless": b"",
}
"""By task, what cannot be read."""


class Handler(BaseHTTPRequestHandler):
    """What it does is the last part of the address."""

    num_requests = 0
    go_on = threading.Event()
    """What is slow waits for it."""

    def do_POST(self) -> None:
        Handler.num_requests += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        task = self.path.rpartition("/")[2]
        status, scores = 200, [float(text in body["references"]) for text in body["completions"]]
        if (task == "flaky" and Handler.num_requests < 3) or task == "broken":
            status = 503
        elif task == "refuses":
            status = 422
        elif task == "short":
            scores = scores[1:]
        elif task == "elsewhere":
            status = 307
        elif task == "repeats":
            status = 401
        elif task == "slow":
            Handler.go_on.wait()
        answer = json.dumps({"scores": scores}).encode()
        if task in ANSWERS:
            answer = ANSWERS[task]
        elif task == "repeats":
            answer = f"bad key: {self.headers['Authorization']}".encode()
        try:
            self.send_response(status)
            if task == "packed":
                self.send_header("Content-Encoding", "gzip")
            elif task == "elsewhere":
                self.send_header("Location", f"http://localhost:{self.connection.getsockname()[1]}/plain")
            self.send_header("Content-Length", str(2**30 if task == "endless" else len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            while task == "endless":
                self.wfile.write(bytes(1 << 16))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.num_requests = 0
    Handler.go_on.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def score(url: str, deadline_s: float = HANGS_S, num_items: int = 1) -> list[list[Score]]:
    return HttpReward(HttpConfig(url=url, deadline_s=deadline_s)).score([Item("p", ("a", "b"), ("b",))] * num_items)


def test_scores_of_every_group_come_back_in_order(address: str) -> None:
    assert score(f"{address}/plain", num_items=20) == [[0.0, 1.0]] * 20


def test_passing_trouble_is_tried_again(address: str) -> None:
    assert score(f"{address}/flaky") == [[0.0, 1.0]]
    assert Handler.num_requests == 3


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ("broken", "unreachable", "HTTP 503"),
        ("refuses", "exception", "HTTP 422"),
        ("short", "wrong_count", "1 scores for 2"),
        ("html", "exception", '{"scores": […]}'),
        ("slow", "timeout", "no answer within 2 s"),
        ("brackets", "exception", "RecursionError"),
        ("digits", "exception", "Exceeds the limit (4300 digits)"),
        ("infinite", "nan", ""),
        ("latin", "exception", "UnicodeDecodeError"),
        ("packed", "reply", "is packed (gzip)"),
        ("endless", "reply", "is larger than 1,048,576 bytes"),
        ("elsewhere", "exception", "HTTP 307"),
    ],
)
def test_service_that_goes_wrong_is_a_typed_failure(address: str, task: str, kind: str, message: str) -> None:
    (scores,) = score(f"{address}/{task}", deadline_s=2 if task == "slow" else HANGS_S)
    for failure in scores:
        assert isinstance(failure, RewardFailure) and failure.kind == kind and message in failure.message
    assert Handler.num_requests == (3 if task == "broken" else 1)


def test_a_group_that_goes_wrong_leaves_the_others_alone(address: str) -> None:
    """Scored together, in one loop."""
    good = score(f"{address}/plain", num_items=2)
    reward = HttpReward(HttpConfig(url=f"{address}/brackets", deadline_s=HANGS_S))
    assert [isinstance(each, RewardFailure) for each in reward.score([Item("p", ("a",))] * 2)[1]] == [True]
    assert good == [[0.0, 1.0]] * 2


def test_a_service_that_repeats_the_key_does_not_bring_it_into_the_failure(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORER_KEY", "planted-secret")
    config = HttpConfig(url=f"{address}/repeats", api_key_env="SCORER_KEY", deadline_s=HANGS_S)
    ((failure,),) = HttpReward(config).score([Item("p", ("a",))])
    assert isinstance(failure, RewardFailure)
    assert failure.message == "HTTP 401: bad key: Bearer ***"


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        (scores,) = score(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert [failure.kind for failure in scores if isinstance(failure, RewardFailure)] == ["unreachable"] * 2
