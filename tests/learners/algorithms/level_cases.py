"""Both levels of BDR for tests with real models: rows of a vocabulary of 97, some of them answered by a policy.

Given an algorithm; gives the examples of one step, its selector no longer uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raylign.learners.algorithms.bilevel.bdr import BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.bilevel.level_rows import (
    WeighedRow,
    WeighedRows,
    trusted_examples,
    weighed_examples,
    with_old_logps,
)
from raylign.learners.algorithms.bilevel.selector import SelectorConfig
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelAlgorithm
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.examples.example import Example
from raylign.rollout.sample import Completion, PreferencePair, Prompt, VersionSpan

SELECTOR = SelectorConfig(learning_rate=0.1, adam_epsilon=1.0)
LEVEL_ALGORITHMS: dict[str, AnyAlgorithmConfig] = {
    "bdr": BdrConfig(selector=SELECTOR),
    "bdr_gate": BdrConfig(gate=True, filter_rate=0.4, selector=SELECTOR),
    "bdr_dpo": BdrConfig(upper="dpo", selector=SELECTOR),
    "bdr_online": BdrOnlineConfig(filter_rate=0.3, selector=SELECTOR),
    "bdr_online_ipo": BdrOnlineConfig(upper="ipo", filter_rate=0.3, selector=SELECTOR),
}
NUM_ROWS = 20


def level_examples(algorithm: TwoLevelAlgorithm[Any]) -> list[Example]:
    """Five trusted rows or pairs, eight weighed rows; of those two have answers where the algorithm takes them."""
    rng = np.random.default_rng(5)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, 97, rng.integers(low, high)).astype(np.int32)

    def answer() -> Completion:
        token_ids = ids(2, 12)
        logps = -rng.exponential(3.0, len(token_ids)).astype(np.float32)
        return Completion(token_ids, logps, (VersionSpan(0, 0, len(token_ids)),), "stop", "x")

    if algorithm.config.upper == "sft":
        above = trusted_examples([(ids(1, 9), ids(1, 14)) for _ in range(5)])
    else:
        prompts = [Prompt(str(number), number, "", ids(1, 9)) for number in range(5)]
        above = trusted_examples([PreferencePair(prompt, ids(1, 14), ids(1, 14), "", "", 0.9) for prompt in prompts])
    answers = {2: (answer(), answer(), answer()), 5: (answer(),)} if algorithm.keeps_old_logps else {}
    rows = [WeighedRow(2 * entry, ids(1, 9), ids(1, 40), answers.get(entry)) for entry in range(8)]
    made = above + weighed_examples(rows)
    return with_old_logps(made) if algorithm.keeps_old_logps else made


def weigh(algorithm: TwoLevelAlgorithm[Any]) -> None:
    """A selector that has learned something."""
    algorithm.weigh(WeighedRows(NUM_ROWS, "a", rows_per_step=8, num_steps=4))
    with torch.no_grad():
        algorithm.selector.logits.copy_(torch.from_numpy(np.random.default_rng(6).normal(0, 1, NUM_ROWS)))
