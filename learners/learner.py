"""The learner of one rank: examples in, optimizer steps, weights and log-probs out.

Given a model, an algorithm and, at each update, the full list of examples on every rank; gives metrics that
are equal on all ranks. All ranks call every method together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from raylign.learners.algorithms.base import Objective
from raylign.learners.engines.build import build_engine
from raylign.learners.engines.config import LearnerConfig, resolve_micro_batch_tokens
from raylign.learners.engines.distributed import (
    ensure_process_group,
    gather_objects,
    local_device,
    rank,
    world_size,
)
from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import (
    Layout,
    MicroBatch,
    input_length,
    make_micro_batch,
    plan_for,
    shard,
    stand_in,
)
from raylign.learners.losses.corrections import loglinear_share
from raylign.learners.measured_loss import MeasuredLoss
from raylign.learners.meters.metric import StepMetrics, means, over_steps, values_of
from raylign.learners.meters.staleness import staleness_metrics
from raylign.learners.model import export
from raylign.learners.model.load import load_model
from raylign.learners.model.policy_model import resolve_layout
from raylign.learners.model.reference import Reference
from raylign.learners.model.reference_cache import ReferenceCache

LogprobsOf = Callable[[Sequence[MicroBatch]], list[torch.Tensor]]
"""(N,) log-probs of each micro-batch's completion tokens, on the CPU."""


