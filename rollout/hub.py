"""Telling paths from Hugging Face names, and whether the hub answers.

Given what a user wrote; gives decisions in seconds, where the hub's own client would retry for a minute.
"""

from __future__ import annotations

import difflib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path

CONNECT_DEADLINE_S = 5.0


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a local path: `./x`, `/x`, `~/x`, `a/b/c`, or below a folder that exists."""
    if name.startswith(("/", "./", "../", "~", ".\\")) or name.count("/") > 1 or name.endswith("/"):
        return True
    return "/" in name and Path(name.split("/")[0]).is_dir()


def hub_is_reachable() -> bool:
    """Whether a connection to the Hugging Face hub opens within a few seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if endpoint.scheme in (proxies := urllib.request.getproxies()) or "all" in proxies:
        return True  # The proxy resolves names; only a real request would tell.
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=CONNECT_DEADLINE_S).close()
    except OSError:
        return False
    return True


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
