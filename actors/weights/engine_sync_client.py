"""How vLLM's trainer side (nccl, ipc) speaks to our rollout workers, from learner rank 0.

Given actor handles, gives the client that `weight_transfer.make_trainer_sender` wants. **Not run**: needs NVIDIA GPUs.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any


class EngineSyncClient:
    """The four calls that vLLM's trainer side makes, passed on to every rollout worker."""

    def __init__(self, handles: Sequence[Any], deadline_s: float, gpus_per_engine: int) -> None:
        self._handles = list(handles)
        self._deadline_s = deadline_s
        self._gpus_per_engine = gpus_per_engine

    def _on_all(self, verb: str, *arguments: Any) -> None:
        self._wait([getattr(handle, verb).remote(*arguments) for handle in self._handles])

    def _wait(self, answers: list[Any]) -> None:
        import ray

        ray.get(answers, timeout=self._deadline_s)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        infos = init_info_of_each(init_info, len(self._handles), self._gpus_per_engine)
        answers = [handle.init_weight_transfer.remote(info) for handle, info in zip(self._handles, infos, strict=True)]
        self._wait(answers)

    def start_weight_update(self) -> None:
        self._on_all("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._on_all("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The version is committed by the publisher, after it was verified."""
        self._on_all("finish_weight_update")


def init_info_of_each(init_info: dict[str, Any], num_engines: int, gpus_per_engine: int) -> list[dict[str, Any]]:
    """What each engine is told: with nccl every GPU needs a rank of its own, and vLLM counts those of one engine."""
    if "rank_offset" not in init_info:
        return [init_info] * num_engines
    first = init_info["rank_offset"]
    return [{**init_info, "rank_offset": first + index * gpus_per_engine} for index in range(num_engines)]


def free_port() -> int:
    """A TCP port of this node that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
