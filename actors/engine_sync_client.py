"""How vLLM's trainer side (nccl, ipc) speaks to our rollout workers, from learner rank 0.

Given actor handles, gives the client that `weight_transfer.make_trainer_sender` wants. **Not run**: needs NVIDIA GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EngineSyncClient:
    """The four calls that vLLM's trainer side makes, passed on to every rollout worker."""

    def __init__(self, handles: Sequence[Any], deadline_s: float) -> None:
        self._handles = list(handles)
        self._deadline_s = deadline_s

    def _on_all(self, verb: str, *arguments: Any) -> None:
        import ray

        ray.get([getattr(handle, verb).remote(*arguments) for handle in self._handles], timeout=self._deadline_s)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._on_all("init_weight_transfer", init_info)

    def start_weight_update(self) -> None:
        self._on_all("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._on_all("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The version is committed by the publisher, after it was verified."""
        self._on_all("finish_weight_update")
