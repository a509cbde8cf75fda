"""The learner of one rank: examples in, optimizer steps, weights and log-probs out.

Given a model, an algorithm and, at each update, the full list of examples on every rank; gives metrics that
are equal on all ranks. All ranks call every method together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raylign.learners import export
from raylign.learners.algorithms.base import Algorithm, Example, Normalizers
from raylign.learners.batch import (
    Layout,
    MicroBatch,
    input_length,
    make_micro_batch,
    normalizers_of,
    plan_micro_batches,
    shard,
    stand_in,
)
from raylign.learners.distributed import (
    ensure_process_group,
    gather_objects,
    local_device,
    rank,
    world_size,
)
from raylign.learners.engine import DeepSpeedEngine, LearnerConfig, shard_reference
from raylign.learners.mismatch import effective_sample_size_share, mismatch_metrics
from raylign.learners.model import load_policy, load_reference, resolve_layout


class Learner:
    """One data-parallel rank. Single process without a launcher, or one of many under Ray Train."""

    def __init__(
        self,
        config: LearnerConfig,
        model_path: str,
        algorithm: Algorithm,
        temperature: float,
        total_optimizer_steps: int,
        seed: int,
        debug_folder: Path,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: the learner needs that of training rollouts, above 0")
        self.config = config
        self.model_path = model_path
        self.algorithm = algorithm
        self.seed = seed
        self.num_batches = 0
        """Calls of `update` that trained."""
        if local_device().type == "cpu":
            torch.set_num_threads(_threads(config))
        ensure_process_group(config.step_deadline_s)
        self.layout: Layout = resolve_layout(config, model_path)
        policy = load_policy(model_path, config, temperature, self.layout, seed)
        self._reference: Any = None
        if algorithm.needs_reference and (config.lora is None or config.reference_path is not None):
            reference_path = config.reference_path or model_path
            self._reference = shard_reference(load_reference(reference_path, config, temperature, self.layout), config)
        self.engine = DeepSpeedEngine(policy, config, total_optimizer_steps, Path(debug_folder))

    def update(self, examples: Sequence[Example]) -> dict[str, float]:
        """Train on one batch, in `algorithm.num_updates` optimizer steps. Examples without a token in the
        loss are left out.
        """
        started_s = time.perf_counter()
        examples = [example for example in examples if example.loss_mask.any()]
        if not examples:
            return {"learner/num_tokens": 0.0}
        parts = self._mini_batches(examples)
        if len(parts) > 1:
            # π_old is the policy before the first of several steps; with one step it is the policy itself.
            parts = [self._with_logps(part, "old_logps") for part in parts]
        if self.algorithm.needs_reference:
            parts = [self._with_logps(part, "reference_logps") for part in parts]
        metrics = _mean([{**self.forward_backward(part), **self.engine.step()} for part in parts])
        self.num_batches += 1
        num_input_tokens = sum(input_length(example) for example in examples)
        metrics["learner/num_tokens"] = sum(float(example.loss_mask.sum()) for example in examples)
        metrics["learner/tokens_per_s"] = num_input_tokens / (time.perf_counter() - started_s)
        return _identical(metrics)

    def forward_backward(self, examples: Sequence[Example]) -> dict[str, float]:
        """Add the gradient of the loss over `examples`, the global batch of one optimizer step."""
        normalizers = normalizers_of(examples)
        batches = self._local_batches(examples)
        sums = self.engine.forward_backward(batches, _loss_with_mismatch(self.algorithm, normalizers))
        metrics = {"learner/loss": sums.pop("learner/loss/sum")}
        num_positions = sums.pop("num_positions/sum")
        metrics["learner/padding_share"] = 1 - sums.pop("num_input_tokens/sum") / num_positions
        for key, value in sums.items():
            metrics[key[:-4]] = value if key.endswith("/max") else value / normalizers.num_tokens
        if "mismatch/ratio" in metrics:
            metrics["mismatch/effective_sample_size_share"] = effective_sample_size_share(
                metrics.pop("mismatch/ratio"), metrics.pop("mismatch/ratio_squared")
            )
        return metrics

    def logprobs(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """(T,) log π_θ of every example's completion tokens."""
        local = dict(self._local_logps(examples, self.engine.logprobs))
        everywhere = {index: logps for part in gather_objects(local) for index, logps in part.items()}
        return [everywhere[index] for index in range(len(examples))]

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """See `export.weights`."""
        return export.weights(self.engine)

    def weight_metadata(self) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
        """See `export.weight_metadata`."""
        return export.weight_metadata(self.engine)

    def save_model(self, folder: Path) -> None:
        """See `export.save_model`."""
        export.save_model(self.engine, Path(folder), self.model_path)

    def save_state(self, folder: Path) -> None:
        """Everything that `load_state` needs to go on bit for bit."""
        self.engine.save(Path(folder), {"num_batches": self.num_batches})

    def load_state(self, folder: Path) -> None:
        """What `save_state` wrote, with the same config and number of ranks."""
        self.num_batches = self.engine.load(Path(folder))["num_batches"]

    def _mini_batches(self, examples: list[Example]) -> list[list[Example]]:
        num_parts = min(self.algorithm.num_updates, len(examples))
        if num_parts == 1:
            return [examples]
        order = np.random.default_rng((self.seed, self.num_batches)).permutation(len(examples))
        return [[examples[i] for i in part] for part in np.array_split(order, num_parts)]

    def _local_batches(self, examples: Sequence[Example]) -> list[MicroBatch]:
        """This rank's micro-batches, filled up with stand-ins to as many as the rank with the most has."""
        shares = [shard(examples, r, world_size()) for r in range(world_size())]
        plans = [
            plan_micro_batches([input_length(examples[i]) for i in share], self.config.micro_batch_tokens, self.layout)
            for share in shares
        ]
        share, plan = shares[rank()], plans[rank()]
        batches = [make_micro_batch(examples, [share[i] for i in part], self.layout) for part in plan]
        missing = max(len(plan) for plan in plans) - len(batches)
        return batches + [stand_in(examples[0], self.layout)] * missing

    def _local_logps(self, examples: Sequence[Example], logprobs: Any) -> Iterator[tuple[int, np.ndarray]]:
        """(index, (T,) log-probs) of this rank's share."""
        batches = self._local_batches(examples)
        for batch, logps in zip(batches, logprobs(batches), strict=True):
            if batch.example_indices:
                lengths = [len(examples[i].completion_ids) for i in batch.example_indices]
                pieces = np.split(logps.numpy(), np.cumsum(lengths)[:-1])
                yield from zip(batch.example_indices, pieces, strict=True)

    def _with_logps(self, examples: list[Example], field: str) -> list[Example]:
        """The examples with `field` filled on this rank's share, and zeros on those that other ranks train."""
        logprobs = self.engine.logprobs if field == "old_logps" else self._reference_logprobs
        local = dict(self._local_logps(examples, logprobs))
        return [
            replace(example, **{field: local.get(i, np.zeros_like(example.loss_mask))})
            for i, example in enumerate(examples)
        ]

    def _reference_logprobs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        if self._reference is None:
            with self.engine.policy.without_adapter():
                return self.engine.logprobs(batches)
        with torch.no_grad():
            return [self._reference(batch.to(self.engine.device))[0].cpu() for batch in batches]


