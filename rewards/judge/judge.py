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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raylign.rewards.chat_client import ChatClient
from raylign.rewards.chat_reply import ChatFailure
from raylign.rewards.judge.config import JudgeConfig
from raylign.rewards.judge.prompt import question, read_scores

JudgeFailure = ChatFailure


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


class Judge:
    """`compare` must not be called on the thread of a running event loop: it has one of its own."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._client = ChatClient(config.chat(), "judge")

    def compare(
        self, pairs: Sequence[AnswerPair], on_done: Callable[[int], None] | None = None
    ) -> list[Verdict | JudgeFailure]:
        """In the order of the pairs. `on_done(n)`: n pairs are done."""
        return asyncio.run(self._compare_all(pairs, on_done))

    async def _compare_all(
        self, pairs: Sequence[AnswerPair], on_done: Callable[[int], None] | None
    ) -> list[Verdict | JudgeFailure]:
        done = itertools.count(1)

        async def judged(pair: AnswerPair) -> Verdict | JudgeFailure:
            verdict = await self._verdict(pair)
            if on_done is not None:
                on_done(next(done))
            return verdict

        async with self._client:
            running = [asyncio.ensure_future(judged(pair)) for pair in pairs]
            try:
                return list(await asyncio.gather(*running))
            finally:
                for task in running:
                    task.cancel()

    async def _verdict(self, pair: AnswerPair) -> Verdict | JudgeFailure:
        config = self._config
        b_first = _random_bit(config.seed, pair)
        first, second = (pair.b, pair.a) if b_first else (pair.a, pair.b)
        text = question(config.template, pair.prompt, first, second)
        asked = await self._client.ask(
            [{"role": "user", "content": text}],
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=config.max_tokens,
            accept=read_scores,
        )
        if isinstance(asked, ChatFailure):
            return asked
        (reply,) = asked
        scores = read_scores(reply.text)
        score_a, score_b = reversed(scores) if b_first else scores
        return Verdict(score_a, score_b, b_first, reply.text, reply.from_cache)


def _random_bit(seed: int, pair: AnswerPair) -> bool:
    """Of the pair alone, so that neither its place nor a resume changes the order."""
    asked = json.dumps([seed, pair.prompt, pair.a, pair.b]).encode()
    return bool(hashlib.blake2b(asked, digest_size=1).digest()[0] & 1)
