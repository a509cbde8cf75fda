"""Scripted engines: valid groups as fast as Python can hand them over, many engines in one process.

Given a number of engines and of host processes; gives worker handles for a `RolloutPool`. Everything but the model is
real: `RolloutWorker`, the way to the rewards and to the log, weight updates from real buckets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raylign.actors.rollout_worker import RolloutWorker
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig

NUM_SCRIPTS = 64
"""Different answers; their arrays are made once."""


def smallest_model(folder: Path, data: Mapping[str, Any]) -> Path:
    """A few thousand parameters, whose tokenizer knows this data: a learner that costs nothing."""
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.rollout.data.config import DataConfig

    shape = {"num_layers": 1, "width": 32, "num_heads": 1, "num_kv_heads": 1, "mlp_width": 32}
    return init_model(InitModelConfig(output=folder, data=DataConfig(**data), **shape))


class ScriptedEngine(FakeEngine):
    """Answers at once, from answers made beforehand. The texts are digits, so that rule rewards differ."""

    def __init__(self, answer_tokens: int, group_s: float = 0.0) -> None:
        """`group_s`: time that a group takes, as an engine's decoding would."""
        super().__init__(lambda prompt, seed: "")
        random = np.random.default_rng(0)
        self._group_s = group_s
        self._scripts = [
            (
                random.integers(3, 250, answer_tokens).astype(np.int32),
                -random.exponential(1.0, answer_tokens).astype(np.float32),
                str(script % 10),
            )
            for script in range(NUM_SCRIPTS)
        ]

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        started_at = time.perf_counter()
        await asyncio.sleep(self._group_s)
        await self._going.wait()
        completions = []
        for number in range(sampling.num_completions):
            tokens, logps, text = self._scripts[(prompt.ordinal * 7 + number) % NUM_SCRIPTS]
            spans = (VersionSpan(self.version, 0, len(tokens)),)
            completions.append(Completion(tokens, logps, spans, "stop", text))
        return Group(prompt, tuple(completions), timings_s={"generate": time.perf_counter() - started_at})


class EngineHost:
    """Several workers, each around a scripted engine, in one process."""

    def __init__(self, num_engines: int, answer_tokens: int, group_s: float, engine: type[ScriptedEngine]) -> None:
        self._workers = [RolloutWorker.around(engine(answer_tokens, group_s)) for _ in range(num_engines)]

    async def call(self, engine: int, verb: str, *arguments: Any) -> Any:
        """`await worker.verb(*arguments)`."""
        return await getattr(self._workers[engine], verb)(*arguments)


class EngineHandle:
    """One worker of a host, addressed like an actor of its own: `handle.verb.remote(…)`."""

    def __init__(self, host: Any, engine: int) -> None:
        self._host, self._engine = host, engine

    def __getattr__(self, verb: str) -> _Verb:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return _Verb(self._host, self._engine, verb)


class _Verb:
    def __init__(self, host: Any, engine: int, verb: str) -> None:
        self._host, self._engine, self._verb = host, engine, verb

    def remote(self, *arguments: Any) -> Any:
        return self._host.call.remote(self._engine, self._verb, *arguments)


class ScriptedPool:
    """Makes a `RolloutPool` of scripted engines, and ends it: its handles are no actors that the pool could kill."""

    def __init__(
        self,
        num_engines: int,
        num_hosts: int,
        answer_tokens: int,
        group_s: float = 0.0,
        engine: type[ScriptedEngine] = ScriptedEngine,
    ) -> None:
        import ray

        shares = [len(range(host, num_engines, num_hosts)) for host in range(min(num_hosts, num_engines))]
        self.hosts = [
            ray.remote(EngineHost)
            .options(num_cpus=0, max_concurrency=1000)
            .remote(share, answer_tokens, group_s, engine)
            for share in shares
        ]
        self.handles = [
            EngineHandle(host, engine)
            for host, share in zip(self.hosts, shares, strict=True)
            for engine in range(share)
        ]
        self.reward_server: Any = None

    async def open(self, rewards: list[Any]) -> Any:
        """The pool, ready."""
        from raylign.actors.fleet import Fleet
        from raylign.actors.rollout_pool import RolloutPool
        from raylign.jobs.run.roles import start_reward_server

        await asyncio.gather(*(handle.start.remote() for handle in self.handles))
        self.reward_server = await start_reward_server(rewards)
        pool: Any = RolloutPool(Fleet(self.handles), self.reward_server, deadline_s=120.0)
        pool.stop = self.stop
        return pool

    async def stop(self, deadline_s: float = 15.0) -> None:
        """End workers, rewards and their actors."""
        import ray

        calls = [handle.stop.remote() for handle in self.handles] + [self.reward_server.close.remote()]
        await asyncio.wait({asyncio.gather(*calls, return_exceptions=True)}, timeout=deadline_s)
        for actor in [*self.hosts, self.reward_server]:
            ray.kill(actor)
