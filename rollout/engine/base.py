"""What every inference engine can do, and how it says that it is dead.

Given prompts, an engine gives groups; another inference engine implements `RolloutEngine`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from raylign.rollout.sample import Group, Prompt, StopReason
from raylign.rollout.sampling import SamplingConfig
from raylign.rollout.weights.buckets import BucketInfo


class EngineDiedError(RuntimeError):
    """The engine's process is gone: there is no use in asking it again."""


class RolloutEngine(Protocol):
    """What every engine can do. `VllmEngine` is the real one, `FakeEngine` the deterministic one of unit tests."""

    async def start(self) -> None:
        """Load the model; return when ready to generate."""

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        """All completions of one prompt. An engine failure comes back as `Group.failures`, with no completions."""

    def stream(self, prompt: Prompt, sampling: SamplingConfig) -> AsyncIterator[tuple[str, StopReason | None]]:
        """The text of one completion as it comes; why it ended comes with the last piece."""

    async def ping(self) -> None:
        """Returns once the engine's process has answered."""

    async def wait_until_queued(self, num_completions: int, deadline_s: float) -> bool:
        """Whether so many completions are known to the engine, at the latest after the deadline."""

    async def pause(self) -> None:
        """Freeze running requests where they are; new ones queue."""

    async def resume(self) -> None:
        """Go on."""

    async def check_weights(self, buckets: Sequence[BucketInfo]) -> None:
        """Refuse buckets that are damaged, while requests go on."""

    async def load_weights(self, buckets: Sequence[BucketInfo]) -> str | None:
        """Load the next buckets of a version. From the first on the engine cannot serve until all are loaded; the last
        puts them to use, refuses when any weight is missing, and gives the digest of what the engine holds."""

    async def abort_weight_update(self, reason: str) -> None:
        """Leave a broken update. The weights are a mixture of versions then: the engine must not serve before a whole
        update. Does nothing when no update is open."""

    async def commit_weights(self, version: int, recompute_kv: bool) -> None:
        """Label what is sampled from now on, forget keys and values of older weights (those of running requests too,
        where told to compute them again), and go on."""

    async def commit_weight_version(self, version: int) -> None:
        """Label what is sampled from now on."""

    async def weight_checksum(self) -> str:
        """One digest over the weights that the engine holds."""

    async def sleep(self) -> None:
        """Give the GPU's memory to somebody else: weights, keys and values are gone."""

    async def wake(self) -> None:
        """Take it back; the weights must be sent before anything is generated."""

    async def stop(self) -> None:
        """End the engine and its processes."""


def request_seed(run_seed: int, ordinal: int) -> int:
    """Seed of one prompt's completions: a pure function of the run's seed and the prompt's place in its order.

    vLLM gives completion `i` of a group the seed `seed + i`, so seeds of different prompts must lie far apart:
    they are 62 bits of a hash.
    """
    digest = hashlib.blake2b(f"{run_seed}:{ordinal}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
