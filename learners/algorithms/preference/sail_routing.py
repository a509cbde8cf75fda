"""Which row takes which route of SAIL: a pure function of the seed and the row's place in the run's order.

Given a seed, the step's size and the routes' shares; gives routes, the uniform number that decides a row's drawn label,
and where the rows stand that the policy answers. Drawn in one place, so ranks, engines and resumed runs agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DATA, DDP, DPP, DPR = 0, 1, 2, 3
_ROUTE = 3
"""What this random stream is for, mixed into its seed (rollout/data/order.py has 1 and 2)."""


class RouteDraws:
    """Implements `Routing`. Ordinals count rows of the run from 0; generated ordinals only those that the policy
    answers."""

    def __init__(self, seed: int, rows_per_step: int, shares: Sequence[float]) -> None:
        """`shares`: of ddp, dpp, dpr."""
        self._seed, self._rows_per_step = seed, rows_per_step
        self._bounds = np.cumsum(shares)
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []
        self._generated: list[int] = []
        """Ordinals of generated rows in the steps drawn so far."""
        self._before: list[int] = [0]

    def route(self, ordinal: int) -> int:
        """DATA, DDP, DPP or DPR."""
        step, place = divmod(ordinal, self._rows_per_step)
        return int(self._drawn(step)[0][place])

    def uniform(self, ordinal: int) -> float:
        """In [0, 1): the drawn label is the other way round where it is not below the probability of the label."""
        step, place = divmod(ordinal, self._rows_per_step)
        return float(self._drawn(step)[1][place])

    def generated_before(self, step: int) -> int:
        """Rows that the policy answers in the steps before `step`."""
        if step:
            self._drawn(step - 1)
        return self._before[step]

    def row_of(self, generated_ordinal: int) -> int:
        """The ordinal of a generated row."""
        while len(self._generated) <= generated_ordinal:
            self._drawn(len(self._steps))
        return self._generated[generated_ordinal]

    def kept_rows(self, step: int) -> list[int]:
        """Ordinals of the rows of `step` that are learned from with the data's own answers."""
        routes = self._drawn(step)[0]
        start = step * self._rows_per_step
        return [start + int(place) for place in np.flatnonzero(routes < DPP)]

    def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        while len(self._steps) <= step:
            number = len(self._steps)
            random = np.random.Generator(np.random.PCG64([self._seed, number, _ROUTE]))
            draws, uniforms = random.random((2, self._rows_per_step))
            routes = np.searchsorted(self._bounds, draws, side="right")  # 0 ddp, 1 dpp, 2 dpr, 3 data
            routes = np.where(routes == len(self._bounds), DATA, routes + 1)
            self._steps.append((routes, uniforms))
            self._generated += [number * self._rows_per_step + int(place) for place in np.flatnonzero(routes >= DPP)]
            self._before.append(len(self._generated))
        return self._steps[step]
