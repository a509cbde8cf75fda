"""Learner cases that one or several ranks run; a script, since DeepSpeed ranks are processes of their own.

Given a model folder, an output folder and RANK/WORLD_SIZE in the environment; rank 0 writes one .npz for each case:
    python -m tests.learners.rank_cases MODEL OUT gradients,steps,written:zero2+zero3
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.dapo import DapoConfig
from raylign.learners.algorithms.policy_gradient.dr_grpo import DrGrpoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.reinforce_plus_plus import ReinforcePlusPlusConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.preference.bonbon import BonbonConfig
from raylign.learners.algorithms.preference.dpo import DpoConfig
from raylign.learners.algorithms.preference.ipo import IpoConfig
from raylign.learners.algorithms.preference.pairs import PairConfig
from raylign.learners.algorithms.preference.reward_model import RewardModelTrainingConfig
from raylign.learners.algorithms.preference.sail import RouteConfig, SailConfig
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.engines.config import LearnerConfig, LoraConfig
from raylign.learners.examples.example import Example
from raylign.learners.losses.corrections import CorrectionConfig
from raylign.learners.meters.metric import values_of
from tests.learners.algorithms.level_cases import LEVEL_ALGORITHMS, level_examples, weighing
from tests.learners.algorithms.pair_cases import random_groups, random_pairs

ALGORITHMS: dict[str, AnyAlgorithmConfig] = {
    "token_mean_k3": GrpoConfig(kl_coef=0.1, kl_estimator="k3"),
    "sequence_mean_k2_dual_tis": GrpoConfig(
        aggregation="seq_mean_token_mean",
        kl_coef=0.1,
        kl_estimator="k2",
        dual_clip=1.5,
        correction=CorrectionConfig(kind="token_truncate", cap=1.1),
    ),
    "constant_k1": GrpoConfig(aggregation="seq_mean_token_sum_norm", norm_constant=14, kl_coef=0.1, kl_estimator="k1"),
    "dr_grpo_token_mask": DrGrpoConfig(norm_constant=14, correction=CorrectionConfig(kind="token_mask", cap=1.2)),
    "dapo_geometric_filter": DapoConfig(correction=CorrectionConfig(kind="geometric_filter", low=0.9, cap=1.1)),
    "gspo_sequence_mask": GspoConfig(clip_low=0.1, clip_high=0.1, correction=CorrectionConfig(kind="sequence_mask")),
    "gspo_token_entropy": GspoConfig(clip_low=0.1, clip_high=0.1, token_level=True, entropy_coef=0.1),
    "rloo_clipped_sequence_truncate": RlooConfig(
        num_updates=2, kl_coef=0.1, correction=CorrectionConfig(kind="sequence_truncate", cap=1.5)
    ),
    "reinforce_plus_plus_decoupled_mask": ReinforcePlusPlusConfig(
        kl_coef=0.1, correction=CorrectionConfig(kind="decoupled", over="mask", cap=1.2)
    ),
    "reinforce_plus_plus_baseline": ReinforcePlusPlusConfig(baseline=True, kl_coef=0.1),
    "cispo_icepop": CispoConfig(ratio_cap=1.1, correction=CorrectionConfig(kind="icepop", low=0.8, cap=1.2)),
    "sft_token_mean": SftConfig(),
    "sft_sequence_mean": SftConfig(aggregation="seq_mean_token_mean"),
}
PAIR_ALGORITHMS: dict[str, AnyAlgorithmConfig] = {
    "dpo": DpoConfig(label_smoothing=0.1),
    "ipo": IpoConfig(beta=0.2),
    "bonbon": BonbonConfig(n=4, alpha=0.3),
    "sail_mix": SailConfig(
        ddp=RouteConfig(share=0.3, coefficient=0.2),
        dpp=RouteConfig(share=0.3, coefficient=0.2),
        dpr=RouteConfig(share=0.3, coefficient=0.3),
        reverse_kl_coef=0.01,
    ),
    "reward_model": RewardModelTrainingConfig(),
}
SPLITS: list[tuple[str, int]] = [("padded", 10_000), ("padded", 60), ("packed", 10_000), ("packed", 45)]
"""(layout, token budget)."""


def num_ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def splits(world_size: int) -> list[tuple[str, int]]:
    """One rank runs all; two ranks the small budgets, where both have several micro-batches."""
    return SPLITS if world_size == 1 else [SPLITS[1], SPLITS[3]]


UPDATES: dict[str, AnyAlgorithmConfig] = {
    "reinforce_plus_plus_kl": ReinforcePlusPlusConfig(kl_coef=0.5),
    "rloo_kl_two_updates": RlooConfig(kl_coef=0.5, num_updates=2),
    "dapo_loglinear_two_updates": DapoConfig(
        num_updates=2, correction=CorrectionConfig(kind="decoupled", proximal="loglinear")
    ),
    "grpo_asynchronous": GrpoConfig(entropy_coef=0.1, kl_coef=0.1),
}
"""Whole updates, with everything that the learner fills in."""
STAGES: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"zero_stage": stage} for stage in range(4)},
    "zero3_lora": {"zero_stage": 3, "lora": LoraConfig(rank=4)},
    "zero0_lora": {"zero_stage": 0, "lora": LoraConfig(rank=4)},
    "zero3_checkpointing": {"zero_stage": 3, "gradient_checkpointing": True, "logit_chunk_tokens": 16},
    "zero2_bf16": {"zero_stage": 2, "dtype": "bfloat16"},
    "zero3_bf16": {"zero_stage": 3, "dtype": "bfloat16"},
}


def examples(num_examples: int = 13) -> list[Example]:
    """Sequences of different lengths, some tokens and one whole sequence masked, one sequence much longer."""
    rng = np.random.default_rng(7)
    made = []
    for number in range(num_examples):
        prompt, completion = rng.integers(0, 97, rng.integers(1, 9)), rng.integers(0, 97, rng.integers(1, 14))
        if number == 3:
            completion = rng.integers(0, 97, 70)
        mask = (rng.random(len(completion)) < 0.9).astype(np.float32)
        if number == 5:
            mask[:] = 0
        made.append(
            Example(
                prompt.astype(np.int32),
                completion.astype(np.int32),
                loss_mask=mask,
                advantages=np.full(len(completion), rng.normal(), np.float32),
                weight=0.5 + number / num_examples,
                group=number // 3,
            )
        )
    return made


def examples_of_pairs(config: PairConfig) -> list[Example]:
    """Rows, and for SAIL answers of the policy beside them."""
    make = config.build_examples(seed=0, rows_per_step=12)
    made = make.from_groups(random_groups(5)) if isinstance(config, SailConfig) else []
    first = len(made) // 2
    return made + [replace(e, unit=e.unit + first) for e in make.from_pairs(random_pairs())]


def with_old_policies(made: list[Example], logps: list[np.ndarray]) -> list[Example]:
    """π_old, π_roll and π_ref a little off the policy, so that ratios clip and the KL is not 0."""
    rng = np.random.default_rng(8)
    noisy = []
    for example, logps_T in zip(made, logps, strict=True):
        off = [(logps_T + rng.normal(0, 0.3, len(logps_T))).astype(np.float32) for _ in range(3)]
        noisy.append(replace(example, old_logps=off[0], rollout_logps=off[1], reference_logps=off[2]))
    return noisy


def gradients(model: str, out: Path) -> None:
    """Loss, metrics and gradients of each algorithm under each split."""
    import torch
    import torch.distributed as dist

    from raylign.learners.learner import Learner

    for layout, budget in splits(num_ranks()):
        for name, config in (ALGORITHMS | PAIR_ALGORITHMS).items():
            settings = LearnerConfig(layout=layout, micro_batch_tokens=budget, threads_per_rank=1)  # type: ignore[arg-type]
            learner = Learner(settings, model, config.build_objective(), 0.7, 1, 0, out)
            batch = examples()
            if isinstance(config, PairConfig):
                batch = examples_of_pairs(config)
                if learner.objective.needs_reference:
                    # a reference off the policy, so that no log-ratio is 0
                    refs = [logps - np.float32(0.1) * (i % 3) for i, logps in enumerate(learner.logprobs(batch))]
                    batch = [replace(e, reference_logps=logps) for e, logps in zip(batch, refs, strict=True)]
            elif not isinstance(config, SftConfig):
                batch = learner.objective.complete(with_old_policies(batch, learner.logprobs(batch)))
            metrics = values_of(learner.forward_backward([e for e in batch if e.loss_mask.any()]))
            flat = torch.cat([p.grad.flatten() for p in learner.engine.trainable if p.grad is not None])
            dist.all_reduce(flat)
            metrics.pop("learner/padding_share")
            save(out / f"{name}-{layout}-{budget}", {"gradient": (flat / dist.get_world_size()).numpy(), **metrics})


def updates(model: str, out: Path) -> None:
    """Two asynchronous updates of every algorithm that reads more than its examples; the weights after them."""
    from raylign.learners.learner import Learner

    for layout, budget in splits(num_ranks()):
        for name, config in UPDATES.items():
            settings = LearnerConfig(
                learning_rate=0.3,
                adam_epsilon=1.0,
                layout=layout,  # type: ignore[arg-type]
                micro_batch_tokens=budget,
                threads_per_rank=1,
            )
            learner = Learner(settings, model, config.build_objective(2), 1.0, 4, 0, out, max_staleness=2)
            batch = [
                replace(
                    example,
                    rollout_logps=np.full(len(example.completion_ids), -4.0, np.float32),
                    token_versions=np.full(len(example.completion_ids), 3 + number % 2, np.int32),
                )
                for number, example in enumerate(examples())
            ]
            learner.update(batch, version=4)
            metrics = learner.update(batch, version=5)
            weights = np.concatenate([tensor.float().flatten().numpy() for _, tensor in learner.weights()])
            for key in ("learner/padding_share", "learner/tokens_per_s"):
                metrics.pop(key)
            save(out / f"update-{name}-{layout}-{budget}", {"weights": weights, **metrics})


def levels(model: str, out: Path) -> None:
    """BDR: loss and gradient, two updates with the selector's steps, and the same again from a saved state."""
    import torch
    import torch.distributed as dist

    from raylign.learners.learner import Learner

    for layout, budget in splits(num_ranks()):
        for name, config in LEVEL_ALGORITHMS.items():

            def learner_of(config: Any = config, layout: Any = layout, budget: int = budget) -> Learner:
                optimizer = {"learning_rate": 0.3, "adam_epsilon": 1.0}
                settings = LearnerConfig(layout=layout, micro_batch_tokens=budget, threads_per_rank=1, **optimizer)
                return Learner(settings, model, weighing(config), 1.0, 4, 0, out)

            learner = learner_of()
            algorithm: Any = learner.objective
            batch = algorithm.complete(level_examples(config))
            if learner.objective.needs_reference:
                refs = [logps - np.float32(0.1) * (i % 3) for i, logps in enumerate(learner.logprobs(batch))]
                batch = [replace(e, reference_logps=logps) for e, logps in zip(batch, refs, strict=True)]
            numbers: dict[str, Any] = {"loss": learner.forward_backward(batch)["learner/loss"].value}
            flat = torch.cat([p.grad.flatten() for p in learner.engine.trainable if p.grad is not None])
            dist.all_reduce(flat)
            numbers["gradient"] = (flat / dist.get_world_size()).numpy()

            learner = learner_of()
            learner.update(level_examples(config))
            learner.save_state(out / f"{name}-{layout}-{budget}-state")
            last = learner.update(level_examples(config)[:-1])
            resumed = learner_of()
            resumed.load_state(out / f"{name}-{layout}-{budget}-state")
            again = resumed.update(level_examples(config)[:-1])
            same = [key for key in last if key.startswith(("selection/", "learner/loss"))]
            assert [last[key] for key in same] == [again[key] for key in same], f"{name} does not resume bit for bit"
            for key, value in learner.objective.state().items():
                assert np.array_equal(value, resumed.objective.state()[key]), (name, key)
            numbers["logits"] = learner.objective.state()["logits"]
            numbers["weights"] = np.concatenate([t.float().flatten().numpy() for _, t in learner.weights()])
            save(out / f"levels-{name}-{layout}-{budget}", numbers | {key: last[key] for key in same})

    # fewer sequences than ranks: the rank that has none steps its selector too
    learner = learner_of()
    learner.update(level_examples(config)[:1] + level_examples(config)[-1:])
    losses = torch.from_numpy(learner.objective.state()["logits"])
    others = [torch.empty_like(losses) for _ in range(dist.get_world_size())]
    dist.all_gather(others, losses)
    assert all(torch.equal(other, losses) for other in others), "selectors of the ranks have come apart"