def _loss_with_mismatch(algorithm: Algorithm, normalizers: Normalizers) -> Any:
    """The algorithm's loss, with the mismatch meter and the padding added to its metrics."""

    def loss(
        logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        share, metrics = algorithm.loss(logps, entropies, batch, normalizers)
        num_positions = batch.input_ids.numel() if batch.example_indices else 0
        metrics["num_positions/sum"] = share.new_tensor(num_positions, dtype=torch.float64)
        metrics["num_input_tokens/sum"] = share.new_tensor(batch.num_input_tokens, dtype=torch.float64)
        if batch.rollout_logps is not None:
            old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
            metrics |= mismatch_metrics(old_logps, batch.rollout_logps, batch.loss_mask)
        return share, metrics

    return loss


def _threads(config: LearnerConfig) -> int:
    if config.threads_per_rank != "auto":
        return config.threads_per_rank
    return max(1, len(os.sched_getaffinity(0)) // config.num_ranks)


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the optimizer steps of one update; maxima stay maxima."""
    combined = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        combined[key] = max(values) if "/max_" in key else sum(values) / len(values)
    return combined


def _identical(metrics: dict[str, float]) -> dict[str, float]:
    """Rank 0's numbers on every rank: times differ, and so could the last bit of a reduction."""
    return gather_objects(metrics)[0]
