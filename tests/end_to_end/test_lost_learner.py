"""A rank dies, or stops, while the loop waits for groups: it is noticed then, and another group starts meanwhile.
Engines are scripted and hold their groups back until the test has seen it; all else is real."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.scripted import ScriptedEngine, ScriptedPool
from raylign.jobs.run import recovery
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.run.parts import RunParts
from raylign.jobs.train import train
from raylign.rollout.sample import Group, Prompt
from raylign.rollout.sampling import SamplingConfig
from tests.end_to_end.conftest import configured, small_config
from tests.end_to_end.kills import working_for
from tests.patience import HANGS_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RANK = "ray::RayTrainWorker"


class HeldBack(ScriptedEngine):
    """Answers the first step at once, and the others when a file is there."""

    gate: Path

    async def generate(self, prompt: Prompt, sampling: SamplingConfig, seed: int | None) -> Group:
        while prompt.ordinal >= 8 and not self.gate.exists():
            await asyncio.sleep(0.05)
        return await super().generate(prompt, sampling, seed)


def parts_with(engine: type[ScriptedEngine]) -> type[RunParts]:
    class Parts(RunParts):
        async def _start_engines(self, *_: Any) -> None:
            pool = await ScriptedPool(1, 1, 4, engine=engine).open(self._config.rewards)
            self.rollouts = self.evaluation_pool = pool
            self._started.push_async_callback(pool.stop)
            self._publish_from(0, None)

    return Parts


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_another_group_starts_while_the_groups_are_still_to_come(
    ray_session: None, start_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    gate, folder, seen = tmp_path / "gate", tmp_path / "run", []

    def until(condition: Any) -> None:
        deadline = time.monotonic() + HANGS_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ranks() -> set[int]:
        return {process.pid for process in working_for(psutil.Process().pid, RANK)}

    def watch() -> None:
        try:
            until(lambda: len(read_metrics(folder)) == 1)
            (rank,) = ranks()
            psutil.Process(rank).send_signal(sign)
            began = time.monotonic()
            until(lambda: "the learner was lost in step 2" in (folder / "run.log").read_text())
            noticed_s = time.monotonic() - began
            until(lambda: ranks() - {rank})
            seen.append(noticed_s)
        finally:
            gate.touch()

    monkeypatch.setattr(recovery, "RunParts", parts_with(type("Gated", (HeldBack,), {"gate": gate})))
    watching = threading.Thread(target=watch)
    learner = {"learning_rate": 1e-3, "threads_per_rank": 1, "silence_deadline_s": 5}
    values = small_config(start_model, folder, num_steps=3, learner=learner)
    watching.start()
    run = train(configured(values))
    watching.join()
    assert seen, "it was not noticed before the groups came"
    print(f"{sign.name}: noticed after {seen[0]:.1f} s")
    assert run.step == 3
    assert "while nothing was asked of it" in (folder / "run.log").read_text()
