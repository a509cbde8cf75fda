"""What a run says of itself while it goes: metric lines, progress, trackers, samples to read, its clock.

Given the metrics of each step and evaluation; writes them to the run folder and the trackers and shows progress. It
decides nothing: a run without it would train the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.checkpoints import CheckpointRecord
from raylign.jobs.run.folder import RunFolder, read_metrics
from raylign.jobs.run.pair_evaluation import evaluation_words
from raylign.jobs.run.progress import Progress
from raylign.jobs.run.provenance import resuming_words
from raylign.jobs.run.samples import write_answers, write_samples
from raylign.jobs.run.trackers import Trackers
from raylign.learners.meters.sample_size_alarm import SampleSizeAlarm
from raylign.rollout.sample import Group

NUM_SAMPLE_FILES = 50
"""Samples to read are written about so many times in a run."""


class Recorder:
    """Opened with the run, closed with it."""

    def __init__(self, config: TrainConfig, folder: RunFolder, resumed: CheckpointRecord | None = None) -> None:
        """`config`: with the steps that the run will do. `resumed`: where it goes on; lines after it are cut."""
        step = resumed.step if resumed else 0
        if config.resume:
            folder.cut_metrics(resumed.step if resumed else -1)
        self._config, self._folder = config, folder
        max_staleness = config.asynchrony.max_staleness
        self._alarm = SampleSizeAlarm(config.algorithm.alarm_below(max_staleness), max_staleness)
        self.num_tokens_generated = resumed.tokens_generated if resumed else 0
        self._seconds_before = resumed.seconds if resumed else 0.0
        self._clock = time.monotonic()
        self._rollout_tokens = self._rollout_s = 0.0
        self.evaluations = [line for line in read_metrics(folder.path) if "evaluation/seconds" in line]
        self.evaluated_step = int(self.evaluations[-1]["step"]) if self.evaluations else -1
        self._trackers = Trackers(config.trackers, folder, step)
        self._progress = Progress(config.name, config.num_steps, start=step)
        self.on_step: Callable[[int, Mapping[str, float]], None] | None = None
        """Told the line of each step."""

    def say(self, message: str) -> None:
        """A line for the user, and for whoever reads the run folder later."""
        self._folder.append_log(message)
        self._progress.say(message)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what is waited for, and every 30 s that it still is."""
        with self._progress.waiting(what):
            yield

    def ended(self, was_interrupted: bool) -> None:
        """How to go on; at the end, also where the results are and what changed."""
        if was_interrupted:
            self.say(f"stopped; go on by: {resuming_words()}")
            return
        folder = self._folder.path
        accuracies = [line["evaluation/accuracy"] for line in self.evaluations if "evaluation/accuracy" in line]
        change = f"held-out accuracy {accuracies[0]:.1%} → {accuracies[-1]:.1%}; " if len(accuracies) > 1 else ""
        self.say(f"{change}done: {folder}; look at {self._folder.report_path}")
        self.say(f"go on from it by --model.path {folder}, or with more steps by --num_steps N --resume")

    def started(self) -> None:
        """Steps begin: the time left counts from here."""
        self._progress.__enter__()

    def close(self) -> None:
        """Let the trackers finish, and leave the folder to others."""
        if said := self._alarm.at_end():
            self.say(said)
        self._progress.__exit__()
        self._trackers.close()
        self._folder.close()

    @property
    def seconds(self) -> float:
        """That the run has taken, earlier starts included."""
        return self._seconds_before + time.monotonic() - self._clock

    def step_trained(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """The line of `step`, counted from 1, and samples of its groups."""
        if said := self._alarm.after_step(step, metrics):
            self.say(f"step {step}: {said}")
        line = {"step": step, "seconds": self.seconds, **metrics}
        self._rollout_tokens += line.get("rollout/tokens", 0.0)
        self._rollout_s += line.get("time/rollout_s", 0.0)
        if self._rollout_s and "time/rollout_s" in line:  # of one step alone: its groups may have been there before
            line["rollout/tokens_per_s"] = self._rollout_tokens / self._rollout_s
        self.num_tokens_generated += int(line.get("rollout/tokens", 0) + line.get("refresh/tokens", 0))
        if groups and (step == 1 or step % max(1, self._config.num_steps // NUM_SAMPLE_FILES) == 0):
            write_samples(self._folder, step, groups, seed=self._config.seed)
        self._folder.append_metrics(line)
        self._trackers.log(step, line)
        self._progress.advance(step, line)
        if self.on_step is not None:
            self.on_step(step, line)

    def evaluated(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group], seconds: float) -> None:
        """The line of an evaluation after `step`, and the answers it had."""
        if groups:
            self.num_tokens_generated += sum(group.num_tokens for group in groups)
            write_answers(self._folder, step, groups)
        line = {"step": float(step), "seconds": self.seconds - seconds, **metrics, "evaluation/seconds": seconds}
        self.evaluations.append(line)
        self.evaluated_step = step
        self._folder.append_metrics(line)
        self._trackers.log(step, line)
        self.say(f"step {step}: {evaluation_words(line)}")

    def summary(self, step: int, checkpoint: str | None) -> dict[str, Any]:
        """The end result in a few numbers."""
        accuracies = [line.get("evaluation/accuracy", math.nan) for line in self.evaluations] or [math.nan]
        return {
            "name": self._config.name,
            "finished": step == self._config.num_steps,
            "num_steps": step,
            "seed": self._config.seed,
            "seconds": round(self.seconds, 1),
            "tokens_generated": self.num_tokens_generated,
            "accuracy_before": None if math.isnan(accuracies[0]) else accuracies[0],
            "accuracy_after": None if math.isnan(accuracies[-1]) or step > self.evaluated_step == 0 else accuracies[-1],
            "checkpoint": checkpoint,
            "evaluation": self.evaluations[-1] if self.evaluations else None,
        }
