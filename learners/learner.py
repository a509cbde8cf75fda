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

from raylign.learners.algorithms.base import Objective
from raylign.learners.engines.config import LearnerConfig, resolve_micro_batch_tokens
from raylign.learners.engines.deepspeed_engine import DeepSpeedEngine, shard_reference
from raylign.learners.engines.distributed import (
    ensure_process_group,
    gather_objects,
    local_device,
    rank,
    world_size,
)
from raylign.learners.examples.example import Example, Normalizers
from raylign.learners.examples.micro_batch import (
    Layout,
    MicroBatch,
    input_length,
    make_micro_batch,
    normalizers_of,
    plan_for,
    shard,
    stand_in,
    units_of,
)
from raylign.learners.losses.corrections import loglinear_share
from raylign.learners.meters.mismatch import finish_mismatch, mismatch_metrics
from raylign.learners.meters.staleness import staleness_metrics
from raylign.learners.model import export
from raylign.learners.model.policy_model import PolicyModel, load_policy, load_reference, resolve_layout
from raylign.learners.model.reference_cache import ReferenceCache
from raylign.learners.model.scorer import ScorerModel, load_scorer


class Learner:
    """One data-parallel rank. Single process without a launcher, or one of many under Ray Train."""

    def __init__(
        self,
        config: LearnerConfig,
        model_path: str,
        algorithm: Objective,
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
        self.algorithm = algorithm
        self.seed = seed
        self.max_staleness = max_staleness
        self.num_batches = 0
        """Calls of `update` that trained."""
        if local_device().type == "cpu":
            torch.set_num_threads(_threads(config))
        ensure_process_group(config.step_deadline_s)
        self.layout: Layout = resolve_layout(config, model_path)
        policy: PolicyModel | ScorerModel
        if algorithm.model_kind == "scorer":
            policy = load_scorer(model_path, config, self.layout, seed)
        else:
            policy = load_policy(model_path, config, temperature, self.layout, seed)
            policy.token_logps.entropy_has_gradient = algorithm.entropy_has_gradient
        self._sequence_losses: list[dict[int, float]] = []
        """Of each micro-batch that was run, where the algorithm's loss gives them; stand-ins have none."""
        self._reference: Any = None
        self._temperature = temperature
        self._cache: ReferenceCache | None = None
        if algorithm.needs_reference and reference_cache is not None:
            self._cache = ReferenceCache(reference_cache, rank(), config.reference_path or model_path)
        if algorithm.needs_reference and not self._cache:
            self._load_reference()
        self.engine = DeepSpeedEngine(policy, config, total_optimizer_steps, Path(debug_folder))

    def _load_reference(self) -> None:
        """The frozen model of log π_ref; with adapters on the start model it is the policy without them."""
        if self._reference is None and (self.config.lora is None or self.config.reference_path is not None):
            path = self.config.reference_path or self.model_path
            model = load_reference(path, self.config, self._temperature, self.layout)
            self._reference = shard_reference(model, self.config)

    def update(self, examples: Sequence[Example], version: int | None = None) -> dict[str, float]:
        """Train on one batch, in `algorithm.num_updates` optimizer steps. Examples without a token in the
        loss are left out. With the `version` that the batch improves, no token may be older than the bound.
        """
        started_s = time.perf_counter()
        examples = [example for example in examples if example.loss_mask.any()]
        if not examples:
            return {"learner/num_tokens": 0.0}
        sampled = [e for e in examples if e.token_versions is not None or not self.algorithm.learns_from_rows]
        staleness: dict[str, float] = {}
        if version is not None and sampled:
            staleness = staleness_metrics(sampled, version, self.max_staleness)
        parts = self._prepared(self._mini_batches(examples), version)
        metrics = _mean([self._train(part) for part in parts])
        self.num_batches += 1
        num_input_tokens = sum(input_length(example) for example in examples)
        metrics["learner/num_tokens"] = sum(float(example.loss_mask.sum()) for example in examples)
        metrics["learner/tokens_per_s"] = num_input_tokens / (time.perf_counter() - started_s)
        return _identical(metrics | staleness)

    def _train(self, examples: list[Example]) -> dict[str, float]:
        """One optimizer step on prepared examples, and what the algorithm learns from it beside the model."""
        metrics = self.forward_backward(examples) | self.engine.step()
        if self._sequence_losses:
            shares = [part for parts in gather_objects(self._sequence_losses) for part in parts]
            losses = {index: loss for part in shares for index, loss in part.items()}
            metrics |= self.algorithm.after_step(examples, [losses[index] for index in range(len(examples))])
        return metrics

    def forward_backward(self, examples: Sequence[Example]) -> dict[str, float]:
        """Add the gradient of the loss over `examples`, the global batch of one optimizer step.

        Means in the metrics are over the tokens of the sequences that were run, see `_with_gradient`. What dropout
        leaves out is drawn from seed, step and rank, so a resumed run leaves out the same.
        """
        draws = np.random.SeedSequence((self.seed, self.engine.num_steps, rank()))
        torch.manual_seed(int(draws.generate_state(1)[0]))
        return self._passed(examples, self.engine.forward_backward)

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """The loss over `examples` and its metrics, without a gradient."""
        prepared = list(examples)
        if self.algorithm.needs_reference:
            prepared = self._with_logps(prepared, "reference_logps", everywhere=False)
        return self._passed(prepared, self.engine.evaluate)

    def _passed(self, examples: Sequence[Example], run_passes: Any) -> dict[str, float]:
        normalizers, run = normalizers_of(examples), self._with_gradient(examples)
        run_normalizers = normalizers_of(run)
        num_units = len(units_of(run))
        batches = self._local_batches(run)
        self._sequence_losses = []
        sums = run_passes(batches, _loss_with_mismatch(self.algorithm, normalizers, self._sequence_losses))
        metrics = {"learner/loss": sums.pop("learner/loss/sum")}
        num_positions = sums.pop("num_positions/sum")
        metrics["learner/padding_share"] = 1 - sums.pop("num_input_tokens/sum") / num_positions
        metrics["learner/skipped_share"] = 1 - run_normalizers.num_tokens / normalizers.num_tokens
        for key, value in sums.items():
            name, _, kind = key.rpartition("/")
            denominators = {"sum": run_normalizers.num_tokens, "unit_sum": num_units}
            metrics[name] = value / denominators[kind] if kind in denominators else value
        finish_mismatch(metrics, run_normalizers.num_tokens / run_normalizers.num_sequences)
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
        self.engine.save(Path(folder), {"num_batches": self.num_batches, "algorithm": self.algorithm.state()})

    def load_state(self, folder: Path) -> None:
        """What `save_state` wrote, with the same config and number of ranks."""
        state = self.engine.load(Path(folder))
        self.num_batches = state["num_batches"]
        self.algorithm.load_state(state["algorithm"])

    def _mini_batches(self, examples: list[Example]) -> list[list[Example]]:
        num_parts = min(self.algorithm.num_updates, len(examples))
        if num_parts == 1:
            return [examples]
        order = np.random.default_rng((self.seed, self.num_batches)).permutation(len(examples))
        return [[examples[i] for i in part] for part in np.array_split(order, num_parts)]

    def _prepared(self, parts: list[list[Example]], version: int | None) -> list[list[Example]]:
        """The parts with log-probs of the other policies, and with final advantages."""
        algorithm, everywhere = self.algorithm, self.algorithm.completes_batch
        recomputes = len(parts) > 1 and algorithm.proximal == "recompute"
        if recomputes or algorithm.needs_old_logps:
            # π_old is the policy before the first of several steps; with one step it is the policy itself.
            parts = [self._with_logps(part, "old_logps", everywhere) for part in parts]
        if algorithm.needs_reference:
            parts = [self._with_logps(part, "reference_logps", everywhere) for part in parts]
        if algorithm.completes_batch:
            completed = iter(algorithm.complete([example for part in parts for example in part]))
            parts = [[next(completed) for _ in part] for part in parts]
        if algorithm.proximal == "loglinear":
            parts = [_with_proximal_share(part, version, done / len(parts)) for done, part in enumerate(parts)]
        return parts

    def _with_gradient(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples that change the gradient: without KL and entropy terms, advantages of 0 do not. All of them
        where none does, so that the meters go on.
        """
        if not self.algorithm.skips_zero_advantages:
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

    def _local_logps(self, examples: Sequence[Example], logprobs: Any) -> Iterator[tuple[int, np.ndarray]]:
        """(index, (T,) log-probs) of this rank's share."""
        batches = self._local_batches(examples)
        for batch, logps in zip(batches, logprobs(batches), strict=True):
            if batch.example_indices:
                lengths = [len(examples[i].completion_ids) for i in batch.example_indices]
                pieces = np.split(logps.numpy(), np.cumsum(lengths)[:-1])
                yield from zip(batch.example_indices, pieces, strict=True)

    def _with_logps(self, examples: list[Example], field: str, everywhere: bool) -> list[Example]:
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
            found = {place: logps for share in gather_objects(found) for place, logps in share.items()}
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
            everywhere = {missing[place]: logps for part in gather_objects(computed) for place, logps in part.items()}
            found |= {index: everywhere[index] for index in unknown}
            cache.put([(examples[index], everywhere[index]) for index in unknown])
        return found

    def _reference_logprobs(self, batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        self._load_reference()
        if self._reference is None:
            with self.engine.policy.without_adapter():
                return self.engine.logprobs(batches)
        with torch.no_grad():
            return [self._reference(batch.to(self.engine.device))[0].cpu() for batch in batches]


def _loss_with_mismatch(algorithm: Objective, normalizers: Normalizers, sequence_losses: list[dict[int, float]]) -> Any:
    """The algorithm's loss, with the mismatch meter and the padding added to its metrics; fills `sequence_losses`."""

    def loss(
        logps: torch.Tensor, entropies: torch.Tensor, batch: MicroBatch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        share, metrics = algorithm.loss(logps, entropies, batch, normalizers)
        if "sequence/loss" in metrics:
            losses = metrics.pop("sequence/loss").tolist()
            sequence_losses.append(dict(zip(batch.example_indices, losses, strict=False)))  # a stand-in has no index
        num_positions = batch.input_ids.numel() if batch.example_indices else 0
        metrics["num_positions/sum"] = share.new_tensor(num_positions, dtype=torch.float64)
        metrics["num_input_tokens/sum"] = share.new_tensor(batch.num_input_tokens, dtype=torch.float64)
        if batch.rollout_logps is not None:
            old_logps = logps.detach() if batch.old_logps is None else batch.old_logps
            metrics |= mismatch_metrics(
                old_logps, batch.rollout_logps, batch.loss_mask, batch.sequence_index, batch.sequence_lengths
            )
        return share, metrics

    return loss


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


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    """Mean over the optimizer steps of one update; maxima stay maxima, minima minima."""
    combined = {}
    for key in {key: None for part in parts for key in part}:
        values = [part[key] for part in parts if key in part]
        extreme = max if "/max_" in key else min if "/min_" in key else None
        combined[key] = extreme(values) if extreme else sum(values) / len(values)
    return combined


def _identical(metrics: dict[str, float]) -> dict[str, float]:
    """Rank 0's numbers on every rank: times differ, and so could the last bit of a reduction."""
    return gather_objects(metrics)[0]
