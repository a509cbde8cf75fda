"""A hub of models on loopback: it makes repositories and takes commits, small files in them and large ones beside.

Given the one token that it knows; gives its address while the block runs, and what was uploaded. It answers as the
client of `huggingface_hub` expects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = ".safetensors"


@dataclass
class FakeHub:
    """`files` by repository and name."""

    token: str
    address: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    """By repository that was made."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """By their sha256."""
    breaks_at_commit: bool = False


@contextmanager
def fake_hub(token: str) -> Iterator[FakeHub]:
    """Serves until the block ends."""
    hub = FakeHub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            body = self._body()
            hub.large[hashlib.sha256(body).hexdigest()] = body
            self._answer({})

        def do_POST(self) -> None:
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._answer({"error": "Invalid user token."}, 401)
                return
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                modes = [self._mode(each["path"]) for each in json.loads(body)["files"]]
                self._answer({"files": modes})
            elif path.endswith("/objects/batch"):
                self._answer({"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]})
            elif "/commit/" in path:
                self._commit("/".join(path.split("/")[3:5]), body)
            else:
                self._answer({"error": f"no {path}"}, 404)

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if name.startswith("stranger/"):
                self._answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
                return
            hub.private[name] = bool(asked.get("private", asked.get("visibility") == "private"))
            hub.files.setdefault(name, {})
            self._answer({"url": f"{hub.address}/{name}", "name": name, "id": "1"})

        def _mode(self, name: str) -> dict[str, Any]:
            return {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}

        def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
            return asked | {"actions": {"upload": {"href": f"{hub.address}/large/{asked['oid']}", "header": {}}}}

        def _commit(self, name: str, body: bytes) -> None:
            if hub.breaks_at_commit:
                self.close_connection = True
                return
            for line in map(json.loads, filter(None, body.split(b"\n"))):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[name][value["path"]] = hub.large[value["oid"]]
            url = f"{hub.address}/{name}/commit/abc"
            self._answer({"success": True, "commitUrl": url, "commitOid": "abc", "hookOutput": ""})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, values: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
