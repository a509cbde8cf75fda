"""Dropout in adapters: in training passes only, and the same after a resume or with recomputed activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.preference.dpo import Dpo, DpoConfig
from raylign.learners.engines.config import LearnerConfig, LoraConfig
from raylign.learners.examples.example import Example
from raylign.learners.learner import Learner
from raylign.learners.model.model_logps import answer_logps
from tests.learners.algorithms.pair_cases import random_pairs


def make(model: Path, folder: Path, dropout: float = 0.5, **settings: Any) -> Learner:
    lora = LoraConfig(rank=4, dropout=dropout)
    config = LearnerConfig(learning_rate=1e-2, threads_per_rank=1, lora=lora, **settings)
    return Learner(config, str(model), Dpo(DpoConfig()), 1.0, 8, 0, folder / "debug")


def examples() -> list[Example]:
    return DpoConfig().build_examples().from_pairs(random_pairs())


def weights_of(learner: Learner) -> np.ndarray:
    return np.concatenate([tensor.flatten().numpy() for _, tensor in learner.weights()])


def test_the_first_loss_is_that_of_equal_policies(tiny_model: Path, tmp_path: Path) -> None:
    """Adapters begin as nothing, so what they leave out is nothing; and the reference has none."""
    assert make(tiny_model, tmp_path).update(examples())["learner/loss"] == pytest.approx(np.log(2), rel=1e-5)


def test_only_training_passes_leave_anything_out(tiny_model: Path, tmp_path: Path) -> None:
    learner = make(tiny_model, tmp_path)
    for _ in range(3):
        learner.update(examples())
    learner.save_model(tmp_path / "saved")
    parts = examples()
    prompts, answers = [part.prompt_ids for part in parts], [part.completion_ids for part in parts]
    for found, expected in zip(
        learner.logprobs(parts), answer_logps(str(tmp_path / "saved"), prompts, answers), strict=True
    ):
        assert found == pytest.approx(expected, abs=1e-5)
    measured = learner.evaluate(parts)["preference/margin"]
    assert learner.evaluate(parts)["preference/margin"] == measured
    trained = learner.update(parts)["preference/margin"]
    assert abs(trained - measured) > 1e-4
    whole = make(tiny_model, tmp_path / "whole", dropout=0.0)
    for _ in range(3):
        whole.update(parts)
    expected_margin = whole.evaluate(parts)["preference/margin"]
    assert whole.update(parts)["preference/margin"] == pytest.approx(expected_margin, rel=1e-5)


def test_a_resumed_learner_leaves_out_the_same(tiny_model: Path, tmp_path: Path) -> None:
    first = make(tiny_model, tmp_path)
    first.update(examples())
    first.save_state(tmp_path / "state")
    again = make(tiny_model, tmp_path)
    torch.manual_seed(99)
    again.load_state(tmp_path / "state")
    for learner in (first, again):
        learner.update(examples())
    assert np.array_equal(weights_of(first), weights_of(again))


def test_recomputed_activations_leave_out_the_same(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for recompute in (False, True):
        learner = make(tiny_model, tmp_path, gradient_checkpointing=recompute)
        for _ in range(2):
            learner.update(examples())
        found.append(weights_of(learner))
    assert found[0] == pytest.approx(found[1], abs=1e-6)
