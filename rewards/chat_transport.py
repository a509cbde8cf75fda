"""What a chat client takes from the network: replies of bounded size, from the host that was asked.

Given an address; gives an HTTP client for openai's. A reply is cut off while it is read, not after, and a redirect to
another host is not followed: messages and key were meant for the first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raylign.rewards.chat_reply import UnreadableReply

if TYPE_CHECKING:
    import openai

MAX_REPLY_BYTES = 1 << 20


class RedirectRefused(ValueError):
    """The endpoint sends its clients to another host."""


def bounded_client(deadline_s: float) -> openai.DefaultAsyncHttpxClient:
    """An HTTP client whose replies are read by `_bound`."""
    import openai

    return openai.DefaultAsyncHttpxClient(
        timeout=deadline_s, headers={"Accept-Encoding": "identity"}, event_hooks={"response": [_bound]}
    )


async def _bound(response: Any) -> None:
    """Called when the headers are there and the body is not."""
    if response.has_redirect_location:
        asked = urlsplit(str(response.request.url))
        there = urlsplit(str(response.request.url.join(response.headers["location"])))
        if (asked.scheme, asked.hostname, asked.port) != (there.scheme, there.hostname, there.port):
            raise RedirectRefused(
                f"{asked.scheme}://{asked.netloc} redirects to {there.scheme}://{there.hostname}; redirects to other "
                "hosts are not followed: name the host that answers as the endpoint's url"
            )
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # a small reply may unpack to a huge one
        raise UnreadableReply(f"a reply packed as {encoding}, which was not asked for")
    response.stream = _bounded_stream(response.stream)


def _bounded_stream(stream: Any) -> Any:
    class Bounded(type(stream)):  # type: ignore[misc]  # the HTTP library tells streams apart by their class
        def __init__(self) -> None:
            pass

        async def __aiter__(self) -> AsyncIterator[bytes]:
            num_bytes = 0
            async for chunk in stream:
                num_bytes += len(chunk)
                if num_bytes > MAX_REPLY_BYTES:
                    raise UnreadableReply(f"a reply of more than {MAX_REPLY_BYTES} bytes")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()
