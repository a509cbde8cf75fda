"""BLEU mixed with a reward model, against the worked-out numbers and against the learner's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raylign.learners.losses import advantages
from raylign.learners.losses.advantages import group_advantages, several_reward_advantages
from raylign.rewards.base import Graded, Item, RewardFailure
from raylign.rewards.bleu_rm import BleuRmConfig, BleuRmReward, mean_of_z_scores
from raylign.rewards.overlap import bleu
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from tests.rewards.test_reward_model import make_model

BLEU, MODEL = [0.1, 0.3, 0.2, 0.4], [-2.0, 5.0, 1.0, 0.0]
EXPECTED = [-1.090467, 0.873014, -0.193648, 0.411102]


def test_one_group_gives_the_worked_out_numbers() -> None:
    assert mean_of_z_scores(BLEU, MODEL) == pytest.approx(EXPECTED, abs=5e-7)
    of_bleu = group_advantages([np.array(BLEU, np.float32)], "group", 1e-4)[0]
    assert of_bleu.tolist() == pytest.approx([-1.160996, 0.386999, -0.386999, 1.160996], abs=2e-6)


def test_a_group_is_what_the_learner_makes_of_two_rewards_before_it_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [{"bleu": np.array(BLEU, np.float32), "rm": np.array(MODEL, np.float32)}]
    learned = several_reward_advantages(groups, {"bleu": 0.5, "rm": 0.5})[0]
    mixed = np.array(mean_of_z_scores(BLEU, MODEL))
    assert mixed / mixed.std(ddof=1) == pytest.approx(learned.tolist(), abs=1e-5)
    monkeypatch.setattr(advantages, "unbiased_std", lambda values: 0.0)  # the last division left out
    undivided = several_reward_advantages(groups, {"bleu": 0.5, "rm": 0.5})[0]
    assert undivided.tolist() == pytest.approx(EXPECTED, abs=1e-6)


def test_equal_scores_say_nothing_and_failures_stay() -> None:
    failure = RewardFailure("nan", "the score is nan")
    assert mean_of_z_scores([0.5, 0.5], [1.0, 1.0]) == [0.0, 0.0]
    mixed = mean_of_z_scores([0.1, 0.3, 0.2], [failure, 1.0, 2.0])
    assert mixed[0] is failure and mixed[1:] == pytest.approx([0.0, 0.0], abs=1e-4)
    assert mean_of_z_scores([failure], [1.0]) == [failure]
    assert mean_of_z_scores([], []) == []


def test_mean_and_std_are_of_the_group_or_of_the_whole_call(tmp_path: Path) -> None:
    model = make_model(tmp_path, None)
    items = [Item("say", ("a b", "a b c d", "x"), ("a b c d e",)), Item("b", ("q r", "z"), ("q r s",))]
    raw_bleu = [[bleu(text, item.references) for text in item.completions] for item in items]
    raw_model = RewardModel(RewardModelConfig(model=model, device="cpu")).score(items)
    of_groups = BleuRmReward(BleuRmConfig(model=model, device="cpu")).score(items)
    for mixed, of_bleu, of_model in zip(of_groups, raw_bleu, raw_model, strict=True):
        assert mixed == pytest.approx(mean_of_z_scores(of_bleu, of_model))
    together = BleuRmReward(BleuRmConfig(model=model, device="cpu", over="batch")).score(items)
    assert [len(scores) for scores in together] == [3, 2]
    assert together[0] + together[1] == pytest.approx(
        mean_of_z_scores(raw_bleu[0] + raw_bleu[1], raw_model[0] + raw_model[1])
    )
    first = of_groups[0][0]
    assert isinstance(first, Graded)
    assert first.parts["bleu"] == pytest.approx(raw_bleu[0][0]) and first.parts["shortest_reference_words"] == 5
