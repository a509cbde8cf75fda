"""The rollout pool: several rollout workers and a reward server, seen as one thing that turns prompts into scored
groups.

Given prompts, gives scored groups as they finish: a group is scored while others are still being generated.

    collect ── submit ──▶ workers ── take (as they finish) ──▶ reward server ── scored ──▶ collect

`collect` waits for workers (each `take` has a deadline) and for the reward server; nobody waits for the slowest of a
batch but the caller who asks for all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig

T = TypeVar("T")
REPORT_S = 30.0


class RolloutError(RuntimeError):
    """A rollout worker or the reward server died or stopped answering."""


class RewardServerError(RolloutError):
    """It was the reward server."""


class RolloutPool:
    """Workers and reward servers behind `collect`. Handles are Ray actor handles, or anything with awaitable
    `verb.remote`."""

    def __init__(
        self,
        workers: Sequence[Any],
        reward_server: Any,
        deadline_s: float,
        placements: Sequence[Any] = (),
        start_worker: Callable[[int], Awaitable[Any]] | None = None,
    ) -> None:
        """`start_worker(number)` starts a new worker in the place of one that died."""
        self._workers: dict[int, Any] = dict(enumerate(workers))
        self._reward_server = reward_server
        self._deadline_s = deadline_s
        self._placements = placements
        self._start_worker = start_worker
        self._more_reward_servers: list[Any] = []

    @property
    def workers(self) -> list[Any]:
        """Handles, in the order of their numbers."""
        return list(self._workers.values())

    @property
    def numbers(self) -> list[int]:
        """The workers' numbers."""
        return list(self._workers)

    def worker(self, number: int) -> Any:
        """The handle of one worker."""
        return self._workers[number]

    async def replace(self, number: int) -> Any:
        """End a worker, dead or sick, and start another in its place; gives its handle. It holds the weights that the
        run began with: nothing may be routed to it before it has the current ones."""
        import ray

        if self._start_worker is None:
            raise RolloutError(f"rollout worker {number} is gone, and this pool cannot start another")
        ray.kill(self._workers[number])
        self._workers[number] = await self._start_worker(number)
        return self._workers[number]

    async def sleep(self) -> None:
        """All engines give their GPU to the learner (colocated mode)."""
        await self._on_all("sleep")

    async def wake(self) -> None:
        """They take it back, and need weights."""
        await self._on_all("wake")

    async def _on_all(self, verb: str) -> None:
        calls = [getattr(worker, verb).remote() for worker in self.workers]
        await self._patiently(asyncio.gather(*calls), f"engines to {verb}", self._deadline_s)

    async def connect(self, number: int, log: Any) -> None:
        """From now on what `generate_for_log` of this worker finishes is scored and goes to `log`."""
        await self._workers[number].connect.remote(self._reward_server, log, self._deadline_s)

    def with_rewards(self, reward_server: Any) -> RolloutPool:
        """The same workers, scored by another reward server (evaluation); `stop` of this pool ends it too."""
        self._more_reward_servers.append(reward_server)
        return RolloutPool(self.workers, reward_server, self._deadline_s)

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
        shares = [list(prompts[index :: len(self.workers)]) for index in range(len(self.workers))]
        streams = [
            asyncio.create_task(self._drain(worker, index, share, sampling, ordered))
            for index, (worker, share) in enumerate(zip(self.workers, shares, strict=True))
            if share
        ]
        scored: asyncio.Queue[list[Group] | BaseException] = asyncio.Queue()
        for stream in streams:
            stream.add_done_callback(lambda task: task.cancelled() or self._report_death(task, scored))
        self._scored = scored
        try:
            left = len(prompts)
            while left:
                batch = await self._patiently(scored.get(), f"{left} of {len(prompts)} groups", self._deadline_s)
                if isinstance(batch, BaseException):
                    raise batch
                left -= len(batch)
                for group in batch:
                    yield group
        finally:
            for stream in streams:
                stream.cancel()

    @staticmethod
    def _report_death(task: asyncio.Task[None], scored: asyncio.Queue[list[Group] | BaseException]) -> None:
        if (error := task.exception()) is not None:
            scored.put_nowait(error)

    async def _drain(
        self, worker: Any, index: int, share: list[Prompt], sampling: SamplingConfig, ordered: bool
    ) -> None:
        """Submit one worker's share and score what comes back until all of it has."""
        left = len(share)
        last_words: list[str] = []
        try:
            await worker.submit.remote(share, sampling, ordered)
            while left:
                groups = await worker.take.remote(REPORT_S)
                last_words += [group.failures[0].message for group in groups if not group.completions]
                if len(last_words) == len(share):
                    raise RolloutError(
                        f"its engine completed none of {len(share)} prompts; last words: {last_words[-1]}"
                    )
                if groups:
                    left -= len(groups)
                    await self._score(groups)
        except RewardServerError:
            raise
        except Exception as error:
            raise RolloutError(f"rollout worker {index} failed with {left} groups outstanding: {error}") from error
        if last_words:
            print(f"rollout worker {index}: no completions for {len(last_words)} prompts: {last_words[-1]}", flush=True)

    async def _score(self, groups: list[Group]) -> None:
        complete = [group for group in groups if group.completions]
        failed = [group for group in groups if not group.completions]
        try:
            scored = await self._reward_server.score.remote(complete)
        except Exception as error:
            raise RewardServerError(f"the reward server failed on {len(complete)} groups: {error}") from error
        self._scored.put_nowait(failed + scored)

    async def stop(self, deadline_s: float = 15.0) -> None:
        """End engines and rewards in order, then their actors; kill what does not answer."""
        import ray
        from ray.util.placement_group import remove_placement_group

        reward_servers = [self._reward_server, *self._more_reward_servers]
        stops = [worker.stop.remote() for worker in self.workers] + [server.close.remote() for server in reward_servers]
        await asyncio.wait({asyncio.gather(*stops, return_exceptions=True)}, timeout=deadline_s)
        for actor in [*self.workers, *reward_servers]:
            ray.kill(actor)
        for placement in self._placements:
            remove_placement_group(placement)

    @staticmethod
    async def _patiently(waiting: Awaitable[T], what: str, deadline_s: float) -> T:
        """Await with a deadline; a wait over 30 s says what it waits for."""
        task = asyncio.ensure_future(waiting)
        start = time.monotonic()
        while True:
            done, _ = await asyncio.wait({task}, timeout=min(REPORT_S, deadline_s))
            if done:
                return task.result()
            waited = time.monotonic() - start
            if waited >= deadline_s:
                task.cancel()
                raise RolloutError(f"waited {waited:.0f} s for {what}; nothing finished (rollout.answer_deadline_s)")
            print(f"waiting for {what} since {waited:.0f} s", flush=True)
