"""Both levels of BDR for tests with real models: rows of a vocabulary of 97, some of them answered by a policy.

Given an algorithm; gives the examples of one step, its selector no longer uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raylign.learners.algorithms.bilevel.bdr import BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.bilevel.selector import SelectorConfig
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig, TwoLevelObjective
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.examples.example import Example
from raylign.learners.examples.rows import Demonstration, WeighedRow
from raylign.rollout.sample import Completion, PreferencePair, Prompt, VersionSpan

SELECTOR = SelectorConfig(learning_rate=0.1, adam_epsilon=1.0)
LEVEL_ALGORITHMS: dict[str, TwoLevelConfig] = {
    "bdr": BdrConfig(selector=SELECTOR),
    "bdr_gate": BdrConfig(gate=True, filter_rate=0.4, selector=SELECTOR),
    "bdr_dpo": BdrConfig(upper="dpo", selector=SELECTOR),
    "bdr_online": BdrOnlineConfig(filter_rate=0.3, selector=SELECTOR),
    "bdr_online_ipo": BdrOnlineConfig(upper="ipo", filter_rate=0.3, selector=SELECTOR),
}
NUM_ROWS = 20


def level_examples(config: TwoLevelConfig) -> list[Example]:
    """Five trusted rows or pairs, eight weighed rows; of those two have answers where the algorithm takes them."""
    rng = np.random.default_rng(5)

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, 97, rng.integers(low, high)).astype(np.int32)

    def answer() -> Completion:
        token_ids = ids(2, 12)
        logps = -rng.exponential(3.0, len(token_ids)).astype(np.float32)
        return Completion(token_ids, logps, (VersionSpan(0, 0, len(token_ids)),), "stop", "x")

    above: list[Demonstration | PreferencePair] = []
    if config.upper == "sft":
        above += [(ids(1, 9), ids(1, 14)) for _ in range(5)]
    else:
        prompts = [Prompt(str(number), number, "", ids(1, 9)) for number in range(5)]
        above += [PreferencePair(prompt, ids(1, 14), ids(1, 14), "", "", 0.9) for prompt in prompts]
    answers = {2: (answer(), answer(), answer()), 5: (answer(),)} if config.refresh else {}
    rows = [WeighedRow(2 * entry, ids(1, 9), ids(1, 40), answers.get(entry)) for entry in range(8)]
    return config.build_examples().from_levels(above, rows)


def weighing(config: TwoLevelConfig) -> TwoLevelObjective[Any]:
    """With a selector that has learned something."""
    objective = config.build_objective(rows=RunRows(NUM_ROWS, "a", rows_per_step=8, num_steps=4))
    assert isinstance(objective, TwoLevelObjective)
    with torch.no_grad():
        objective.selector.logits.copy_(torch.from_numpy(np.random.default_rng(6).normal(0, 1, NUM_ROWS)))
    return objective
