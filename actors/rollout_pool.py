"""The rollout pool: the engines of a fleet and a reward server, seen as one thing that turns prompts into scored
groups.

Given prompts, gives scored groups as they finish: a group is scored while others are still being generated.

    collect ── submit ──▶ workers ── take (as they finish) ──▶ reward server ── scored ──▶ collect

`collect` waits for workers (each `take` has a deadline) and for the reward server; nobody waits for the slowest of a
batch but the caller who asks for all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from raylign.actors.fleet import Engine, Fleet
from raylign.actors.handles import kill
from raylign.actors.rollout_errors import RewardServerError, RolloutError
from raylign.actors.waiting import POLL_S, SIGN_OF_LIFE_S, cause_of, wait_for
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig

DEADLINE_KEY = "rollout.answer_deadline_s"
FORGET_DEADLINE_S = 30.0
ScoredQueue = asyncio.Queue[list[Group] | BaseException]


class RolloutPool:
    """Engines and their rewards behind `collect`. The reward server's handle is an actor's, or a `LocalHandle`."""

    def __init__(self, fleet: Fleet, reward_server: Any, deadline_s: float, scores_apart: bool = False) -> None:
        """`scores_apart`: rewards may take long, so each group is scored in a call of its own."""
        self.fleet = fleet
        self._scores_apart = scores_apart
        self.reward_server = reward_server
        self._deadline_s = deadline_s
        self._more_reward_servers: list[Any] = []

    async def sleep(self) -> None:
        """All engines give their GPU to the learner (colocated mode), and get no work before they hold weights."""
        for engine in self.fleet.serving:
            self.fleet.mark_stale(engine)
        await self.fleet.call_all("sleep", self._deadline_s, DEADLINE_KEY)

    async def wake(self) -> None:
        """They take it back, and need weights."""
        await self.fleet.call_all("wake", self._deadline_s, DEADLINE_KEY)

    async def forget(self) -> None:
        """Engines give up all that they do, and get no work before they hold weights; who cannot is replaced."""
        engines = self.fleet.engines
        for engine in engines:
            self.fleet.mark_stale(engine)
        waits = (wait_for(e.handle.forget.remote(), f"rollout worker {e.number}", FORGET_DEADLINE_S) for e in engines)
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        for engine, outcome in zip(engines, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                self.fleet.mark_lost(engine, f"rollout worker {engine.number} did not give up its groups: {outcome}")

    async def connect(self, engine: Engine, log: Any) -> None:
        """From now on what `generate_for_log` of this engine's worker finishes is scored and goes to `log`."""
        await engine.handle.connect.remote(self.reward_server, log, self._deadline_s, self._scores_apart)

    def with_rewards(self, reward_server: Any, scores_apart: bool = False) -> RolloutPool:
        """The same engines, scored by another reward server (evaluation); `stop` of this pool ends it too."""
        self._more_reward_servers.append(reward_server)
        return RolloutPool(self.fleet, reward_server, self._deadline_s, scores_apart)

    async def collect_all(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool = False
    ) -> list[Group]:
        """All groups, in the order of the prompts."""
        groups = [group async for group in self.collect(prompts, sampling, ordered)]
        return sorted(groups, key=lambda group: group.prompt.ordinal)

    async def collect(
        self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool = False
    ) -> AsyncIterator[Group]:
        """Scored groups as they finish."""
        self.fleet.raise_if_failed()
        engines = await self.fleet.until_serving(self._deadline_s, DEADLINE_KEY)
        shares = [list(prompts[index :: len(engines)]) for index in range(len(engines))]
        scored: ScoredQueue = asyncio.Queue()
        streams = [
            asyncio.create_task(self._drain(engine, share, sampling, ordered, scored))
            for engine, share in zip(engines, shares, strict=True)
            if share
        ]
        for stream in streams:
            stream.add_done_callback(partial(report_error, scored))
        try:
            left = len(prompts)
            while left:
                what = f"{left} of {len(prompts)} groups"
                batch = await wait_for(scored.get(), what, self._deadline_s, setting=DEADLINE_KEY, error=RolloutError)
                if isinstance(batch, BaseException):
                    raise batch
                left -= len(batch)
                for group in batch:
                    yield group
        finally:
            for stream in streams:
                stream.cancel()

    async def _drain(
        self, engine: Engine, share: list[Prompt], sampling: SamplingConfig, ordered: bool, scored: ScoredQueue
    ) -> None:
        """Submit one engine's share and score what comes back until all of it has."""
        name, left = f"rollout worker {engine.number}", len(share)
        last_words: list[str] = []
        scoring: list[asyncio.Task[None]] = []
        try:
            await engine.handle.submit.remote(share, sampling, ordered)
            while left:
                groups = await wait_for(engine.handle.take.remote(POLL_S), name, SIGN_OF_LIFE_S)
                last_words += [group.failures[0].message for group in groups if not group.completions]
                if len(last_words) == len(share):
                    raise RolloutError(
                        f"its engine completed none of {len(share)} prompts; last words: {last_words[-1]}"
                    )
                if groups:
                    left -= len(groups)
                    for batch in [[group] for group in groups] if self._scores_apart else [groups]:
                        scoring.append(asyncio.create_task(self._score_into(scored, batch)))
            await asyncio.gather(*scoring)
        except RewardServerError:
            raise
        except Exception as error:
            raise RolloutError(f"{name} failed with {left} groups outstanding: {cause_of(error)}") from error
        finally:
            for task in scoring:
                task.cancel()
        if last_words:
            print(f"{name}: no completions for {len(last_words)} prompts: {last_words[-1]}", flush=True)

    async def _score_into(self, scored: ScoredQueue, groups: list[Group]) -> None:
        scored.put_nowait(await self._score(groups))

    async def _score(self, groups: list[Group]) -> list[Group]:
        complete = [group for group in groups if group.completions]
        failed = [group for group in groups if not group.completions]
        try:
            scored: list[Group] = await self.reward_server.score.remote(complete)
        except Exception as error:
            words = f"the reward server failed on {len(complete)} groups: {cause_of(error)}"
            raise RewardServerError(words) from error
        return failed + scored

    async def stop(self, deadline_s: float = 15.0) -> None:
        """End engines and rewards in order, then their actors; kill what does not answer."""
        reward_servers = [self.reward_server, *self._more_reward_servers]
        closing = asyncio.gather(*(server.close.remote() for server in reward_servers), return_exceptions=True)
        await asyncio.gather(self.fleet.stop(deadline_s), asyncio.wait({closing}, timeout=deadline_s))
        for server in reward_servers:
            kill(server)


def report_error(scored: ScoredQueue, stream: asyncio.Task[None]) -> None:
    """What a stream ended with, to whoever waits for its groups."""
    error = None if stream.cancelled() else stream.exception()
    if error is not None:
        scored.put_nowait(error)
