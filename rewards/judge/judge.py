"""A judge: a language model behind an OpenAI-compatible endpoint that says which of two answers is better.

Given pairs of answers to one prompt; gives for each a `Verdict`, or a `JudgeFailure` when the reply cannot be read, the
judge does not answer in time, or its rate limit outlasts the tries. A failure is no tie: it is counted apart.

Which answer is shown first is drawn by the seed and the pair itself. Replies are cached on disk, by model, question
(with both answers, in their order) and sampling, so that a broken-off comparison costs nothing twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raylign.rewards.judge.cache import JudgeCache
from raylign.rewards.judge.config import JudgeConfig, JudgeEndpoint
from raylign.rewards.judge.prompt import UnreadableReply, question, read_scores
from raylign.rewards.judge.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import openai
    import tenacity

JudgeFailureKind = Literal["timeout", "unreachable", "rate_limited", "unreadable", "refused"]
BYTES_PER_TOKEN = 3
"""A low estimate, so that token limits are rather kept than met."""
NO_KEY = "none"
PERMANENT_ERRORS = (401, 403, 404)
"""Statuses that every other pair would meet as well: no key, no right, no such model."""


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to one prompt."""

    prompt: str
    a: str
    b: str


@dataclass(frozen=True)
class Verdict:
    """What the judge said of one pair."""

    score_a: float
    score_b: float
    b_was_first: bool
    reply: str
    from_cache: bool


@dataclass(frozen=True)
class JudgeFailure:
    """Why a pair has no verdict."""

    kind: JudgeFailureKind
    message: str


class Judge:
    """`compare` must not be called on the thread of a running event loop: it has one of its own."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._cache = JudgeCache(config)
        self._keys = [_api_key(endpoint) for endpoint in config.endpoints]

    def compare(
        self, pairs: Sequence[AnswerPair], on_done: Callable[[int], None] | None = None
    ) -> list[Verdict | JudgeFailure]:
        """In the order of the pairs. `on_done(n)`: n pairs are done."""
        return asyncio.run(self._compare_all(pairs, on_done))

    async def _compare_all(
        self, pairs: Sequence[AnswerPair], on_done: Callable[[int], None] | None
    ) -> list[Verdict | JudgeFailure]:
        import openai

        gate = asyncio.Semaphore(self._config.max_concurrent)
        done = itertools.count(1)
        async with AsyncExitStack() as stack:
            open_endpoints = [
                _OpenEndpoint(
                    await stack.enter_async_context(
                        openai.AsyncOpenAI(
                            base_url=endpoint.url, api_key=key, timeout=self._config.deadline_s, max_retries=0
                        )
                    ),
                    endpoint.model or self._config.model,
                    RateLimiter(endpoint.requests_per_minute, endpoint.tokens_per_minute),
                )
                for endpoint, key in zip(self._config.endpoints, self._keys, strict=True)
            ]
            endpoints = itertools.cycle(open_endpoints)

            async def judged(pair: AnswerPair) -> Verdict | JudgeFailure:
                async with gate:
                    verdict = await self._verdict(pair, endpoints)
                if on_done is not None:
                    on_done(next(done))
                return verdict

            running = [asyncio.ensure_future(judged(pair)) for pair in pairs]
            try:
                return list(await asyncio.gather(*running))
            finally:
                for task in running:
                    task.cancel()

    async def _verdict(self, pair: AnswerPair, endpoints: itertools.cycle[_OpenEndpoint]) -> Verdict | JudgeFailure:
        b_first = _random_bit(self._config.seed, pair)
        first, second = (pair.b, pair.a) if b_first else (pair.a, pair.b)
        text = question(self._config.template, pair.prompt, first, second)
        reply = self._cache.find(text)
        from_cache = reply is not None
        if reply is None:
            asked = await self._ask(text, endpoints)
            if isinstance(asked, JudgeFailure):
                return asked
            reply = asked
            self._cache.keep(text, reply)
        scores = read_scores(reply)
        score_a, score_b = reversed(scores) if b_first else scores
        return Verdict(score_a, score_b, b_first, reply, from_cache)

    async def _ask(self, text: str, endpoints: itertools.cycle[_OpenEndpoint]) -> str | JudgeFailure:
        """A readable reply, or what the last try met."""
        import openai
        import tenacity

        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._config.num_attempts),
            wait=self._pause_s,
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    reply = await self._ask_once(text, next(endpoints))
            return reply
        except UnreadableReply as error:
            return JudgeFailure("unreadable", str(error))
        except (TimeoutError, openai.APITimeoutError):
            return JudgeFailure("timeout", f"no reply within {self._config.deadline_s:g} s (judge.deadline_s)")
        except openai.RateLimitError as error:
            return JudgeFailure("rate_limited", f"HTTP 429 at the last of {self._config.num_attempts} tries: {error}")
        except openai.APIStatusError as error:
            status = error.response.status_code
            if status in PERMANENT_ERRORS:
                raise ValueError(
                    f"the judge {self._config.model!r} at {error.request.url} refuses with HTTP {status}: "
                    f"{error.message}; check judge.endpoints (url, model, api_key_env)"
                ) from None
            return JudgeFailure("unreachable" if status >= 500 else "refused", f"HTTP {status}: {error.message}")
        except openai.APIConnectionError as error:
            return JudgeFailure("unreachable", f"{error}: {error.__cause__!r}")

    async def _ask_once(self, text: str, endpoint: _OpenEndpoint) -> str:
        config = self._config
        await endpoint.rate_limiter.acquire(len(text.encode()) // BYTES_PER_TOKEN + config.max_tokens)
        async with asyncio.timeout(config.deadline_s):
            completion = await endpoint.client.chat.completions.create(
                model=endpoint.model,
                messages=[{"role": "user", "content": text}],
                temperature=config.temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
            )
        try:
            reply = completion.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError) as error:  # a page of HTML, or JSON of another kind
            raise UnreadableReply(f"not a chat completion: {str(completion)[:200]!r}") from error
        read_scores(reply)
        return reply

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


@dataclass(frozen=True)
class _OpenEndpoint:
    """An endpoint in use."""

    client: openai.AsyncOpenAI
    model: str
    rate_limiter: RateLimiter


def _api_key(endpoint: JudgeEndpoint) -> str:
    if endpoint.api_key_env is None:
        return NO_KEY
    if key := os.environ.get(endpoint.api_key_env):
        return key
    raise ValueError(
        f"judge: the environment variable {endpoint.api_key_env} is not set; set it, or api_key_env: null where "
        f"{endpoint.url} needs no key"
    )


def _random_bit(seed: int, pair: AnswerPair) -> bool:
    """Of the pair alone, so that neither its place nor a resume changes the order."""
    asked = json.dumps([seed, pair.prompt, pair.a, pair.b]).encode()
    return bool(hashlib.blake2b(asked, digest_size=1).digest()[0] & 1)


def _is_transient(error: BaseException) -> bool:
    """Whether another try may help; a judge at a temperature may well speak clearly the next time."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, UnreadableReply | TimeoutError | openai.APIConnectionError)
