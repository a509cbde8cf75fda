"""What ends a run stays its error, in one line, whatever goes wrong after it."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from raylign.jobs import cli
from raylign.jobs.run.checkpoints import DiskFullError
from raylign.jobs.run.reward_failures import RewardsFailedError
from raylign.jobs.run.run import Run
from raylign.rollout.experience.journal import write_error
from raylign.rollout.experience.types import ExperienceFullError

FULL = write_error(Path("run/experience/journal.jsonl"), 1024, OSError(errno.ENOSPC, "No space left on device"))


def test_a_save_that_fails_too_is_a_note_on_the_first_error() -> None:
    run: Any = Run.__new__(Run)
    run._saved_step, run.step = 4, 6

    async def no_room() -> None:
        raise DiskFullError("run/checkpoints: the disk is full: make room and go on by --resume")

    run.checkpoint = no_room
    asyncio.run(run.save_after(FULL))
    assert isinstance(FULL, ExperienceFullError)
    assert FULL.__notes__ == [
        "and what was trained since step 4 could not be saved: run/checkpoints: the disk is full: make room and go on "
        "by --resume"
    ]


@pytest.mark.parametrize("error", [FULL, RewardsFailedError("step 3: every one of 8 scores failed")])
def test_a_run_that_cannot_go_on_says_so_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", ends)
    assert cli.run_command_line(["train"]) == 1
    first, *notes = capsys.readouterr().err.splitlines()
    assert first == f"error: {error}" and all(note.startswith("error: and what was trained") for note in notes)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(words: list[str]) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(cli, "_dispatch", ends)
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run_command_line(["train"])
