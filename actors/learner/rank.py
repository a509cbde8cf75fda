"""One rank of the learner group: the verbs that commands name.

Given a `LearnerSpec`, gives a `Learner` and the sending end of weight updates. All ranks run every verb together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from raylign.actors.learner.spec import LearnerSpec
from raylign.learners.engines.distributed import rank
from raylign.learners.examples.example import Example
from raylign.learners.learner import Learner
from raylign.learners.model import export
from raylign.rollout.weights.buckets import SharedMemorySender


class LearnerRank:
    """A learner and its weight sender."""

    def __init__(self, spec: LearnerSpec) -> None:
        if cores := set(spec.cpu_cores) & os.sched_getaffinity(0):
            os.sched_setaffinity(0, cores)  # before torch starts its threads, which inherit it
        self._learner = Learner(
            spec.config,
            spec.model_path,
            spec.algorithm.build_objective(spec.max_staleness, spec.rows),
            spec.temperature,
            spec.total_optimizer_steps,
            spec.seed,
            Path(spec.debug_folder),
            spec.max_staleness,
            Path(spec.reference_cache) if spec.reference_cache else None,
        )
        if spec.state_folder is not None:
            self._learner.load_state(Path(spec.state_folder))
        self._spec = spec
        self._sender = SharedMemorySender(spec.weights_bucket_bytes) if rank() == 0 else None
        self._gpu_sender: Any = None

    def update(self, examples: Sequence[Example], version: int | None = None) -> dict[str, float]:
        """One batch, this rank's share of it."""
        return self._learner.update(examples, version)

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Loss and metrics without a gradient."""
        return self._learner.evaluate(examples)

    def algorithm_state(self) -> dict[str, Any]:
        """What the algorithm learned beside the model."""
        return self._learner.algorithm.state()

    def offload(self) -> None:
        """See `DeepSpeedEngine.offload`."""
        self._learner.engine.offload()

    def reload(self) -> None:
        """See `DeepSpeedEngine.reload`."""
        self._learner.engine.reload()

    def logprobs(self, examples: Sequence[Example]) -> list[Any]:
        """(T,) of each example, on every rank."""
        return self._learner.logprobs(examples)

    def export_weights(self, version: int) -> list[dict[str, Any]]:
        """Bucket descriptions of the current weights (rank 0; the others only take part in gathering)."""
        weights: Iterable[tuple[str, Any]]
        adapter = None
        if self._spec.ships_adapters:
            weights = export.adapter_weights(self._learner.engine).items()
            adapter = export.adapter_config(self._learner.engine)
        else:
            weights = self._learner.weights()
        if self._sender is not None:
            return self._sender.export(version, weights, adapter)
        for _ in weights:
            pass
        return []

    def release_weights(self) -> None:
        """Engines have read the buckets."""
        if self._sender is not None:
            self._sender.release()

    def connect_weights(self, transport: str, handles: Sequence[Any]) -> None:
        """Open the sending end of nccl or ipc. **Not run**: needs NVIDIA GPUs."""
        import ray.util

        from raylign.actors.weights.engine_sync_client import EngineSyncClient, free_port
        from raylign.rollout.weights.transfer import LearnerSource, make_trainer_sender

        gpus_per_engine = self._spec.gpus_per_engine
        self._gpu_sender = make_trainer_sender(
            transport,
            client=EngineSyncClient(handles, self._spec.weights_deadline_s, gpus_per_engine),
            source=LearnerSource(self._learner.weights, self._learner.weight_metadata),
            rank=rank(),
            num_engine_gpus=len(handles) * gpus_per_engine,
            master_address=ray.util.get_node_ip_address(),
            master_port=free_port(),
        )

    def send_weights(self, version: int) -> None:
        """Send all weights to the connected engines; the publisher verifies them and labels them with `version`."""
        assert self._gpu_sender is not None, "connect_weights comes first"
        self._gpu_sender.send_weights()

    def save(self, folder: str) -> None:
        """The model in Hugging Face format, and resumable state below `state/`."""
        self._learner.save_model(Path(folder))
        self._learner.save_state(Path(folder) / "state")
