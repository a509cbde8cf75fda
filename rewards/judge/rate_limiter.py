"""Keeping to the rate limits of a service.

Given requests and tokens per minute; `acquire` returns when the next request may go. Requests are spread evenly: their
rate is at most min(RPM, TPM / tokens of a request), whatever the burst that asks.
"""

from __future__ import annotations

import asyncio
import time


class RateLimiter:
    """One for each endpoint; for one event loop."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """None: no limit."""
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._next_free = 0.0

    def interval_s(self, num_tokens: int) -> float:
        """From a request of so many tokens (prompt and longest reply) to the next."""
        minutes = 0.0
        if self._requests_per_minute is not None:
            minutes = 1 / self._requests_per_minute
        if self._tokens_per_minute is not None:
            minutes = max(minutes, num_tokens / self._tokens_per_minute)
        return 60 * minutes

    async def acquire(self, num_tokens: int) -> None:
        """Wait for this request's place in the queue: each caller unblocks by the clock alone."""
        now = time.monotonic()
        start = max(now, self._next_free)
        self._next_free = start + self.interval_s(num_tokens)
        await asyncio.sleep(start - now)