def steps(model: str, out: Path) -> None:
    """Two updates at every ZeRO stage, with a reference model; the weights after them."""
    import torch

    from raylign.learners.learner import Learner

    for name, settings in STAGES.items():
        # with a large epsilon Adam is nearly linear in the gradient, so that rounding noise stays noise
        config = LearnerConfig(
            learning_rate=0.3,
            adam_epsilon=1.0,
            max_grad_norm=0.5,
            micro_batch_tokens=60,
            threads_per_rank=1,
            **settings,
        )
        learner = Learner(config, model, GrpoConfig(kl_coef=0.1, num_updates=2).build_objective(), 1.0, 4, 0, out)
        batch = [replace(e, rollout_logps=np.full(len(e.completion_ids), -4.0, np.float32)) for e in examples()]
        first, second = learner.update(batch), learner.update(batch[:2])  # the second: fewer examples than passes
        after = {name: tensor.float().numpy().copy() for name, tensor in learner.weights()}
        shapes = [(key, tuple(after[key].shape)) for key, _, _ in learner.weight_metadata()]
        assert shapes == [(key, value.shape) for key, value in after.items()]
        logps = np.concatenate(learner.logprobs(batch))
        learner.save_model(out / f"{name}-model")
        learner.save_state(out / f"{name}-state")
        third = learner.update(batch)
        resumed = Learner(config, model, GrpoConfig(kl_coef=0.1, num_updates=2).build_objective(), 1.0, 4, 0, out)
        resumed.load_state(out / f"{name}-state")
        again = resumed.update(batch)
        for key in ("learner/loss", "learner/grad_norm"):
            assert third[key] == again[key], (name, key, third[key], again[key])
        for (_, a), (_, b) in zip(learner.weights(), resumed.weights(), strict=True):
            assert torch.equal(a, b), f"{name} does not resume bit for bit"
        numbers = {f"{step}/{key}": value for step, part in enumerate((first, second)) for key, value in part.items()}
        save(out / name, {**after, "logps": logps, **numbers})


