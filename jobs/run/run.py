"""A run in progress: what happens between steps.

Given a `TrainConfig`; gives the verbs that the train loop reads like a page: prompts, rollouts, learner, weights,
record, evaluate, checkpoint. Only this file knows how the parts (`jobs/run/parts.py`) work together.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.rows import (
    RowExamples,
    num_steps_of,
    open_rows,
)
from raylign.jobs.curricula.two_levels import TwoLevelRows
from raylign.jobs.report.report import write_report
from raylign.jobs.run.checkpoints import Checkpoint, CheckpointRecord, CheckpointStore
from raylign.jobs.run.experience_flow import ExperienceFlow, LiveFlow
from raylign.jobs.run.folder import RunFolder, read_metrics
from raylign.jobs.run.held_out import HeldOut
from raylign.jobs.run.metrics import flow_metrics
from raylign.jobs.run.pair_evaluation import evaluation_words
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.progress import Progress
from raylign.jobs.run.replay_flow import ReplayFlow
from raylign.jobs.run.samples import write_answers, write_samples
from raylign.jobs.run.step_batches import StepBatch
from raylign.jobs.run.trackers import Trackers
from raylign.learners.algorithms.base import Algorithm
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig
from raylign.learners.algorithms.registry import build_algorithm
from raylign.learners.examples.example import Example
from raylign.learners.meters.mismatch import ess_alarm
from raylign.rewards.scoring import weights_by_name
from raylign.rollout.model_folder import load_tokenizer

NUM_SAMPLE_FILES = 50
"""Samples to read are written about so many times in a run."""


class Run:
    """One training run. Built by `Run.open`, which also takes everything down again."""

    _task: asyncio.Task[None]
    """The task that runs the loop: a second Ctrl-C cancels it."""

    def __init__(self, config: TrainConfig) -> None:
        self.sampling = config.sampling
        self.prompts_per_step = config.rollout.prompts_per_step
        self.deterministic = config.rollout.deterministic
        self.algorithm: Algorithm = build_algorithm(
            config.algorithm, config.asynchrony.max_staleness, weights_by_name(config.rewards)
        )
        self.algorithm.open(config.seed, self.prompts_per_step)
        self.parts = RunParts(config, self.algorithm)
        tokenizer = load_tokenizer(config.model.path)
        self._levels = (
            TwoLevelRows(config, config.algorithm, tokenizer, self.parts)
            if isinstance(config.algorithm, TwoLevelConfig)
            else None
        )
        self.prompts = self._levels.weighed if self._levels else open_rows(config, tokenizer)
        self._row_examples = self._levels or RowExamples(self.prompts, self.algorithm, self.prompts_per_step)
        self._held_out = HeldOut(config, self.algorithm, tokenizer)
        self.folder = RunFolder.create(
            config.folder, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), config.resume
        )
        self.config = config.model_copy(update={"num_steps": num_steps_of(config, len(self.prompts))})
        self._checkpoints = CheckpointStore(self.folder.checkpoints_path, config.checkpoints.keep_last)
        self._checkpoints.clean()
        self._start_checkpoint = self._checkpoints.latest() if config.resume else None
        self.step = 0
        self._seconds_before = 0.0
        self.num_tokens_generated = 0
        if self._start_checkpoint:
            self._continue_from(self._start_checkpoint)
        elif config.resume:
            self.folder.cut_metrics(-1)
        self._clock = time.monotonic()
        self._stop_asked = False
        self._is_stepping = False
        self._flow: ExperienceFlow | None = None
        self._log_position = self._start_checkpoint.record.log_position if self._start_checkpoint else None
        self._delivery: asyncio.Task[None] | None = None
        self._weight_metrics: dict[str, float] = {}
        self._times_s: dict[str, float] = {}
        self._saved_step = self.step
        self.evaluations = [line for line in read_metrics(self.folder.path) if "evaluation/seconds" in line]
        self._evaluated_step = int(self.evaluations[-1]["step"]) if self.evaluations else -1
        self._trackers = Trackers(config.trackers, self.folder, self.step)
        self._progress = Progress(config.name, self.config.num_steps, start=self.step)

    # ---- start and end ---------------------------------------------------------------------------------

    @classmethod
    @asynccontextmanager
    async def open(cls, config: TrainConfig) -> AsyncIterator[Run]:
        """Everything started; everything ended again, whatever happens in between."""
        run = cls(config)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, run._ask_to_stop)
        loop.add_signal_handler(signal.SIGTERM, run._ask_to_stop)
        task = asyncio.current_task()
        assert task is not None
        run._task = task
        try:
            await run._start()
            yield run
        finally:
            await run._end()
            loop.remove_signal_handler(signal.SIGINT)
            loop.remove_signal_handler(signal.SIGTERM)

    async def _start(self) -> None:
        engines = " and the engines" if self.parts.num_engines else ""
        with self._progress.waiting("starting the learner" + engines):
            await self.parts.start(
                self.config.num_steps,
                self.folder.path,
                self._start_checkpoint,
                self._levels.about_rows(self.config.num_steps) if self._levels else None,
            )
        self._progress.__enter__()

    async def _end(self) -> None:
        """Reverse order, and the rest whatever happens to one."""
        try:
            if self._levels is not None:
                await self._levels.stop()
        finally:
            try:
                await self.parts.stop()
            finally:
                self._progress.__exit__()
                self._trackers.close()
                self.folder.close()

    def _ask_to_stop(self) -> None:
        """First Ctrl-C: finish the step and save. Second, or before the first step: stop at once; checkpoints stay."""
        if self._stop_asked or not self._is_stepping:
            self._stop_asked = True
            self._task.cancel()
            return
        self._stop_asked = True
        self._progress.say("stopping after this step and saving (Ctrl-C again: stop at once)")

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        record = checkpoint.record
        if record.data_fingerprint != self.prompts.fingerprint:
            raise ValueError(
                f"the data changed since {checkpoint.path} was written (fingerprint {record.data_fingerprint}, "
                f"now {self.prompts.fingerprint}): rows could be trained twice or never; restore them or use a new name"
            )
        if self._levels is not None:
            self._levels.load(checkpoint.path)
        self.step = record.step
        self._seconds_before = record.seconds
        self.num_tokens_generated = record.tokens_generated
        self.folder.cut_metrics(record.step)

    # ---- the verbs of the loop --------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """Steps to do, counted from 0; ends early when asked to stop."""
        self._is_stepping = True
        while self.step < self.config.num_steps and not self._stop_asked:
            yield self.step

    @property
    def was_interrupted(self) -> bool:
        """Asked to stop, and steps are left to do."""
        return self._stop_asked and self.step < self.config.num_steps

    @asynccontextmanager
    async def experience_flowing(self) -> AsyncIterator[None]:
        """Engines generate, rewards score, the log fills, from here to the end of the block."""
        if self.config.replay:
            self._flow = ReplayFlow(self.config, self.algorithm)
            yield
            self._flow = None
            return
        self._flow = await LiveFlow.start(
            self.config,
            self.parts.rollouts,
            self.prompts,
            self.algorithm,
            self.folder.experience_path,
            step=self.step,
            position=self._log_position,
            takes_turns=self.parts.takes_turns,
        )
        if self.parts.takes_turns:
            await self.parts.learner.offload()
        try:
            yield
            await self._delivered()
        finally:
            if self._delivery is not None:
                self._delivery.cancel()
            await self._flow.stop()
            self._flow = None

    async def next_batch(self, step: int) -> StepBatch:
        """What `step` trains, as soon as it is there."""
        assert self._flow is not None, "inside `experience_flowing`"
        self._step_began_s = time.perf_counter()
        batch = await self._flow.next(step)
        self._times_s["wait"] = time.perf_counter() - self._step_began_s
        if self.parts.takes_turns:
            await self.parts.rollouts.sleep()
            await self.parts.learner.reload()
        if self.algorithm.routing is not None:
            rows = self._row_examples.of_step(step, first_unit=len(batch.groups))
            batch = replace(batch, examples=batch.examples + rows)
        return batch

    async def update(self, examples: list[Example], version: int | None) -> dict[str, float]:
        """One batch through the learner."""
        clock = time.perf_counter()
        try:
            return await self.parts.update(examples, version)
        finally:
            self._times_s["learner"] = time.perf_counter() - clock

    async def refresh_answers(self, step: int) -> dict[str, float]:
        """The policy's answers to rows, asked for where due and put in place once they are there (bdr_online); gives
        metrics of those put in place."""
        self._step_began_s = time.perf_counter()
        if self._levels is None:
            return {}
        metrics = await self._levels.before_step(step)
        self.num_tokens_generated += int(metrics.get("refresh/tokens", 0))
        self._times_s["wait"] = time.perf_counter() - self._step_began_s
        return metrics

    def rows(self, step: int) -> list[Example]:
        """Examples of the rows of `step`, from their own answers."""
        return self._row_examples.of_step(step)

    async def _send_weights_now(self) -> None:
        """To engines that answer beside the training."""
        if self._levels is not None:
            await self._levels.engines_free()
        if self.parts.publisher.version < self.step:
            await self.parts.publisher.publish(self.step)

    async def publish_weights(self, version: int) -> dict[str, float]:
        """The learner's weights on their way to every engine; the learner may go on at once where η > 0.

        Gives metrics of the last update that has arrived. Errors say which side failed.
        """
        if self._flow is None or not hasattr(self.parts, "publisher"):
            return {}
        clock = time.perf_counter()
        await self._delivered()
        exported = await self.parts.publisher.export(version)
        if self.parts.takes_turns:
            await self.parts.learner.offload()
            await self.parts.rollouts.wake()
        self._delivery = asyncio.create_task(self._deliver(exported))
        if self.config.asynchrony.max_staleness == 0 or self.parts.takes_turns:
            await self._delivered()
        self._times_s["weights"] = time.perf_counter() - clock
        return self._weight_metrics

    async def _deliver(self, exported: Any) -> None:
        try:
            self._weight_metrics = await self.parts.publisher.deliver(exported)
        except Exception as error:
            if self._flow is not None:
                self._flow.fail(error)  # the loop may be waiting for groups that no engine can give any more
            raise

    async def _delivered(self) -> None:
        """The weights on their way have arrived."""
        if self._delivery is not None:
            delivery, self._delivery = self._delivery, None
            await delivery

    async def record_step(self, batch: StepBatch | None, metrics: dict[str, float]) -> None:
        """The step is trained: say so to the log; one line of metrics, progress, trackers, samples to read."""
        step = self.step + 1
        step_s = self._times_s["step"] = time.perf_counter() - self._step_began_s
        line: dict[str, float] = {"step": step, "seconds": self._seconds()}
        learning_s = self._times_s["learner"] + self._times_s.get("weights", 0.0)
        line["idle/learner_share"] = max(0.0, 1.0 - learning_s / step_s)
        if batch is not None:
            assert self._flow is not None
            counts, self._log_position = await self._flow.trained(batch)
            line |= batch.metrics
            if not self.config.replay:
                line |= flow_metrics(counts, step_s, self.config.rollout.num_engines)
            if counts.refused:
                self._progress.say(f"step {step}: {counts.refused} groups failed and are redone: {counts.last_words}")
            if line.get("time/rollout_s"):
                line["rollout/tokens_per_s"] = line["rollout/tokens"] / line["time/rollout_s"]
            self.num_tokens_generated += int(line["rollout/tokens"])
            if step == 1 or step % max(1, self.config.num_steps // NUM_SAMPLE_FILES) == 0:
                write_samples(self.folder, step, batch.groups, seed=self.config.seed)
        if alarm := ess_alarm(metrics, self.algorithm.alarm_below):
            self._progress.say(f"step {step}: {alarm}")
        line |= metrics | {f"time/{phase}_s": seconds for phase, seconds in self._times_s.items()}
        self._times_s = {}
        self.step = step
        self.folder.append_metrics(line)
        self._trackers.log(step, line)
        self._progress.advance(step, line)

    async def evaluate(self) -> dict[str, float]:
        """What the model does on held-out rows; nothing where no evaluation is configured."""
        evaluates = bool(self._held_out) or (self._levels is not None and self._levels.evaluates)
        if not evaluates or self.step == self._evaluated_step:
            return {}
        self._evaluated_step = self.step
        clock = time.perf_counter()
        line = {"step": float(self.step), "seconds": self._seconds()}
        line |= await self._held_out.rank_pairs(self.parts.learner)
        if self._levels is not None:
            line |= await self._levels.evaluate()
        if self._held_out.prompts is not None:
            if self.algorithm.learns_from_rows and not self.algorithm.needs_rollouts and self.step:
                await self._send_weights_now()
            await self._delivered()
            metrics, groups = await self._held_out.answer_prompts(self.parts.evaluation_pool)
            self.num_tokens_generated += sum(group.num_tokens for group in groups)
            write_answers(self.folder, self.step, groups)
            line |= metrics
        line["evaluation/seconds"] = time.perf_counter() - clock
        self.evaluations.append(line)
        self.folder.append_metrics(line)
        self._trackers.log(self.step, line)
        self._progress.say(f"step {self.step}: {evaluation_words(line)}")
        return line

    async def evaluate_at_start(self) -> None:
        """What the run began with; a resumed run has it already."""
        if self.step == 0:
            await self.evaluate()

    async def evaluate_if_due(self, step: int) -> None:
        """Every `evaluation.every_steps`, and after the last step."""
        every = self.config.evaluation.every_steps
        if step == self.config.num_steps or (every and step % every == 0):
            await self.evaluate()

    async def checkpoint_if_due(self, step: int) -> None:
        """Every `checkpoints.every_steps`."""
        every = self.config.checkpoints.every_steps
        if every and step % every == 0:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Model and resumable state, complete or not there."""
        record = CheckpointRecord(
            step=self.step,
            prompt_ordinal=self.step * self.prompts_per_step,
            seed=self.config.seed,
            data_fingerprint=self.prompts.fingerprint,
            num_metrics_lines=self.folder.num_metrics_lines,
            versions={name: importlib.metadata.version(name) for name in ("raylign", "torch", "transformers")},
            seconds=self._seconds(),
            tokens_generated=self.num_tokens_generated,
            log_position=self._log_position,
        )
        if self.parts.takes_turns:
            await self.parts.learner.reload()
        loop = asyncio.get_running_loop()

        def write(folder: Path) -> None:
            asyncio.run_coroutine_threadsafe(self.parts.learner.save(folder.absolute()), loop).result()
            if self._levels is not None:
                self._levels.save(folder)
            if not any(folder.glob("*.safetensors")):
                raise RuntimeError(
                    f"the learner saved its weights, but {folder.absolute()} has none: on several nodes the run folder "
                    "must lie on a disk that all of them see (folder)"
                )

        await asyncio.to_thread(self._checkpoints.save, record, write)
        if self._levels is not None:
            await self._levels.write_selection(self.folder.path, self.step)
        if self.parts.takes_turns:
            await self.parts.learner.offload()
        if self._flow is not None:
            await self._flow.commit()
        self._saved_step = self.step

    async def save_progress(self) -> None:
        """A checkpoint, unless the last step has one."""
        if self._saved_step < self.step:
            await self.checkpoint()
            self._progress.say(f"saved step {self.step}")

    async def finish(self) -> None:
        """Save what is not saved yet, the summary and the report."""
        await self.save_progress()
        self.folder.write_summary(self.summary())
        write_report(self.folder.path)

    def summary(self) -> dict[str, Any]:
        """The end result in a few numbers."""
        accuracies = [line.get("evaluation/accuracy", math.nan) for line in self.evaluations] or [math.nan]
        latest = self._checkpoints.latest()
        return {
            "name": self.config.name,
            "finished": self.step == self.config.num_steps,
            "num_steps": self.step,
            "seed": self.config.seed,
            "seconds": round(self._seconds(), 1),
            "tokens_generated": self.num_tokens_generated,
            "accuracy_before": None if math.isnan(accuracies[0]) else accuracies[0],
            "accuracy_after": None if math.isnan(accuracies[-1]) else accuracies[-1],
            "checkpoint": str(latest.path) if latest else None,
            "evaluation": self.evaluations[-1] if self.evaluations else None,
        }

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._clock
