"""The `http` reward against a real small server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raylign.rewards.base import Item, RewardFailure, Score
from raylign.rewards.endpoint import HttpConfig, HttpReward
from tests.patience import HANGS_S


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
        elif task == "slow":
            Handler.go_on.wait()
        answer = b"<html>" if task == "html" else json.dumps({"scores": scores}).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except BrokenPipeError:
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
    ],
)
def test_service_that_goes_wrong_is_a_typed_failure(address: str, task: str, kind: str, message: str) -> None:
    (scores,) = score(f"{address}/{task}", deadline_s=2 if task == "slow" else HANGS_S)
    for failure in scores:
        assert isinstance(failure, RewardFailure) and failure.kind == kind and message in failure.message
    assert Handler.num_requests == (3 if task == "broken" else 1)


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        (scores,) = score(f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert [failure.kind for failure in scores if isinstance(failure, RewardFailure)] == ["unreachable"] * 2