RESIZED: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero1_bf16": {"zero_stage": 1, "dtype": "bfloat16"},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero2_rmsprop": {"zero_stage": 2, "optimizer": "rmsprop"},
    "zero3_rmsprop": {"zero_stage": 3, "optimizer": "rmsprop"},
}
"""Groups that are resumed with another number of ranks."""


def resizing(name: str, model: str, out: Path) -> Any:
    from raylign.learners.learner import Learner

    config = LearnerConfig(learning_rate=1e-2, micro_batch_tokens=100, threads_per_rank=1, **RESIZED[name])
    return Learner(config, model, SftConfig().build_objective(), 1.0, 10, 0, out)


def written(model: str, out: Path, names: Iterable[str]) -> None:
    """States after two steps, and the losses of the next three."""
    for name in names:
        learner = resizing(name, model, out)
        for _ in range(2):
            learner.update(examples())
        learner.save_state(out / f"resized-{name}")
        next_losses(learner, out / f"resized-{name}-losses")


def resized(model: str, out: Path, names: Iterable[str]) -> None:
    """The same of groups that take up `whole-NAME`, which others wrote."""
    for name in names:
        learner = resizing(name, model, out)
        learner.load_state(out / f"whole-{name}")
        next_losses(learner, out / f"whole-{name}-losses")


def next_losses(learner: Any, path: Path) -> None:
    """And the weights before them."""
    weights = {name: tensor.float().numpy().copy() for name, tensor in learner.weights()}
    losses = np.array([learner.update(examples())["learner/loss"] for _ in range(3)])
    save(path, weights | {"losses": losses})


def save(path: Path, values: dict[str, Any]) -> None:
    from raylign.learners.engines.distributed import rank

    if rank() == 0:
        np.savez(path.with_suffix(".npz"), **{key.replace("/", "|"): value for key, value in values.items()})


CASES: dict[str, Callable[..., None]] = {
    "gradients": gradients,
    "updates": updates,
    "steps": steps,
    "levels": levels,
    "written": written,
    "resized": resized,
}


def run(model: str, out: Path, parts: str) -> None:
    """Cases by name, some of them of some settings alone: `steps,written:zero2+zero3`."""
    for part in parts.split(","):
        case, _, names = part.partition(":")
        CASES[case](model, out, *([names.split("+")] if names else []))


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
