"""The rows of both levels of BDR as examples, with the facts that its loss reads.

Given trusted rows, or rows to weigh; gives examples. An entry is a weighed row's place in a batch: it has one sequence,
or several answers of the policy whose losses are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from raylign.learners.algorithms.base import ExampleMaker
from raylign.learners.algorithms.preference.pairs import CHOSEN, REJECTED
from raylign.learners.examples.example import Example
from raylign.learners.examples.rows import Demonstration, WeighedRow
from raylign.rollout.sample import IntArray, PreferencePair
from raylign.rollout.staleness import token_versions

UPPER, LOWER = 0.0, 1.0


class LevelExamples(ExampleMaker):
    """Both levels of a step. `keeps_old_logps`: some answers are the policy's own, so examples carry log π_old."""

    def __init__(self, keeps_old_logps: bool) -> None:
        self._keeps_old_logps = keeps_old_logps

    def from_trusted(self, rows: Sequence[Demonstration | PreferencePair]) -> list[Example]:
        return self._completed(trusted_examples(rows))

    def from_levels(
        self, trusted: Sequence[Demonstration | PreferencePair], weighed: Sequence[WeighedRow]
    ) -> list[Example]:
        return self._completed(trusted_examples(trusted) + weighed_examples(weighed))

    def _completed(self, examples: list[Example]) -> list[Example]:
        return with_old_logps(examples) if self._keeps_old_logps else examples


def trusted_examples(rows: Sequence[Demonstration | PreferencePair]) -> list[Example]:
    """The upper level. Coefficients are those of U alone, as for evaluation."""
    examples = []
    for unit, row in enumerate(rows):
        facts = {"level": UPPER, "entry": -1.0, "row": -1.0, "share": 1.0, "sampled": 0.0}
        facts |= {"side": 0.0, "probability": 1.0, "coefficient": 1 / len(rows)}
        if not isinstance(row, PreferencePair):
            examples.append(_example(*row, facts))
            continue
        facts |= {"side": CHOSEN, "probability": row.probability}
        rejected = facts | {"side": REJECTED, "coefficient": 0.0}  # the pair's loss stands with the chosen answer
        examples.append(_example(row.prompt.token_ids, row.chosen_ids, facts, unit))
        examples.append(_example(row.prompt.token_ids, row.rejected_ids, rejected, unit))
    return examples


def weighed_examples(rows: Sequence[WeighedRow]) -> list[Example]:
    """The lower level. Coefficients are 0 until the weights are known."""
    examples = []
    for entry, row in enumerate(rows):
        facts = {"level": LOWER, "entry": float(entry), "row": float(row.row), "side": 0.0, "probability": 1.0}
        facts |= {"share": 1.0, "sampled": 0.0, "coefficient": 0.0}
        if row.answers is None:
            examples.append(_example(row.prompt_ids, row.response_ids, facts))
            continue
        facts |= {"share": 1 / max(1, len(row.answers)), "sampled": 1.0}
        for answer in row.answers:
            versions = token_versions(answer.version_spans)
            example = _example(row.prompt_ids, answer.token_ids, facts)
            examples.append(replace(example, old_logps=answer.logps, token_versions=versions))
    return examples


def with_old_logps(examples: Sequence[Example]) -> list[Example]:
    """Zeros where nothing was sampled: the examples of a batch have the same fields."""
    return [
        example if example.old_logps is not None else replace(example, old_logps=np.zeros_like(example.loss_mask))
        for example in examples
    ]


def counts_above(example: Example) -> bool:
    """Whether it is a term of U: a demonstration, or the chosen answer of a pair."""
    return example.facts["level"] == UPPER and example.facts["side"] != REJECTED


def rows_by_entry(examples: Sequence[Example]) -> dict[int, int]:
    """The row of each entry of the lower level, in the order of the entries."""
    lower = [example.facts for example in examples if example.facts["level"] == LOWER]
    found = {int(facts["entry"]): int(facts["row"]) for facts in lower}
    return dict(sorted(found.items()))


def _example(prompt_ids: IntArray, response_ids: IntArray, facts: Mapping[str, float], unit: int = -1) -> Example:
    prompt, response = np.asarray(prompt_ids, np.int32), np.asarray(response_ids, np.int32)
    return Example(prompt, response, loss_mask=np.ones(len(response), np.float32), unit=unit, facts=facts)