class Learner:
    """One data-parallel rank. Single process without a launcher, or one of many under Ray Train."""

    def __init__(
        self,
        config: LearnerConfig,
        model_path: str,
        objective: Objective,
        temperature: float,
        total_optimizer_steps: int,
        seed: int,
        debug_folder: Path,
        max_staleness: int = 0,
        reference_cache: Path | None = None,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: the learner needs that of training rollouts, above 0")
        self.config = config
        self.model_path = model_path
        self.objective = objective
        self.seed = seed
        self.max_staleness = max_staleness
        self.num_batches = 0
        """Calls of `update` that trained."""
        if local_device().type == "cpu":
            torch.set_num_threads(_threads(config))
        ensure_process_group(config.step_deadline_s)
        self.layout: Layout = resolve_layout(config, model_path)
        model = load_model(
            objective.model_kind, model_path, config, temperature, self.layout, seed, objective.entropy_has_gradient
        )
        self._sequence_losses: list[dict[int, float]] = []
        """Of each micro-batch of the last `forward_backward`, where the objective's loss gives them."""
        self._reference = Reference(config, model_path, temperature, self.layout)
        self._cache: ReferenceCache | None = None
        if objective.needs_reference and reference_cache is not None:
            self._cache = ReferenceCache(reference_cache, rank(), self._reference.path)
        if objective.needs_reference and not self._cache:
            self._reference.load()
        self.engine = build_engine(model, config, total_optimizer_steps, Path(debug_folder))

    def update(self, examples: Sequence[Example], version: int | None = None) -> dict[str, float]:
        """Train on one batch, in `objective.num_updates` optimizer steps. Examples without a token in the
        loss are left out. With the `version` that the batch improves, no token may be older than the bound.
        """
        started_s = time.perf_counter()
        examples = [example for example in examples if example.loss_mask.any()]
        if not examples:
            return {"learner/num_tokens": 0.0}
        sampled = [e for e in examples if e.token_versions is not None or not self.objective.learns_from_rows]
        staleness: dict[str, float] = {}
        if version is not None and sampled:
            staleness = staleness_metrics(sampled, version, self.max_staleness)
        steps: list[StepMetrics] = []
        for part in self._prepared(self._mini_batches(examples), version):
            steps.append(self.forward_backward(part) | self.engine.step() | self._after_step(part))
        metrics = over_steps(steps)
        self.num_batches += 1
        num_input_tokens = sum(input_length(example) for example in examples)
        metrics["learner/num_tokens"] = sum(float(example.loss_mask.sum()) for example in examples)
        metrics["learner/tokens_per_s"] = num_input_tokens / (time.perf_counter() - started_s)
        return _identical(metrics | staleness)

    def forward_backward(self, examples: Sequence[Example]) -> StepMetrics:
        """Add the gradient of the loss over `examples`, the global batch of one optimizer step.

        Means in the metrics are over the tokens of the sequences that were run, see `_with_gradient`. What dropout
        leaves out is drawn from seed, step and rank, so a resumed run leaves out the same.
        """
        draws = np.random.SeedSequence((self.seed, self.engine.num_steps, rank()))
        torch.manual_seed(int(draws.generate_state(1)[0]))
        run = self._with_gradient(examples)
        loss = MeasuredLoss(self.objective, examples, run)
        totals = self.engine.forward_backward(self._local_batches(run), loss)
        self._sequence_losses = loss.sequence_losses
        return loss.finished(totals)

    def _after_step(self, examples: list[Example]) -> StepMetrics:
        """What the objective learns beside the model, from the losses of before the optimizer step."""
        if not self._sequence_losses:
            return {}
        shares = [part for parts in gather_objects(self._sequence_losses) for part in parts]
        losses = {index: loss for part in shares for index, loss in part.items()}
        return means(self.objective.after_step(examples, [losses[index] for index in range(len(examples))]))

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The loss over `examples` and its metrics, without a gradient."""
        prepared = list(examples)
        if self.objective.needs_reference:
            prepared = self._with_logps(prepared, "reference_logps", everywhere=False)
        run = self._with_gradient(prepared)
        loss = MeasuredLoss(self.objective, prepared, run)
        return values_of(loss.finished(self.engine.evaluate(self._local_batches(run), loss)))

    def logprobs(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """(T,) log π_θ of every example's completion tokens."""
        local = dict(self._local_logps(examples, self.engine.logprobs))
        everywhere = _of_all_ranks(local)
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
        self.engine.save(Path(folder), {"num_batches": self.num_batches, "algorithm": self.objective.state()})

    def load_state(self, folder: Path) -> None:
        """What `save_state` wrote with the same config, or `universal_state.py` made of it for other ranks."""
        state = self.engine.load(Path(folder))
        self.num_batches = state["num_batches"]
        self.objective.load_state(state["algorithm"])

    def offload(self) -> None:
        """Everything that this rank holds on its GPU goes to the host, frozen models too: an engine takes its turn."""
        self._reference.offload()
        self.engine.offload()  # last: it gives the memory that was freed back to the driver

    def reload(self) -> None:
        """Take the GPU's memory back."""
        self.engine.reload()
        self._reference.reload()

    def _mini_batches(self, examples: list[Example]) -> list[list[Example]]:
        num_parts = min(self.objective.num_updates, len(examples))
        if num_parts == 1:
            return [examples]
        order = np.random.default_rng((self.seed, self.num_batches)).permutation(len(examples))
        return [[examples[i] for i in part] for part in np.array_split(order, num_parts)]

    def _prepared(self, parts: list[list[Example]], version: int | None) -> list[list[Example]]:
        """The parts with log-probs of the other policies, and with final advantages."""
        objective, everywhere = self.objective, self.objective.completes_batch
        recomputes = len(parts) > 1 and objective.proximal == "recompute"
        if recomputes or objective.needs_old_logps:
            # π_old is the policy before the first of several steps; with one step it is the policy itself.
            parts = [self._with_logps(part, "old_logps", everywhere) for part in parts]
        if objective.needs_reference:
            parts = [self._with_logps(part, "reference_logps", everywhere) for part in parts]
        if objective.completes_batch:
            completed = iter(objective.complete([example for part in parts for example in part]))
            parts = [[next(completed) for _ in part] for part in parts]
        if objective.proximal == "loglinear":
            parts = [_with_proximal_share(part, version, done / len(parts)) for done, part in enumerate(parts)]
        return parts

    def _with_gradient(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples that change the gradient: without KL and entropy terms, advantages of 0 do not. All of them
        where none does, so that the meters go on.
        """
        if not self.objective.skips_zero_advantages:
            return examples
        return [example for example in examples if _teaches(example)] or examples

    def _local_batches(self, examples: Sequence[Example]) -> list[MicroBatch]:
        """This rank's micro-batches, filled up with stand-ins to as many as the rank with the most has."""
        shares = [shard(examples, r, world_size()) for r in range(world_size())]
        budget = resolve_micro_batch_tokens(self.config, on_gpu=local_device().type == "cuda")
        plans = [plan_for(examples, share, budget, self.layout) for share in shares]
        plan = plans[rank()]
        batches = [make_micro_batch(examples, part, self.layout) for part in plan]
        missing = max(len(plan) for plan in plans) - len(batches)
        return batches + [stand_in(examples[0], self.layout)] * missing

    def _local_logps(self, examples: Sequence[Example], logprobs: LogprobsOf) -> Iterator[tuple[int, np.ndarray]]:
        """(index, (T,) log-probs) of this rank's share."""
        batches = self._local_batches(examples)
        for batch, logps in zip(batches, logprobs(batches), strict=True):
            if batch.example_indices:
                lengths = [len(examples[i].completion_ids) for i in batch.example_indices]
                pieces = np.split(logps.numpy(), np.cumsum(lengths)[:-1])
                yield from zip(batch.example_indices, pieces, strict=True)

    def _with_logps(
        self, examples: list[Example], field: Literal["old_logps", "reference_logps"], everywhere: bool
    ) -> list[Example]:
        """The examples with `field` filled: on this rank's share, with zeros on those that other ranks train, or
        `everywhere`. Made in the micro-batches of the training pass, so that the last bits agree.
        """
        logprobs = self.engine.logprobs if field == "old_logps" else self._reference_logprobs
        run = examples if everywhere else self._with_gradient(examples)
        places = {id(example): place for place, example in enumerate(run)}
        if field == "reference_logps" and self._cache is not None:
            found = self._with_cache(run, self._cache)
        else:
            found = dict(self._local_logps(run, logprobs))
        if everywhere:
            found = _of_all_ranks(found)
        filled = []
        for example in examples:
            logps = found.get(places.get(id(example), -1), np.zeros_like(example.loss_mask))
            values: dict[str, Any] = {field: logps}
            filled.append(replace(example, **values))
        return filled

    def _with_cache(self, examples: Sequence[Example], cache: ReferenceCache) -> dict[int, np.ndarray]:
        """log π_ref of this rank's share: what the cache knows, and the rest computed by all ranks together."""
        share = shard(examples, rank(), world_size())
        found = {index: logps for index in share if (logps := cache.get(examples[index])) is not None}
        unknown = [index for index in share if index not in found]
        missing = sorted({index for part in gather_objects(unknown) for index in part})
        if missing:
            computed = dict(self._local_logps([examples[index] for index in missing], self._reference_logprobs))
            everywhere = {missing[place]: logps for place, logps in _of_all_ranks(computed).items()}
            found |= {index: everywhere[index] for index in unknown}
            cache.put([(examples[index], everywhere[index]) for index in unknown])
        return found

    def _reference_logprobs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        return self._reference.logprobs(self.engine, batches)


def _threads(config: LearnerConfig) -> int:
    if config.threads_per_rank != "auto":
        return config.threads_per_rank
    return max(1, len(os.sched_getaffinity(0)) // config.num_ranks)


def _teaches(example: Example) -> bool:
    return example.advantages is None or bool((example.advantages * example.loss_mask).any())


def _with_proximal_share(examples: list[Example], version: int | None, steps_done: float) -> list[Example]:
    """`steps_done`: share of the update's optimizer steps before this one; after all the version is one more."""
    if version is None:
        raise ValueError(
            "algorithm.correction.proximal is loglinear: `update` must be told the version that it improves"
        )
    filled = []
    for example in examples:
        assert example.token_versions is not None, "rollouts carry the version of every token"
        share = loglinear_share(example.token_versions, version, version + steps_done)
        filled.append(replace(example, proximal_share=share))
    return filled


def _of_all_ranks(local: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Of every rank's share together, by place."""
    return {place: logps for share in gather_objects(local) for place, logps in share.items()}


def _identical(metrics: dict[str, float]) -> dict[str, float]:
    """Rank 0's numbers on every rank: times differ, and so could the last bit of a reduction."""
    return gather_objects(metrics)[0]
