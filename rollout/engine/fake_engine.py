"""A small deterministic engine for unit tests, with the verbs of `VllmEngine` and no model behind them.

Given a function that writes the answers, gives `Group`s; weights are real tensors read from real buckets, so that
weight updates can be tested whole. Tokens are the bytes of the answer, and `END_TOKEN`.

    engine = FakeEngine(lambda prompt, seed: prompt.references[0] if seed % 2 else "wrong")
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from raylign.rollout.sample import Completion, Failure, Group, Prompt, StopReason, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import BucketError, BucketInfo, check_buckets, read_bucket

if TYPE_CHECKING:
    import torch

END_TOKEN = 256


class FakeEngine:
    """Answers from a script, a token at a time."""

    def __init__(self, answer: Callable[[Prompt, int], str], token_s: float = 0.0) -> None:
        """`answer(prompt, seed)` writes a completion; `seed` is the request's seed plus the completion's number."""
        self._answer = answer
        self._token_s = token_s
        self._going = asyncio.Event()
        self._stopped = False
        self._update: list[BucketInfo] | None = None
        self._incoming: dict[str, torch.Tensor] = {}
        self._usable = True
        self.weights: dict[str, torch.Tensor] = {}
        self.version = 0

    async def start(self) -> None:
        self._going.set()

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        """All completions of one prompt."""
        started_at = time.perf_counter()
        seeds = [(seed or 0) + number for number in range(sampling.num_completions)]
        try:
            completions = await asyncio.gather(*(self._complete(prompt, sampling, seed) for seed in seeds))
        except RuntimeError as error:
            return Group(prompt, (), failures=(Failure("engine", "engine", str(error)),))
        return Group(prompt, tuple(completions), timings_s={"generate": time.perf_counter() - started_at})

    async def stream(self, prompt: Prompt, sampling: SamplingConfig) -> AsyncIterator[tuple[str, StopReason | None]]:
        """A character at a time."""
        text = self._answer(prompt, 0)
        for index, character in enumerate(text[: sampling.max_tokens], 1):
            await asyncio.sleep(self._token_s)
            is_last = index == min(len(text), sampling.max_tokens)
            yield character, ("stop" if index == len(text) else "length") if is_last else None

    async def _complete(self, prompt: Prompt, sampling: SamplingConfig, seed: int) -> Completion:
        written = [*self._answer(prompt, seed).encode(), END_TOKEN]
        versions = []
        for _ in written[: sampling.max_tokens]:
            if self._token_s:
                await asyncio.sleep(self._token_s)
            await self._going.wait()
            if self._stopped:
                raise RuntimeError("the engine was stopped")
            if not self._usable:
                raise RuntimeError("the engine holds no complete version of the weights")
            versions.append(self.version)
        token_ids = written[: len(versions)]
        digest = hashlib.blake2b(repr((token_ids, seed)).encode()).digest()
        logps = [-(1 + digest[index % len(digest)]) / 256 for index in range(len(token_ids))]
        starts = [index for index, version in enumerate(versions) if index == 0 or version != versions[index - 1]]
        ends = [*starts[1:], len(versions)]
        return Completion(
            token_ids=np.asarray(token_ids, dtype=np.int32),
            logps=np.asarray(logps, dtype=np.float32),
            version_spans=tuple(VersionSpan(versions[i], i, j) for i, j in zip(starts, ends, strict=True)),
            stop_reason="stop" if token_ids[-1] == END_TOKEN else "length",
            text=bytes(token for token in token_ids if token != END_TOKEN).decode(errors="replace"),
        )

    async def ping(self) -> None:
        pass

    async def wait_until_queued(self, num_completions: int, deadline_s: float) -> bool:
        await asyncio.sleep(0)
        return True

    async def pause(self) -> None:
        self._going.clear()

    async def resume(self) -> None:
        self._going.set()

    async def check_weights(self, buckets: Sequence[BucketInfo]) -> None:
        check_buckets(buckets)

    async def load_weights(self, buckets: Sequence[BucketInfo]) -> str | None:
        if buckets[0].index == 0:
            await self.start_weight_update()
        for bucket in buckets:
            await self.update_weights(asdict(bucket))
        if buckets[-1].index < buckets[-1].num_buckets - 1:
            return None
        await self.finish_weight_update()
        return await self.weight_checksum()

    async def abort_weight_update(self, reason: str) -> None:
        self._update = None

    async def commit_weights(self, version: int, recompute_kv: bool) -> None:
        await self.commit_weight_version(version)
        await self.resume()

    async def commit_weight_version(self, version: int) -> None:
        self.version = version

    async def weight_checksum(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:32]

    async def start_weight_update(self) -> None:
        if self._update is not None:
            raise RuntimeError("a weight update is open already")
        self._update, self._incoming, self._usable = [], {}, False

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        if self._update is None:
            raise RuntimeError("no weight update is open")
        info = BucketInfo(**update_info)
        if info.index != len(self._update):
            raise BucketError(f"bucket {info.index + 1} came after {len(self._update)} buckets", info.index)
        self._incoming |= {name: tensor.clone() for name, tensor in read_bucket(info)}
        self._update.append(info)

    async def finish_weight_update(self) -> None:
        if not self._update or len(self._update) != self._update[0].num_buckets:
            raise BucketError(f"only {len(self._update or ())} buckets were received")
        self.weights, self._update, self._usable = self._incoming, None, True

    async def sleep(self) -> None:
        self._usable = False

    async def wake(self) -> None:
        pass

    async def stop(self) -> None:
        self._stopped = True
        self._going.set()
