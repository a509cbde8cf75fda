"""The `bleu_rm` reward: BLEU and a reward model, each as z-scores, and their mean.

Given completions with references; gives (z_BLEU + z_RM) / 2, over each group or, as the published code does, over all
completions that are scored together. Over a group it is what `reward_normalization: per_reward` makes of the two
rewards with weight ½ each, before it divides by the batch's std.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np

from raylign.rewards.base import Graded, Item, Reward, Score
from raylign.rewards.overlap import BleuConfig, BleuReward
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from raylign.rewards.z_scores import z_scores

EPSILON = 1e-6


class BleuRmConfig(RewardModelConfig):
    """Mean of the z-scores of BLEU and of a reward model."""

    name: Literal["bleu_rm"] = "bleu_rm"  # type: ignore[assignment]
    """Which reward."""
    over: Literal["group", "batch"] = "group"
    """Whose mean and std: of the completions of one prompt, or of all that happen to be scored in one call."""


class BleuRmReward(Reward):
    is_batched = True

    def __init__(self, config: BleuRmConfig) -> None:
        self._over = config.over
        self._bleu = BleuReward(BleuConfig())
        self._model = RewardModel(config)

    def score(self, items: Sequence[Item]) -> list[list[Score]]:
        bleu = self._bleu.score(items)
        model = self._model.score(items)
        if self._over == "group":
            return [mean_of_z_scores(bleu_G, model_G) for bleu_G, model_G in zip(bleu, model, strict=True)]
        together = mean_of_z_scores(list(chain.from_iterable(bleu)), list(chain.from_iterable(model)))
        result: list[list[Score]] = []
        for item in items:
            result.append(together[: len(item.completions)])
            together = together[len(item.completions) :]
        return result

    def close(self) -> None:
        self._model.close()


def mean_of_z_scores(bleu: Sequence[Score], model: Sequence[Score]) -> list[Score]:
    """Of the completions that both could score; the others keep their failure."""
    both = [
        place
        for place, pair in enumerate(zip(bleu, model, strict=True))
        if all(isinstance(score, float) and math.isfinite(score) for score in pair)
    ]
    columns = [np.array([scores[place] for place in both], np.float64) for scores in (bleu, model)]
    means = (z_scores(columns[0], EPSILON) + z_scores(columns[1], EPSILON)) / 2
    mixed: list[Score] = [right if isinstance(left, float) else left for left, right in zip(bleu, model, strict=True)]
    for place, mean, raw_bleu, raw_model in zip(both, means.tolist(), *columns, strict=True):
        score = bleu[place]
        lengths = score.parts if isinstance(score, Graded) else {}
        mixed[place] = Graded.of(mean, {"bleu": raw_bleu, "reward_model": raw_model, **lengths})
    return mixed
