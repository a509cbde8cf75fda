"""The alarm of the effective sample size: few of the trained tokens count, since other weights sampled them.

Given the metrics of each step; gives a sentence where an alarm starts and one where it ends: how long it lasted, and
which setting to change.
"""

from __future__ import annotations

from collections.abc import Mapping

from raylign.learners.meters.mismatch import SHARE, WEIGHTED_SHARE

CALM_STEPS = 5
"""An alarm is over after so many steps in a row without it: one that comes and goes says so once."""


class SampleSizeAlarm:
    """On from the first step whose share is under `threshold` until `CALM_STEPS` steps in a row are not."""

    def __init__(self, threshold: float, max_staleness: int) -> None:
        self._threshold, self._max_staleness = threshold, max_staleness
        self._steps: list[int] = []
        """Under the threshold, since the alarm began; empty: no alarm."""
        self._lowest = 1.0
        self._num_calm = 0

    def after_step(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """What to tell the user now; None: nothing new."""
        share = metrics.get(WEIGHTED_SHARE, metrics.get(SHARE))
        if share is None:
            return None
        if share < self._threshold:
            began = not self._steps
            self._steps.append(step)
            self._lowest, self._num_calm = share if began else min(share, self._lowest), 0
            return f"{self._what(share)}; {self._answer(metrics)}" if began else None
        self._num_calm += 1
        return self._over("is over") if self._steps and self._num_calm >= CALM_STEPS else None

    def at_end(self) -> str | None:
        """The same where the run ends with the alarm on."""
        return self._over("lasted to the end of the run") if self._steps else None

    def _what(self, share: float) -> str:
        return (
            f"effective sample size alarm: the update counts as if only {share:.0%} of its tokens were there "
            f"(algorithm.correction.alarm_below is {self._threshold:.0%})"
        )

    def _answer(self, metrics: Mapping[str, float]) -> str:
        if WEIGHTED_SHARE in metrics:
            cut, left_out = metrics.get("mismatch/truncated_share", 0.0), metrics.get("mismatch/masked_share", 0.0)
            done = (
                f"algorithm.correction weighs tokens, cuts {cut:.1%} of them to its cap and leaves {left_out:.1%} out"
            )
        else:
            done = "no algorithm.correction weighs them: its default where async.max_staleness > 0 is decoupled"
        if metrics.get("staleness/mean", 0.0) > 0:
            change = (
                f"if it lasts, lower async.max_staleness (now {self._max_staleness}) or learner.learning_rate: the "
                "policy moves far while samples wait"
            )
        else:
            change = (
                "the samples are fresh, so engine and learner compute different numbers: compare rollout.engine.dtype "
                "with the learner's, and check that no top_p or top_k cuts the sampling"
            )
        return f"the run goes on; {done}; {change}"

    def _over(self, how: str) -> str:
        steps, self._steps = self._steps, []
        where = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} of the steps {steps[0]} to {steps[-1]}"
        return f"the effective sample size alarm {how}: {where}, lowest {self._lowest:.0%}"
