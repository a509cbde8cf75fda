"""Replay: the groups that a recorded run trained, in the order and the steps in which it did.

Given a run's folder, opens its log read-only; given a step, gives what that step trained, filtered and dropped. What a
restart of the recorded run undid is left out: of a step that was done twice, the last time counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raylign.rollout.experience.logged_rows import LoggedRows, RecordIndex
from raylign.rollout.experience.recovery import recover
from raylign.rollout.experience.types import (
    FOLDER_NAME,
    ExperienceError,
    Lease,
    LogPosition,
    OrdinalState,
    ReplayEndedError,
)


@dataclass
class RecordedStep:
    """What one step did with groups: offsets, in the order in which it did."""

    trained: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    filtered: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)


class ReplayLog:
    """A recorded log, to be read step by step. Made by `open`."""

    def __init__(self, folder: Path, records: RecordIndex, steps: dict[int, RecordedStep]) -> None:
        self.folder = folder
        self._records = records
        self._steps = steps

    @classmethod
    def open(cls, run_folder: Path) -> ReplayLog:
        """The log of a run, finished or not; nothing is written."""
        folder = run_folder / FOLDER_NAME
        if not folder.is_dir():
            raise ValueError(f"{run_folder} holds no {FOLDER_NAME}/ folder, so there is no recorded run to replay")
        recovered = recover(folder, read_only=True)
        records = RecordIndex(folder)
        for record in recovered.records:
            if record.offsets:  # a damaged one too: asking for it names it
                records.add(record.offsets[0], record.place)
        steps: dict[int, RecordedStep] = {}
        for event in recovered.events:
            kind = event["kind"]
            if kind == "opened" and event["position"] is not None:
                last_step = LogPosition.from_json(event["position"]).step
                steps = {step: recorded for step, recorded in steps.items() if step <= last_step}
            elif kind in (OrdinalState.TRAINED, OrdinalState.FILTERED, OrdinalState.DROPPED):
                recorded = steps.setdefault(event["step"], RecordedStep())
                getattr(recorded, kind).extend(event["offsets"])
                if kind == OrdinalState.TRAINED:
                    recorded.weights.extend(event.get("weights", [1.0] * len(event["offsets"])))
        if recovered.num_unknown_lines:
            raise ExperienceError(
                f"{recovered.num_unknown_lines} lines of the journal in {folder} are damaged, so it cannot be told any "
                "more which groups were trained when; the groups themselves can be read, but not replayed"
            )
        return cls(folder, records, steps)

    @property
    def steps(self) -> list[int]:
        """Those in which something was trained, in order."""
        return sorted(step for step, recorded in self._steps.items() if recorded.trained)

    def recorded(self, step: int) -> RecordedStep:
        """What the step did. Raises `ReplayEndedError` if the recording has no such step."""
        if step not in self._steps or not self._steps[step].trained:
            steps = self.steps
            span = f"steps {steps[0]} to {steps[-1]}" if steps else "no trained step at all"
            raise ReplayEndedError(f"the recording in {self.folder} holds {span}, so step {step} cannot be replayed")
        return self._steps[step]

    def lease(self, step: int) -> Lease:
        """The groups that the step trained. There is nothing to settle."""
        recorded = self.recorded(step)
        weights = np.array(recorded.weights, np.float32)
        return Lease(f"replay-{step}", step, tuple(recorded.trained), self.rows(recorded.trained), weights)

    def rows(self, offsets: list[int]) -> LoggedRows:
        """The groups at the offsets, in their order."""
        return self._records.rows(offsets)
