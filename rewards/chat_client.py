"""A client of chat models behind OpenAI-compatible endpoints: judges and teachers ask through it.

Given messages and sampling; gives replies, or one typed `ChatFailure`. Endpoints take turns, each at its own pace;
passing trouble is tried again, what every question would meet (a refused key) ends the job. Replies are kept on disk,
each as soon as it is there; tokens and cost are counted, and no call is made that could break `max_cost`.

    async with ChatClient(config, "teacher") as client:
        replies = await client.ask([{"role": "user", "content": "…"}], temperature=0.7, top_p=1.0, max_tokens=100)
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raylign.rewards.chat_cache import ChatCache, ChatRequest, Message
from raylign.rewards.chat_config import ChatConfig
from raylign.rewards.chat_endpoint import NO_KEY, OpenEndpoint, api_key_of, cost_nothing, is_transient, texts_of
from raylign.rewards.chat_reply import ChatFailure, Reply, UnreadableReply
from raylign.rewards.chat_transport import RedirectRefused, bounded_client
from raylign.rewards.chat_usage import Usage, UsageMeter
from raylign.rewards.judge.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import tenacity

BYTES_PER_TOKEN = 3
"""A low estimate, so that token limits are rather kept than met."""
MESSAGE_TOKENS = 16
"""More than any template puts around a message."""
MAX_CHARACTERS = 500
"""Of a service's words."""
PERMANENT_ERRORS = (401, 403, 404)
"""Statuses that every other question would meet as well: no key, no right, no such model."""
Accept = Callable[[str], object]


