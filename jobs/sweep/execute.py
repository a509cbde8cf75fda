"""The commands of a sweep as processes, as many at once as there is room for.

Given prepared commands and room; runs what is not done yet and gives how each went. A command starts when the one that
it needs is done; those that most others wait for come first. One that fails stops only those that need it.

    waiting ── needed one is done, room is free ──▶ running ── ended ──▶ done, or failed with its last words
       └────── needed one failed ──▶ left out

The loop waits for the end of any process (pidfd), never by the clock. Ctrl-C asks all of them to stop: a training run
then finishes its step and saves a checkpoint; a second Ctrl-C is passed on as well. When this process is killed, its
children get the same signal from the kernel.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raylign.jobs.report.results import is_finished
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.sweep.checks import can_resume, differences_of_finished, filled_words
from raylign.jobs.sweep.manifest import Prepared
from raylign.jobs.sweep.room import Room, Share

PROGRESS = "sweep.progress.json"
PR_SET_PDEATHSIG = 1


@dataclass
class _Running:
    prepared: Prepared
    process: subprocess.Popen[bytes]
    share: Share
    log: Path


class Execution:
    """One go at a sweep; `states` tells what became of each command, by name."""

    def __init__(self, folder: Path, prepared: Sequence[Prepared], room: Room, num_parallel: int | None) -> None:
        self._folder, self._room, self._num_parallel = folder, room, num_parallel
        self._folder_of = {one.run.name: one.run.folder for one in prepared}
        self._waiting = _needed_first(prepared)
        self._running: dict[int, _Running] = {}
        self._count = len(prepared)
        self._is_stopping = False
        self.states: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Until everything has ended; KeyboardInterrupt once all processes have, after a Ctrl-C."""
        while self._waiting or self._running:
            try:
                if not self._is_stopping:
                    self._start_what_can()
                if not self._running:
                    break
                ready, _, _ = select.select(list(self._running), [], [])
                for pidfd in ready:
                    self._ended(pidfd)
            except KeyboardInterrupt:
                self._is_stopping = True
                print(f"stopping {len(self._running)} commands; Ctrl-C again does not let them finish", flush=True)
                for one in self._running.values():
                    one.process.send_signal(signal.SIGINT)
        if self._is_stopping:
            raise KeyboardInterrupt
        return self.states

    def _start_what_can(self) -> None:
        """Everything that can start now and fits; a command that was done before lets others start, so look again."""
        found_something = True
        while found_something:
            found_something = False
            for one in list(self._waiting):
                needed = self.states.get(one.run.needs) if one.run.needs else "done"
                if needed is None or needed == "running":
                    continue
                if not needed.startswith("done"):
                    self._say(one, f"left out, since {one.run.needs} failed")
                elif is_finished(one.run.folder):
                    self._say(one, self._looked_at(one))
                elif not self._started(one):
                    continue
                self._waiting.remove(one)
                found_something = True

    def _started(self, one: Prepared) -> bool:
        if self._num_parallel is not None and len(self._running) >= self._num_parallel:
            return False
        num_waiting = sum(self._could_start(other) for other in self._waiting)
        if self._num_parallel is not None:
            num_waiting = min(num_waiting, self._num_parallel - len(self._running))
        share = self._room.take(one.resources, num_waiting, is_alone=not self._running)
        if share is None:
            return False
        words = filled_words(one.run, self._folder_of)
        if (one.run.folder / "config.yaml").is_file() and can_resume(words):
            words.append("--resume")
        if one.resources.has_cluster and self._room.is_here and len(share.cores) < self._room.all_cores:
            words += ["--cluster.num_cpus", str(len(share.cores))]
        log = one.run.folder.parent / f"{one.run.folder.name}.log"
        environment = dict(os.environ)
        if self._room.is_here and self._room.all_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
        with log.open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "raylign.jobs", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches it once, from us
                preexec_fn=partial(_as_child, share.cores if self._room.is_here else ()),
            )
        self._running[os.pidfd_open(process.pid)] = _Running(one, process, share, log)
        self._say(one, "running")
        return True

    def _could_start(self, one: Prepared) -> bool:
        needed = one.run.needs
        return (needed is None or self.states.get(needed, "").startswith("done")) and not is_finished(one.run.folder)

    def _looked_at(self, one: Prepared) -> str:
        """A finished folder counts as done only with the same config."""
        differences = differences_of_finished(one.run.folder, filled_words(one.run, self._folder_of))
        if not differences:
            return "done before"
        shown = "; ".join(differences[:3])
        return f"failed: {one.run.folder} is finished with another config ({shown}); name the sweep anew"

    def _ended(self, pidfd: int) -> None:
        one = self._running.pop(pidfd)
        code = one.process.wait()
        os.close(pidfd)
        self._room.give_back(one.share)
        if code == 0:
            self._say(one.prepared, "done")
            return
        if self._is_stopping:
            self._say(one.prepared, "stopped")
            return
        said = one.log.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
        self._say(one.prepared, f"failed with {code}; {one.log} ends in: {said[-1][:200]}")

    def _say(self, one: Prepared, state: str) -> None:
        self.states[one.run.name] = state
        num_over = sum(each != "running" for each in self.states.values())
        print(f"[{num_over}/{self._count}] {one.run.name}: {state}", flush=True)
        write_atomically(self._folder / PROGRESS, json.dumps(self.states, indent=2) + "\n")


def _needed_first(prepared: Sequence[Prepared]) -> list[Prepared]:
    """Those that most others wait for come first, else in their order."""
    needs = {one.run.name: one.run.needs for one in prepared}
    counts = dict.fromkeys(needs, 0)
    for name in needs:
        above = needs[name]
        while above is not None:
            counts[above] += 1
            above = needs[above]
    return sorted(prepared, key=lambda one: -counts[one.run.name])


def _as_child(cores: Sequence[int]) -> None:
    """Between fork and exec: its cores, and a signal when its parent ends however it ends. A shell that starts a sweep
    in the background has it ignore Ctrl-C; a command must hear it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if cores:
        os.sched_setaffinity(0, cores)
    libc: Any = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
