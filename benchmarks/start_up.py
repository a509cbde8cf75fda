"""From the command to the first trained step: GRPO on a tiny model, with every real part, on this machine.

Given nothing; seconds on the clock and CPU seconds of all processes together, with processes copied from a warm one and
with every process started from nothing (`RAYLIGN_COLD_START=1`), in turn.

    .venv/bin/python -m benchmarks.start_up
"""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.measurement import Measurement, command_line, in_turn
from raylign.actors.warm.process import OFF_VARIABLE
from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.rollout.data.config import DataConfig

LIMIT_S, LOOK_EVERY_S = 400.0, 0.05
MAX_WALL_S, MAX_CPU_S = 25, 45
DATA = {
    "source": "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1",
    "num_generated": 500,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Start:
    """What one start took."""

    wall_s: float
    cpu_s: float
    by_title: dict[str, float]
    """CPU seconds of the processes that ran at the end, under the first word of their titles."""


def measure(rounds: int = 3, steps: int = 1) -> list[dict[str, Any]]:
    """The two rows; `steps` is how many to wait for."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # processes whose parents end become our children
    starts: dict[str, list[Start]] = {"warm": [], "cold": []}
    with tempfile.TemporaryDirectory() as name:
        recipe = write_recipe(Path(name), steps)

        def start(side: str) -> float:
            starts[side].append(one_start(recipe, {OFF_VARIABLE: str(int(side == "cold"))}, steps))
            return starts[side][-1].wall_s

        in_turn({side: lambda side=side: start(side) for side in starts}, rounds)  # type: ignore[misc]
    load = f"load while it ran: {os.getloadavg()[1]:.1f}"
    warm, cold = (found[-rounds:] for found in starts.values())
    return [
        row("wall", [one.wall_s for one in warm], [one.wall_s for one in cold], MAX_WALL_S, [load]),
        row("CPU", [one.cpu_s for one in warm], [one.cpu_s for one in cold], MAX_CPU_S, [titles(warm), titles(cold)]),
    ]


def row(what: str, warm: Sequence[float], cold: Sequence[float], limit: float, notes: list[str]) -> dict[str, Any]:
    return Measurement(
        name=f"start: command to first step, {what}",
        unit="s",
        ours=statistics.median(warm),
        other=statistics.median(cold),
        other_name="no warm process",
        spread=(min(warm), max(warm)),
        goal=f"<= {limit}",
        notes=notes,
        details={"warm": list(warm), "cold": list(cold)},
    ).row()


def titles(starts: Sequence[Start]) -> str:
    """Who took the CPU time, in the last of these starts."""
    found = sorted(starts[-1].by_title.items(), key=lambda item: -item[1])
    return ", ".join(f"{title} {seconds:.1f}" for title, seconds in found if seconds >= 0.5)


def write_recipe(folder: Path, steps: int) -> Path:
    """A synchronous run of a model of two layers, and that model."""
    data = DataConfig.model_validate(DATA)
    model = init_model(InitModelConfig(output=folder / "model", data=data, num_layers=2, width=64, num_heads=2))
    values = {
        "num_steps": steps + 1000,
        "model": {"path": str(model)},
        "data": DATA,
        "sampling": {"max_tokens": 4, "num_completions": 4},
        "rollout": {"prompts_per_step": 8, "engine": {"max_model_len": 32, "kv_cache_gib": 0.1}},
        "rewards": [{"name": "numeric"}],
        "learner": {"threads_per_rank": 1},
        "checkpoints": {"every_steps": 0},
        "async": {"max_staleness": 0},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return recipe


def one_start(recipe: Path, environment: dict[str, str], steps: int) -> Start:
    """Train until so many lines of metrics are written, then interrupt."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["train", "--config", str(recipe), "--name", "start-up", "--folder", str(run)]
        reaped_s = reaped_cpu_s()
        began = time.monotonic()
        with (Path(folder) / "output").open("w") as output:
            command = subprocess.Popen(
                [sys.executable, "-m", "raylign.jobs", *words],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while num_lines(run / "metrics.jsonl") < steps:
                if command.poll() is not None or time.monotonic() - began > LIMIT_S:
                    said = (Path(folder) / "output").read_text()
                    raise RuntimeError(f"no step within {LIMIT_S:.0f} s, exit code {command.returncode}: {said}")
                time.sleep(LOOK_EVERY_S)
            wall_s = time.monotonic() - began
            by_title = cpu_by_title()
            return Start(wall_s, sum(by_title.values()) + reaped_cpu_s() - reaped_s, by_title)
        finally:
            end(command)


def num_lines(path: Path) -> int:
    """0 where there is no file yet."""
    return path.read_text().count("\n") if path.exists() else 0


def cpu_by_title() -> dict[str, float]:
    """Of all our descendants, with what their ended children took."""
    found: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        try:
            words, times = process.cmdline(), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        title = Path(words[0]).name if words else "(ended)"
        if title.startswith("python"):
            title = next((Path(word).name for word in words[1:] if not word.startswith("-")), title)
        found[title.split(".")[0]] += times.user + times.system + times.children_user + times.children_system
    return dict(found)


def reaped_cpu_s() -> float:
    """Of our own children that ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def end(command: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, then whatever is left, and wait until no process is."""
    command.send_signal(signal.SIGINT)
    try:
        command.wait(60)
    except subprocess.TimeoutExpired:
        command.kill()
        command.wait()
    _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=20)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


if __name__ == "__main__":
    command_line(lambda rounds, steps: measure(rounds, steps), __doc__, num_steps=1)
