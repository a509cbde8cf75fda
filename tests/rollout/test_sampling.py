"""Answers that nothing is trained on may be cut by top-p, and training refuses them."""

from __future__ import annotations

import asyncio

import pytest

from raylign.actors.rollout_worker import RolloutWorker
from raylign.jobs.config.train import TrainConfig
from raylign.rewards.rules import ExactConfig
from raylign.rollout.engine.fake_engine import FakeEngine
from raylign.rollout.engine.vllm_engine import sampling_params
from raylign.rollout.sampling import AnswerSamplingConfig, SamplingConfig


def test_only_answers_are_cut_by_top_p() -> None:
    asked = sampling_params(AnswerSamplingConfig(temperature=0.7, top_p=0.9, max_tokens=512), seed=3)
    assert (asked.temperature, asked.top_p, asked.max_tokens, asked.n) == (0.7, 0.9, 512, 1)
    assert sampling_params(SamplingConfig(), seed=3).top_p == 1.0


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_training_refuses_a_config_of_answers(top_p: float) -> None:
    sampling = AnswerSamplingConfig(top_p=top_p, num_completions=8)
    with pytest.raises(ValueError, match="nothing is trained on them; give a SamplingConfig"):
        TrainConfig(rewards=[ExactConfig(name="exact")], sampling=sampling)
    worker = RolloutWorker.around(FakeEngine(lambda prompt, seed: "x"))
    with pytest.raises(ValueError, match="nothing is trained on them; give a SamplingConfig"):
        asyncio.run(worker.generate_for_log([], sampling, ordered=False))
    with pytest.raises(ValueError, match="top_p"):
        TrainConfig.model_validate({"rewards": [{"name": "exact"}], "sampling": {"top_p": 0.9}})
