"""How many functions of ours stand between the loop and the groups in the log: few, or nobody can follow a batch."""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from raylign.actors.experience_host import ExperienceHost
from raylign.actors.handles import LocalHandle
from raylign.jobs.run.step_batches import StepBatches
from raylign.rollout.experience.log import ExperienceLog
from raylign.rollout.experience.schema import batch_to_message, groups_to_batch
from raylign.rollout.experience.types import START, ExperienceConfig
from tests.jobs.run.test_step_batches import Quiet, config, curriculum_of, group

ROOT = Path(__file__).parents[3]
STANDS_FOR_RAY = "actors/handles.py"


def place(code: CodeType) -> tuple[str, str] | None:
    """File and function, where they are ours."""
    file = Path(code.co_filename)
    if not file.is_absolute() or not file.resolve().is_relative_to(ROOT):
        return None
    name = file.resolve().relative_to(ROOT).as_posix()
    ours = name.split("/")[0] in ("rewards", "rollout", "learners", "actors", "jobs")
    return (name, code.co_name) if ours and name != STANDS_FOR_RAY else None


def waiting_in(task: asyncio.Task[Any]) -> list[tuple[str, str]]:
    """The functions of ours that a suspended task is in, outermost first."""
    found = []
    waited: Any = task.get_coro()
    while (code := getattr(waited, "cr_code", None)) is not None:
        found.append(place(code))
        waited = waited.cr_await
    return [one for one in found if one is not None]


def test_the_next_batch_is_five_functions_in_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    lease = ExperienceLog.lease

    def looked_at(self: ExperienceLog, *arguments: Any) -> Any:
        answering = [place(frame.f_code) for frame, _ in traceback.walk_stack(sys._getframe(1))]
        seen[:] = [one for one in answering[::-1] if one is not None] + [("rollout/experience/log.py", "lease")]
        return lease(self, *arguments)

    async def gathered() -> None:
        host = ExperienceHost(tmp_path, ExperienceConfig())
        await host.start(START)
        await host.append(batch_to_message(groups_to_batch([group(0), group(1)])))
        settings = config()
        batches = StepBatches(LocalHandle(host), Quiet(), curriculum_of(settings), settings)
        monkeypatch.setattr(ExperienceLog, "lease", looked_at)
        asking = asyncio.create_task(batches.next(0))
        chain: list[tuple[str, str]] = []
        while not asking.done():
            chain = waiting_in(asking) if len(waiting_in(asking)) > len(chain) else chain
            await asyncio.sleep(0)
        assert len((await asking).groups) == 2
        seen[:0] = chain

    asyncio.run(gathered())
    assert [function for _, function in seen] == ["next", "_gather", "_lease", "lease", "lease"]
    assert len({file for file, _ in seen}) == 3


def test_a_run_keeps_its_verbs_only() -> None:
    """What it puts together lies beside it: opening, recorder, flow, delivery, checkpoints."""
    assert len((ROOT / "jobs" / "run" / "run.py").read_text().splitlines()) <= 250
