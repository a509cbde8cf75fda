"""A server of the chat-completion protocol whose replies a test writes: what it was asked is counted.

Given a function from the request's body to a `Scripted` answer; gives its address while the block runs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Scripted:
    """One answer of the server."""

    texts: list[str] = field(default_factory=list)
    status: int = 200
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens."""
    body: bytes | None = None
    """In place of a chat completion."""
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return b'{"error": {}}'
        answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer["choices"] = [
            {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for index, text in enumerate(self.texts)
        ]
        if self.usage is not None:
            prompt_tokens, completion_tokens = self.usage
            answer["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
            answer["usage"] |= {"prompt_tokens_details": {"cached_tokens": prompt_tokens // 2}}
        return json.dumps(answer).encode()


class ChatServer:
    """`asked`: bodies with the key, in the order of arrival."""

    def __init__(self, answer: Callable[[dict[str, Any]], Scripted]) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.address = ""


@contextmanager
def chat_server(answer: Callable[[dict[str, Any]], Scripted], port: int = 0) -> Iterator[ChatServer]:
    """Serves at `address`, up to and with /v1. Port 0: any that is free."""
    script = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.asked.append(body | {"key": self.headers["Authorization"]})
            answer = script.answer(body)
            content = answer.content()
            try:
                self.send_response(answer.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | answer.headers
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    script.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