class ChatClient:
    """For one event loop, between `async with` and its end."""

    def __init__(self, config: ChatConfig, name: str, usage_path: Path | None = None) -> None:
        """`name`: section of the config, for messages. `usage_path`: file of calls, so that `max_cost` holds over
        resumes."""
        self._config = config
        self._name = name
        self._cache = ChatCache(config.cache)
        self._keys = [api_key_of(endpoint, name) for endpoint in config.endpoints]
        self._endpoints: Iterator[OpenEndpoint] = iter(())
        self.meter = UsageMeter(config, name, usage_path)

    async def __aenter__(self) -> Self:
        import openai

        self._stack = AsyncExitStack()
        self._gate = asyncio.Semaphore(self._config.max_concurrent)
        opened = [
            OpenEndpoint(
                await self._stack.enter_async_context(
                    openai.AsyncOpenAI(
                        base_url=endpoint.url,
                        api_key=key,
                        timeout=self._config.deadline_s,
                        max_retries=0,
                        http_client=bounded_client(self._config.deadline_s),
                    )
                ),
                endpoint.model or self._config.model,
                RateLimiter(endpoint.requests_per_minute, endpoint.tokens_per_minute),
            )
            for endpoint, key in zip(self._config.endpoints, self._keys, strict=True)
        ]
        self._endpoints = itertools.cycle(opened)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ask(
        self,
        messages: Sequence[Message],
        num_replies: int = 1,
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_tokens: int = 1000,
        accept: Accept | None = None,
        sample: str | int | None = None,
        stage: str = "",
    ) -> list[Reply] | ChatFailure:
        """`accept` raises `UnreadableReply` for a text that is not what was asked for. `sample` tells equal questions
        apart that want replies of their own. `stage`: what the usage is counted under."""
        request = ChatRequest(self._config.model, messages, temperature, top_p, max_tokens, num_replies, sample)
        async with self._gate:
            replies: dict[int, Reply] = {}
            for index in range(num_replies):
                if (text := self._cache.find(request, index, accept)) is not None:
                    replies[index] = Reply(text, from_cache=True)
            if len(replies) < num_replies and (failure := await self._fill(request, replies, accept, stage)):
                return failure
            return [replies[index] for index in range(num_replies)]

    async def _fill(
        self, request: ChatRequest, replies: dict[int, Reply], accept: Accept | None, stage: str
    ) -> ChatFailure | None:
        """Ask for what is missing, several times if need be; gives what the last try met."""
        import openai
        import tenacity

        config = self._config
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(config.num_attempts),
            wait=self._pause_s,
            retry=tenacity.retry_if_exception(is_transient),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._ask_missing(request, replies, accept, stage, next(self._endpoints))
        except RedirectRefused as error:
            raise ValueError(f"{self._name}: {error} ({self._name}.endpoints)") from None
        except UnreadableReply as error:
            return ChatFailure("unreadable", str(error))
        except (TimeoutError, openai.APITimeoutError):
            return ChatFailure("timeout", f"no reply within {config.deadline_s:g} s ({self._name}.deadline_s)")
        except openai.RateLimitError as error:
            return ChatFailure(
                "rate_limited", self._told(f"HTTP 429 at the last of {config.num_attempts} tries: {error}")
            )
        except openai.APIStatusError as error:
            status = error.response.status_code
            message = self._told(error.message)
            if status in PERMANENT_ERRORS:
                raise ValueError(
                    f"the {self._name} {config.model!r} at {error.request.url} refuses with HTTP {status}: "
                    f"{message}; check {self._name}.endpoints (url, model, api_key_env)"
                ) from None
            return ChatFailure("unreachable" if status >= 500 else "refused", f"HTTP {status}: {message}")
        except openai.APIConnectionError as error:
            return ChatFailure("unreachable", f"{error}: {error.__cause__!r}")
        return None

    def _told(self, message: str) -> str:
        """What a service says, without the key that it may repeat, and not all of a long page."""
        for key in self._keys:
            message = message.replace(key, "***") if key != NO_KEY else message
        return message[:MAX_CHARACTERS]

    async def _ask_missing(
        self,
        request: ChatRequest,
        replies: dict[int, Reply],
        accept: Accept | None,
        stage: str,
        endpoint: OpenEndpoint,
    ) -> None:
        """One try: one call where the endpoint gives several replies at once, else one for each."""
        import openai

        unreadable: UnreadableReply | None = None
        missing = [index for index in range(request.num_replies) if index not in replies]
        while missing:
            at_once = len(missing) if endpoint.gives_several else 1
            try:
                texts = await self._call(request, at_once, stage, endpoint)
            except openai.BadRequestError:
                if at_once == 1:
                    raise
                endpoint.gives_several = False
                continue
            if len(texts) < at_once:
                endpoint.gives_several = False
            for index, text in zip(missing, texts, strict=False):
                try:
                    if accept is not None:
                        accept(text)
                except UnreadableReply as error:
                    unreadable = error
                    continue
                replies[index] = Reply(text, from_cache=False)
                self._cache.keep(request, index, text)
            missing = missing[len(texts) :]
        if unreadable is not None:
            raise unreadable

    async def _call(self, request: ChatRequest, num_replies: int, stage: str, endpoint: OpenEndpoint) -> list[str]:
        """One call, paid for."""
        config = self._config
        num_bytes = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages)
        most_tokens = num_bytes + MESSAGE_TOKENS * (1 + len(request.messages)), num_replies * request.max_tokens
        at_most = self.meter.cost_of(*most_tokens)
        await endpoint.rate_limiter.acquire(num_bytes // BYTES_PER_TOKEN + most_tokens[1])
        await self.meter.reserve(at_most)
        unknown = Usage(num_calls=1, cost=at_most)
        usage: Usage | None = unknown  # a call that is broken off may be billed
        try:
            async with asyncio.timeout(config.deadline_s):
                completion = await endpoint.create(request, num_replies)
            usage = self._usage(completion) or unknown
            return texts_of(completion)
        except json.JSONDecodeError as error:
            raise UnreadableReply(f"not JSON, though it says so: {error}") from error
        except Exception as error:
            if cost_nothing(error):
                usage = None
            raise
        finally:
            self.meter.settle(at_most, usage, stage)

    def _usage(self, completion: Any) -> Usage | None:
        try:
            usage = completion.usage
            prompt_tokens, completion_tokens = int(usage.prompt_tokens), int(usage.completion_tokens)
        except (AttributeError, TypeError, ValueError):
            return None
        details = getattr(usage, "prompt_tokens_details", None)
        cached_tokens = int(getattr(details, "cached_tokens", None) or 0)
        cost = self.meter.cost_of(prompt_tokens, completion_tokens)
        return Usage(1, prompt_tokens, completion_tokens, cached_tokens, cost)

    def _pause_s(self, state: tenacity.RetryCallState) -> float:
        """Twice as long each time, or what the service asks for."""
        backoff_s = 0.5 * 2 ** (state.attempt_number - 1)
        error = state.outcome.exception() if state.outcome else None
        headers = getattr(getattr(error, "response", None), "headers", {})
        try:
            wished_s = float(headers.get("retry-after", 0))
        except ValueError:  # a date
            wished_s = 0.0
        return min(max(backoff_s, wished_s), self._config.longest_pause_s)
