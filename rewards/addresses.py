"""Addresses of services, and the keys that go to them.

Given an address and the name of an environment variable; raises one ValueError where the address is none or holds a
secret itself, for what a config says is written to files, pages and trackers. Keys come from the environment.
"""

from __future__ import annotations

import os
import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

_SECRET_NAME = re.compile(r"key|token|secret|passw|signature|^sig$|^auth", re.IGNORECASE)
_USERINFO = re.compile(r"(\w{2,20}://)[^\s/?#@'\"<>]{1,500}@")
_QUERY_SECRET = re.compile(
    r"([?&][\w.-]{0,80}(?:key|token|secret|passw|signature)[\w.-]{0,80}=|[?&](?:sig|auth[\w.-]{0,80})=)[^\s&#'\"<>]+",
    re.IGNORECASE,
)
_ADVICE = "put the key into an environment variable and name that by api_key_env"


def check_address(url: str) -> str:
    """The address; the error never repeats the secret that it found."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("is no address of the form http://host:port/path or https://host/path")
    refuse_secrets(parts, _ADVICE)
    return url


def refuse_secrets(parts: SplitResult, advice: str) -> None:
    """Raise where an address of any scheme holds a secret itself; `advice`: where else it belongs."""
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"holds a name or password before the @, which would be written to config.yaml: {advice}")
    for name, _value in parse_qsl(parts.query, keep_blank_values=True):
        if _SECRET_NAME.search(name):
            raise ValueError(f"holds a secret in its query ({name}=…), which would be written to config.yaml: {advice}")


def without_secrets(text: str) -> str:
    """Any text with the names, passwords and keys masked that stand in the addresses in it."""
    return _QUERY_SECRET.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def is_at(url: str, host: str) -> bool:
    """Whether a request to `url` goes to this host and nobody on the way can read it."""
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname == host


def key_from(variable: str, what: str) -> str:
    """The key that the environment variable holds."""
    if key := os.environ.get(variable):
        return key
    raise ValueError(f"{what}: the environment variable {variable} is not set; set it, or api_key_env: null")
