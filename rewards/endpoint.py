"""The `http` reward: a scoring service behind an HTTP address.

Given a group, POSTs `{"prompt": …, "completions": […], "references": […]}` and reads `{"scores": […]}`, one number
for each completion. Refused connections, 429 and 5xx are tried again; the deadline covers all tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from raylign.rewards.addresses import check_address, key_from
from raylign.rewards.base import Item, Reward, RewardFailure, Score, WeightedConfig, typed_scores

if TYPE_CHECKING:
    import httpx


MAX_REPLY_BYTES = 1 << 20
MAX_CHARACTERS = 400
"""Of a failure's words."""


class ReplyError(Exception):
    """An answer that is not read to its end."""


class HttpConfig(WeightedConfig):
    """A scoring service."""

    name: Literal["http"] = "http"
    """Which reward."""
    url: Annotated[str, AfterValidator(check_address)]
    """Address that takes the POST."""
    api_key_env: str | None = None
    """Environment variable that holds a key, sent as `Authorization: Bearer …`; empty: none is sent."""
    deadline_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    """Time for one group, all tries together."""
    num_attempts: int = Field(3, ge=1)
    """Tries before a group counts as failed."""
    max_concurrent: int = Field(16, ge=1)
    """Groups under way at once."""


class HttpReward(Reward):
    """Must not be called on the thread of a running event loop: it would block that loop."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self.max_in_flight = config.max_concurrent
        self._key = None if config.api_key_env is None else key_from(config.api_key_env, "reward http")
        self._headers = {"Accept-Encoding": "identity"}
        if self._key is not None:
            self._headers["Authorization"] = f"Bearer {self._key}"

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        import asyncio

        return asyncio.run(self._score_all(items))

    async def _score_all(self, items: Sequence[Item]) -> list[list[Score]]:
        import asyncio

        import httpx

        gate = asyncio.Semaphore(self._config.max_concurrent)
        async with httpx.AsyncClient(timeout=self._config.deadline_s, headers=self._headers) as client:

            async def score_item(item: Item) -> list[Score]:
                async with gate:
                    return await self._score_group(client, item)

            return list(await asyncio.gather(*map(score_item, items)))

    async def _score_group(self, client: httpx.AsyncClient, item: Item) -> list[Score]:
        import asyncio

        import httpx

        try:
            async with asyncio.timeout(self._config.deadline_s):
                return typed_scores(await self._post(client, item), len(item.completions))
        except (TimeoutError, httpx.TimeoutException):
            failure = RewardFailure("timeout", f"no answer within {self._config.deadline_s:g} s (deadline_s)")
        except httpx.HTTPStatusError as error:
            failure = RewardFailure("unreachable" if _is_transient(error) else "exception", str(error))
        except ReplyError as error:
            failure = RewardFailure("reply", f"the answer {error}")
        except httpx.TransportError as error:
            failure = RewardFailure("unreachable", f"{self._config.url}: {type(error).__name__}: {error}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            failure = RewardFailure("exception", f'the answer is no {{"scores": […]}}: {error!r}'[:MAX_CHARACTERS])
        return [self._without_key(failure)] * len(item.completions)

    def _without_key(self, failure: RewardFailure) -> RewardFailure:
        """A service may repeat the key that it refuses, and failures are written to files."""
        return failure if self._key is None else replace(failure, message=failure.message.replace(self._key, "***"))

    async def _post(self, client: httpx.AsyncClient, item: Item) -> object:
        import json

        import tenacity

        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._config.num_attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )
        body = {"prompt": item.prompt, "completions": item.completions, "references": item.references}
        async for attempt in attempts:
            with attempt:
                answer = await self._read(client, body)
        return json.loads(answer)["scores"]

    async def _read(self, client: httpx.AsyncClient, body: Mapping[str, object]) -> bytes:
        """Of at most `MAX_REPLY_BYTES`, cut off while it is read; what is packed could be any size unpacked."""
        import httpx

        async with client.stream("POST", self._config.url, json=body) as response:
            if (packed := response.headers.get("content-encoding", "identity")) != "identity":
                raise ReplyError(f"is packed ({packed[:40]}), which was not asked for")
            chunks, num_bytes = [], 0
            async for chunk in response.aiter_raw():
                num_bytes += len(chunk)
                if num_bytes > MAX_REPLY_BYTES:
                    raise ReplyError(f"is larger than {MAX_REPLY_BYTES:,} bytes")
                chunks.append(chunk)
            answer = b"".join(chunks)
            if not response.is_success:
                text = f"HTTP {response.status_code}: {answer[:200].decode(errors='replace')}"
                raise httpx.HTTPStatusError(text, request=response.request, response=response)
            return answer


def _is_transient(error: BaseException) -> bool:
    """Whether another try may help."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)
