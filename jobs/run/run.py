"""A run in progress: the verbs that the train loop reads like a page.

Given its parts, its curriculum and its recorder (`jobs/run/opening.py` puts them together); steps, batches, updates,
weights, records, evaluations and checkpoints. Only this file knows how they work together; it names no algorithm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.base import Curriculum
from raylign.jobs.report.report import try_report
from raylign.jobs.run.checkpoints import CheckpointRecord, CheckpointStore, check_model_is_there, library_versions
from raylign.jobs.run.experience_flow import Batches, ExperienceFlow, LiveFlow
from raylign.jobs.run.folder import RunFolder
from raylign.jobs.run.held_out import HeldOut
from raylign.jobs.run.metrics import flow_metrics
from raylign.jobs.run.parts import RunParts
from raylign.jobs.run.recorder import Recorder
from raylign.jobs.run.replay_flow import ReplayFlow
from raylign.jobs.run.step_batches import StepBatch
from raylign.jobs.run.stop_request import StopRequest
from raylign.jobs.run.weight_delivery import WeightDelivery
from raylign.learners.examples.example import Example
from raylign.rollout.sample import Group


class Run:
    """One training run, between its start and its end."""

    def __init__(
        self,
        config: TrainConfig,
        curriculum: Curriculum,
        parts: RunParts,
        held_out: HeldOut,
        folder: RunFolder,
        checkpoints: CheckpointStore,
        recorder: Recorder,
        stop: StopRequest,
        resumed: CheckpointRecord | None = None,
    ) -> None:
        """`config`: with the steps that the run will do. `resumed`: where it goes on."""
        self.config, self.curriculum, self.parts, self._held_out = config, curriculum, parts, held_out
        self.folder, self.checkpoints, self.recorder, self._stop = folder, checkpoints, recorder, stop
        self.step = self._saved_step = resumed.step if resumed else 0
        self._log_position = resumed.log_position if resumed else None
        self._flow: ExperienceFlow | None = None
        self._delivery: WeightDelivery | None = None
        self._times_s: dict[str, float] = {}

    def steps(self) -> Iterator[int]:
        """Steps to do, counted from 0; ends early when asked to stop."""
        self._stop.is_stepping = True
        while self.step < self.config.num_steps and not self._stop.is_asked:
            if self._flow is not None:
                self._flow.begin_step()
            self._step_began_s = time.perf_counter()
            yield self.step

    @property
    def was_interrupted(self) -> bool:
        """Asked to stop, and steps are left to do."""
        return self._stop.is_asked and self.step < self.config.num_steps

    @asynccontextmanager
    async def experience_flowing(self) -> AsyncIterator[Batches]:
        """Engines generate, rewards score, the log fills, from here to the end of the block; gives the batches."""
        flow: ExperienceFlow
        if self.config.replay:
            self._flow = flow = ReplayFlow(self.config, self.curriculum)
        else:
            self.flow_through(flow := await self._live_flow())
        try:
            yield flow.batches
            if self._delivery is not None:
                await self._delivery.arrived()
        finally:
            if self._delivery is not None:
                self._delivery.cancel()
            await flow.stop()
            self._flow = self._delivery = None

    def flow_through(self, flow: ExperienceFlow) -> None:
        """Engines generate for `flow`, with the weights that the learner gets."""
        self._flow = flow
        self._delivery = WeightDelivery(self.parts.publisher, flow.fail)

    async def _live_flow(self) -> LiveFlow:
        return await LiveFlow.start(
            self.config,
            self.parts.rollouts,
            self.curriculum,
            self.folder.experience_path,
            step=self.step,
            position=self._log_position,
            takes_turns=self.parts.takes_turns,
            lost=self.parts.learner.lost,
        )

    async def rows(self, step: int) -> tuple[list[Example], dict[str, float]]:
        """Examples of the rows of `step`, and metrics of what the curriculum did before."""
        metrics = await self.curriculum.before_step(step, self.parts)
        self._times_s["wait"] = time.perf_counter() - self._step_began_s
        return self.curriculum.examples(step, []), metrics

    async def update(self, examples: list[Example], version: int | None) -> dict[str, float]:
        """One batch through the learner."""
        if self.parts.takes_turns:  # the last group is in: nothing runs on the engine any more
            await self.parts.rollouts.sleep()
            await self.parts.learner.reload()
        clock = time.perf_counter()
        try:
            await self.parts.before_learning()
            return await self.parts.learner.update(examples, version)
        finally:
            self._times_s["learner"] = time.perf_counter() - clock

    async def publish_weights(self, version: int) -> dict[str, float]:
        """The learner's weights on their way to every engine; the learner may go on at once where η > 0. Gives metrics
        of the last update that has arrived; errors say which side failed."""
        if self._delivery is None:
            return {}
        clock = time.perf_counter()
        exported = await self._delivery.export(version)
        if self.parts.takes_turns:
            await self.parts.learner.offload()
            await self.parts.rollouts.wake()
        self._delivery.send(exported)
        if self.config.asynchrony.max_staleness == 0 or self.parts.takes_turns:
            await self._delivery.arrived()
        self._times_s["weights"] = time.perf_counter() - clock
        return self._delivery.metrics

    async def record_step(self, batch: StepBatch | None, metrics: dict[str, float]) -> None:
        """The step is trained: say so to the log, and record it."""
        step_s = self._times_s["step"] = time.perf_counter() - self._step_began_s
        learning_s = self._times_s["learner"] + self._times_s.get("weights", 0.0)
        line = {"idle/learner_share": max(0.0, 1.0 - learning_s / step_s)}
        if batch is not None:
            assert self._flow is not None
            self._times_s["wait"] = batch.wait_s
            counts, self._log_position = await self._flow.trained(batch)
            line |= batch.metrics
            if counts is not None:
                line |= flow_metrics(counts, step_s)
                if counts.refused:
                    words = f"{counts.refused} groups failed and are redone: {counts.last_words}"
                    self.recorder.say(f"step {self.step + 1}: {words}")
        line |= metrics | {f"time/{phase}_s": seconds for phase, seconds in self._times_s.items()}
        self._times_s = {}
        self.step += 1
        self.recorder.step_trained(self.step, line, batch.groups if batch else [])

    async def evaluate(self) -> None:
        """What the model does on held-out rows; nothing where no evaluation is configured, or it was done."""
        evaluates = self._held_out.prompts is not None or self.curriculum.evaluates
        if not evaluates or self.step == self.recorder.evaluated_step:
            return
        clock = time.perf_counter()
        metrics: dict[str, float] = {}
        if self.curriculum.evaluates:
            async with self.parts.learner_on_its_gpu():
                metrics = await self.curriculum.evaluate(self.parts)
        answered: dict[str, float] = {}
        groups: list[Group] = []
        if self._held_out.prompts is not None:
            await self._bring_weights()
            answered, groups = await self._held_out.answer_prompts(self.parts.evaluation_pool, self.parts.learner)
        self.recorder.evaluated(self.step, metrics | answered, groups, time.perf_counter() - clock)

    async def _bring_weights(self) -> None:
        """Engines hold the weights of this step, and are free."""
        if self._delivery is not None:
            await self._delivery.arrived()
        elif self.step:  # no step sends weights: rows are learned from
            await self.curriculum.release_engines()
            if self.parts.publisher.version < self.step:
                await self.parts.publisher.publish(self.step)

    async def evaluate_at_start(self) -> None:
        """What the run began with; a resumed run has it already."""
        if self.step == 0:
            await self.evaluate()

    async def evaluate_if_due(self, step: int) -> None:
        """Every `evaluation.every_steps`, and after the last step."""
        if step == self.config.num_steps or is_due(step, self.config.evaluation.every_steps):
            await self.evaluate()

    async def checkpoint_if_due(self, step: int) -> None:
        """Every `checkpoints.every_steps`."""
        if is_due(step, self.config.checkpoints.every_steps):
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Model and resumable state, complete or not there."""
        loop = asyncio.get_running_loop()

        def write(folder: Path) -> None:
            asyncio.run_coroutine_threadsafe(self.parts.learner.save(folder.absolute()), loop).result()
            self.curriculum.save(folder)
            check_model_is_there(folder)

        async with self.parts.learner_on_its_gpu():
            await asyncio.to_thread(self.checkpoints.save, self._record(), write)
            await self.curriculum.write_results(self.folder.path, self.step, self.parts)
        if self._flow is not None:
            await self._flow.commit()
        self._saved_step = self.step

    def _record(self) -> CheckpointRecord:
        return CheckpointRecord(
            step=self.step,
            seed=self.config.seed,
            data_fingerprint=self.curriculum.rows.fingerprint,
            versions=library_versions(),
            seconds=self.recorder.seconds,
            tokens_generated=self.recorder.num_tokens_generated,
            log_position=self._log_position,
        )

    async def save_progress(self) -> None:
        """A checkpoint, unless the last step has one."""
        if self._saved_step < self.step:
            await self.checkpoint()
            self.recorder.say(f"saved step {self.step}")

    async def finish(self) -> None:
        """Save what is not saved yet, the summary and the report."""
        await self.save_progress()
        self.folder.write_summary(self.summary())
        try_report(self.folder.path, self.recorder.say)
        self.recorder.ended(self.was_interrupted)

    def summary(self) -> dict[str, Any]:
        """The end result in a few numbers."""
        latest = self.checkpoints.latest()
        return self.recorder.summary(self.step, str(latest.path) if latest else None)


def is_due(step: int, every_steps: int) -> bool:
    """Whether `step` is one of every so many; 0: none is."""
    return every_steps > 0 and step % every_steps == 0
