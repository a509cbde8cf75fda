"""A small server that speaks the chat-completion protocol, for tests of the judge.

Given requests whose answers say `worth=<number>`; gives these numbers as scores. `task=<word>` in the prompt says what
goes wrong; without it nothing does.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.patience import wait_until


class Handler(BaseHTTPRequestHandler):
    """One request."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012
    at_once = most_at_once = 0
    lock = threading.Lock()
    go_on = threading.Event()
    """What is slow waits for it."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"]
        with Handler.lock:
            Handler.asked.append(body | {"key": self.headers["Authorization"]})
            number = sum(other["messages"][0]["content"] == text for other in Handler.asked)
            Handler.at_once += 1
            Handler.most_at_once = max(Handler.most_at_once, Handler.at_once)
        task = found[1] if (found := re.search(r"task=(\w+)", text)) else ""
        scores = re.findall(r"worth=(\d+)", text)
        status, reply = 200, f"The first is fine. [[{scores[0]}, {scores[1]}]]"
        if task == "nonsense" or (task == "nonsense_once" and number == 1):
            reply = "I cannot say [[good, bad]]."
        elif task == "slow":
            Handler.go_on.wait()
        elif task == "busy":
            wait_until(lambda: Handler.most_at_once >= 2, "second request at once")
            time.sleep(0.1)
        elif task == "limited" or (task == "limited_once" and number == 1):
            status = 429
        elif task == "broken":
            status = 503
        elif task == "unknown_key":
            status = 401
        elif task == "too_long":
            status = 400
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}]
        sent = b"<html>" if task == "html" else json.dumps(answer if status == 200 else {"error": {}}).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if task == "html" else "application/json")
            self.send_header("Content-Length", str(len(sent)))
            if status == 429:
                self.send_header("Retry-After", "0.2")
            self.end_headers()
            self.wfile.write(sent)
        except (BrokenPipeError, ConnectionResetError):
            pass
        with Handler.lock:
            Handler.at_once -= 1

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def judge_server() -> Iterator[str]:
    """Its address, up to and with /v1; `Handler.asked` holds what it was asked."""
    Handler.asked, Handler.at_once, Handler.most_at_once = [], 0, 0
    Handler.go_on.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    Handler.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()
