"""An endpoint of chat models in use: one call, what came back, and what an error of it means.

Given a request; gives a completion as the service answers it, its texts, and whether an error is worth another try or
was paid for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raylign.rewards.chat_cache import ChatRequest
from raylign.rewards.chat_config import ChatEndpoint
from raylign.rewards.chat_reply import UnreadableReply
from raylign.rewards.chat_transport import RedirectRefused
from raylign.rewards.judge.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import openai

NO_KEY = "none"


@dataclass
class OpenEndpoint:
    """An endpoint in use."""

    client: openai.AsyncOpenAI
    model: str
    rate_limiter: RateLimiter
    gives_several: bool = True
    """Whether it takes `n`: until it shows that it does not."""

    async def create(self, request: ChatRequest, num_replies: int) -> Any:
        # half a surrogate pair in a text that another model wrote is no UTF-8
        messages: Any = [
            {name: text.encode("utf-8", "replace").decode() for name, text in message.items()}
            for message in request.messages
        ]
        more: dict[str, Any] = {"n": num_replies} if num_replies > 1 else {}
        return await self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            **more,
        )


def texts_of(completion: Any) -> list[str]:
    """Its replies."""
    try:
        texts = [choice.message.content or "" for choice in completion.choices]
        texts[0]
        return texts
    except (AttributeError, IndexError, TypeError) as error:  # a page of HTML, or JSON of another kind
        raise UnreadableReply(f"not a chat completion: {str(completion)[:200]!r}") from error


def api_key_of(endpoint: ChatEndpoint, name: str) -> str:
    """From the environment. `name`: section of the config, for the message where there is none."""
    if endpoint.api_key_env is None:
        return NO_KEY
    if key := os.environ.get(endpoint.api_key_env):
        return key
    raise ValueError(
        f"{name}: the environment variable {endpoint.api_key_env} is not set; set it, or api_key_env: null where "
        f"{endpoint.url} needs no key"
    )


def cost_nothing(error: Exception) -> bool:
    """Errors of a service that did not answer the question; after a timeout nobody knows."""
    import openai

    refused = isinstance(error, openai.APIStatusError | RedirectRefused)
    return refused or (isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError))


def is_transient(error: BaseException) -> bool:
    """Whether another try may help; a model at a temperature may well speak clearly the next time."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, UnreadableReply | TimeoutError | openai.APIConnectionError)
