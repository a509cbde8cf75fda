"""Answer checkers of other libraries: `math_verify` (symbolic equality) and `reasoning_gym` (its own scorers).

Given completions, references and, for reasoning_gym, the data row, give the library's score in [0, 1]. Both can
hang on strange input (symbolic simplification), so they run in killable processes.
"""

from __future__ import annotations

import difflib
import logging
from functools import cache
from typing import Any, Literal

from raylign.rewards.answers import boxed, inside_open_tag
from raylign.rewards.base import Item, KillableConfig, PointwiseReward


class MathVerifyConfig(KillableConfig):
    """1 if the final answer (the last box, where there is one) equals a reference as mathematics: 1/2, 0.5 and
    \\frac{1}{2} are one."""

    name: Literal["math_verify"] = "math_verify"
    """Which reward."""


class ReasoningGymConfig(KillableConfig):
    """The scorer of the reasoning_gym task that made the row."""

    name: Literal["reasoning_gym"] = "reasoning_gym"
    """Which reward."""
    task: str | None = None
    """Task whose scorer to use; empty: the one that the row names (`metadata.source_dataset`)."""


class MathVerifyReward(PointwiseReward):
    can_hang = True

    def __init__(self, config: MathVerifyConfig) -> None:
        import math_verify  # type: ignore[import-untyped]

        # Its own time limits use alarms of whole seconds; ours kills the process.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._library = math_verify
        self._parsed_reference = cache(self._parse_reference)

    def _parse_reference(self, reference: str) -> Any:
        for text in (reference, f"${reference}$"):  # bare LaTeX is only read between dollars
            parsed = self._library.parse(text, parsing_timeout=None)
            if parsed:
                return parsed
        raise ValueError(f"reference {reference[:80]!r} is no mathematical expression")

    def score_one(self, completion: str, item: Item, index: int) -> float:
        if not item.references:
            raise ValueError("the prompt has no reference to compare with; set data.reference")
        references = [self._parsed_reference(reference) for reference in item.references]
        return float(any(self._is_right(completion, reference) for reference in references))

    def _is_right(self, completion: str, reference: Any) -> bool:
        """The library joins boxes that stand near each other, which only an answer of several parts may want."""
        last = boxed(completion)
        text = completion if last is None or _has_parts(reference) else f"\\boxed{{{last}}}"
        answer = self._library.parse(text, parsing_timeout=None)
        if not answer and text is not completion:
            answer = self._library.parse(completion, parsing_timeout=None)
        return bool(self._library.verify(reference, answer, timeout_seconds=None))


def _has_parts(reference: Any) -> bool:
    """Whether the parsed reference is a set, a tuple or an interval."""
    import sympy  # type: ignore[import-untyped]

    return any(isinstance(parsed, sympy.Set | sympy.Tuple | list | tuple | set) for parsed in reference)


class ReasoningGymReward(PointwiseReward):
    can_hang = True

    def __init__(self, config: ReasoningGymConfig) -> None:
        import reasoning_gym  # type: ignore[import-untyped]

        self._task = config.task
        self._scorer = cache(reasoning_gym.get_score_answer_fn)
        if config.task is not None:
            known = reasoning_gym.factory.DATASETS
            if config.task not in known:
                nearest = difflib.get_close_matches(config.task, known, n=1)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise ValueError(f"reasoning_gym has no task {config.task!r}{hint}")

    def score_one(self, completion: str, item: Item, index: int) -> float:
        task = self._task or item.row.get("metadata", {}).get("source_dataset")
        if task is None:
            raise ValueError("the row does not say which reasoning_gym task it is of; set `task`")
        return float(self._scorer(task)(answer=inside_open_tag(completion), entry=item.row))
