"""A rollout worker: the Ray host of one engine.

Given prompts by `submit`, gives finished groups by `take`, a batch a call (an actor call costs 0.7 ms). Weight verbs
are passed on. `take` waits for the first finished group (a running request unblocks it) and never longer than its
deadline.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from raylign.rollout.engine import EngineConfig, VllmEngine, request_seed
from raylign.rollout.sample import Failure, Group, Prompt
from raylign.rollout.sampling import SamplingConfig

QUEUE_DEADLINE_S = 20.0


class RolloutWorker:
    """One engine behind `submit` and `take`."""

    def __init__(
        self,
        model_path: str,
        config: EngineConfig,
        weight_backend: str | None,
        weight_version: int,
        seed: int,
        engine_seed: int,
        cpu_cores: str,
        lora_rank: int = 0,
    ) -> None:
        if config.cpu_cores == "auto":
            config = config.model_copy(update={"cpu_cores": cpu_cores})
        self._seed = seed
        self._weight_version = weight_version
        self._engine = VllmEngine(
            model_path, config, weight_backend=weight_backend, seed=engine_seed, lora_rank=lora_rank
        )
        self._running: set[asyncio.Task[None]] = set()
        self._finished: list[Group] = []
        self._arrived = asyncio.Event()
        self._gather_s = 0.005

    async def start(self) -> int:
        """Load the model; gives this process's id, for reports."""
        await self._engine.start()
        await self._engine.commit_weight_version(self._weight_version)
        return os.getpid()

    async def submit(self, prompts: Sequence[Prompt], sampling: SamplingConfig, ordered: bool = False) -> None:
        """Start generating. `ordered` gives every completion its own seed, and freezes the engine while the batch is
        queued, so that its schedule is fixed."""
        if ordered:
            await self._engine.pause()
        for prompt in prompts:
            seed = request_seed(self._seed, prompt.ordinal) if ordered else None
            task = asyncio.create_task(self._generate(prompt, sampling, seed))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if ordered:
            num_completions = len(prompts) * sampling.num_completions
            if not await self._engine.wait_until_queued(num_completions, QUEUE_DEADLINE_S):
                print(
                    f"not all of {num_completions} completions were queued within {QUEUE_DEADLINE_S:.0f} s", flush=True
                )
            await asyncio.sleep(0.05)  # the last of them is on its way to the engine's process
            await self._engine.resume()

    async def _generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> None:
        try:
            group = await self._engine.generate(prompt, sampling, seed)
        except Exception as error:  # the prompt is reported as failed; the worker lives on
            failure = Failure("engine", "engine", f"{type(error).__name__}: {error}")
            group = Group(prompt, (), failures=(failure,))
        self._finished.append(group)
        self._arrived.set()

    async def take(self, deadline_s: float) -> list[Group]:
        """Finished groups, at least one; empty when none finished within the deadline."""
        try:
            await asyncio.wait_for(self._arrived.wait(), deadline_s)
        except TimeoutError:
            return []
        await asyncio.sleep(self._gather_s)  # neighbours finish in the same engine step: one call for all
        taken, self._finished = self._finished, []
        self._arrived.clear()
        return taken

    async def pause(self) -> None:
        await self._engine.pause()

    async def resume(self) -> None:
        await self._engine.resume()

    async def check_weights(self, buckets: Sequence[dict[str, Any]]) -> None:
        await self._engine.check_weights(buckets)

    async def load_weights(self, buckets: Sequence[dict[str, Any]]) -> str | None:
        return await self._engine.load_weights(buckets)

    async def abort_weight_update(self, reason: str) -> None:
        await self._engine.abort_weight_update(reason)

    async def commit_weights(self, version: int, recompute_kv: bool) -> None:
        await self._engine.commit_weights(version, recompute_kv)

    async def weight_checksum(self) -> str:
        return await self._engine.weight_checksum()

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        await self._engine.init_weight_transfer(init_info)

    async def start_weight_update(self) -> None:
        await self._engine.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        await self._engine.update_weights(update_info)

    async def finish_weight_update(self) -> None:
        await self._engine.finish_weight_update()

    async def stop(self) -> None:
        """End the engine's processes."""
        for task in self._running:
            task.cancel()
        await self._engine.stop()
