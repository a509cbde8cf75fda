"""Chaos: an asynchronous run with real engines, one of whose processes is killed or stopped at a time.

Given how long and how often; prints for each role what came of it, and how much of the undisturbed run's steps were
trained in the same time. Every process is real, the run is `raylign train`, and nobody but the run itself repairs it.

    .venv/bin/python -m benchmarks.chaos --minutes 30 --every 90
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.chaos_predicted import Shape, predicted

ROLES = {
    "learner rank": "RayTrainWorker",
    "experience log": "ExperienceHost",
    "engine": "VLLM::EngineCore",
    "engine's worker": "ray::RolloutWorker",
    "reward server": "ray::RewardServer",
}
"""Words in the title of the process."""
SIGNS = (signal.SIGKILL, signal.SIGSTOP)
GIVE_UP_S = 300.0
"""A disturbance after which no further step is trained for so long is not recovered from."""
STANDSTILL = 10.0
"""Times the usual step: a pause that belongs to the disturbance."""
LOOK_EVERY_S = 0.05
SUMS = {
    "source": "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1",
    "num_generated": 500,
    "prompt": "{metadata.expression} =",
    "template": "{prompt}",
}
GROUPS_PER_STEP, NUM_COMPLETIONS, MAX_TOKENS, MAX_STALENESS = 8, 4, 8, 2


@dataclass
class Disturbance:
    """One signal, and what came of it."""

    role: str
    sign: str
    step: int
    """Trained before."""
    was_recovered: bool
    standstill_s: float
    """From the signal to the end of the longest pause between two further steps; 0 where none was longer than usual."""
    steps_per_s: float
    """From then until the next signal: whether it goes on as fast as before."""


@dataclass
class Outcome:
    """All of them."""

    disturbances: list[Disturbance]
    undisturbed_steps_per_s: float
    wall_s: float
    effective_share: float
    """Steps trained ÷ those that an undisturbed run would have trained in the same time."""

    @property
    def all_recovered(self) -> bool:
        return all(each.was_recovered for each in self.disturbances)


@dataclass
class Watched:
    """The steps that a run has trained, and when it got further than ever before."""

    metrics: Path
    times: list[tuple[float, int]] = field(default_factory=list)
    """When each further step was seen first."""
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def furthest(self) -> int:
        return self.times[-1][1] if self.times else 0

    def watch(self) -> None:
        """Until `end`."""
        while not self._over.wait(LOOK_EVERY_S):
            step = last_step(self.metrics)
            if step > self.furthest:
                self.times.append((time.monotonic(), step))

    def end(self) -> None:
        self._over.set()

    def steps_per_s(self, since: float) -> float:
        """Further steps."""
        seen = [each for each in self.times if each[0] >= since]
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]) if len(seen) > 1 else 0.0

    def longest_pause(self, since: float, until: float) -> tuple[float, float]:
        """Seconds, and when it ended."""
        seen = [since, *(moment for moment, _ in self.times if since <= moment <= until), until]
        pauses = [(after - before, after) for before, after in itertools.pairwise(seen)]
        return max(pauses)


def last_step(metrics: Path) -> int:
    """Of the last whole line; the file may be replaced meanwhile."""
    with suppress(OSError, ValueError, IndexError), metrics.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 20_000))
        return int(json.loads(file.read().split(b"\n")[-2])["step"])
    return 0


def recipe(folder: Path, num_engines: int) -> dict[str, Any]:
    """A run of a tiny model, far too long to end by itself."""
    from raylign.jobs.init_model import InitModelConfig, init_model
    from raylign.rollout.data.config import DataConfig

    model = init_model(
        InitModelConfig(output=folder / "start", data=DataConfig(**SUMS), num_layers=2, width=64, num_heads=2, seed=1)
    )
    return {
        "folder": str(folder / "run"),
        "num_steps": 1_000_000,
        "model": {"path": str(model)},
        "data": SUMS,
        "sampling": {"max_tokens": MAX_TOKENS, "num_completions": NUM_COMPLETIONS},
        "rollout": {
            "prompts_per_step": GROUPS_PER_STEP,
            "num_engines": num_engines,
            "engine": {"max_model_len": 32, "kv_cache_gib": 0.1},
        },
        "rewards": [{"name": "numeric"}],
        "learner": {"learning_rate": 1e-6, "threads_per_rank": 1},
        "checkpoints": {"every_steps": 50},
        "weights": {"deadline_s": 30},
        "async": {"max_staleness": MAX_STALENESS},
    }


def processes_of(pid: int, title: str) -> list[psutil.Process]:
    """Descendants whose command line has these words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def disturb(
    run: subprocess.Popen[bytes], watched: Watched, role: str, sign: signal.Signals, every_s: float
) -> Disturbance:
    """Send a signal to a process of the role; look at what comes of it until the next is due."""
    victim = random.choice(processes_of(run.pid, ROLES[role]))
    usual_s = usual_step_s(watched)
    at, step = time.monotonic(), watched.furthest
    victim.send_signal(sign)
    while time.monotonic() - at < every_s or (
        pause_s(watched) > STANDSTILL * usual_s and time.monotonic() - at < GIVE_UP_S
    ):
        time.sleep(LOOK_EVERY_S)
        if run.poll() is not None:
            return Disturbance(role, sign.name, step, False, time.monotonic() - at, 0.0)
    was_recovered = pause_s(watched) <= STANDSTILL * usual_s
    paused_s, ended_at = watched.longest_pause(at, time.monotonic())
    standstill_s = ended_at - at if paused_s > STANDSTILL * usual_s else 0.0
    return Disturbance(role, sign.name, step, was_recovered, standstill_s, watched.steps_per_s(at + standstill_s))


def usual_step_s(watched: Watched) -> float:
    """The median of the last hundred."""
    moments = [moment for moment, _ in watched.times[-100:]]
    return statistics.median(b - a for a, b in itertools.pairwise(moments))


def pause_s(watched: Watched) -> float:
    """Since the last further step."""
    return time.monotonic() - watched.times[-1][0]


def accounts(run_folder: Path, num_steps: int, num_under_way: int) -> tuple[int, int]:
    """Prompts lost and prompts trained twice, of the steps that count: from the journal, with no help of the run. One
    that was issued and is not in the log is lost, but for the last `num_under_way`."""
    from raylign.rollout.experience.recovery import recover
    from raylign.rollout.experience.replay import ReplayLog

    log = ReplayLog.open(run_folder)
    records = recover(log.folder, read_only=True).records
    ordinals = {o: ordinal for each in records for o, ordinal in zip(each.offsets, each.ordinals, strict=True)}
    trained = [ordinals[offset] for step in range(num_steps) for offset in log.recorded(step).trained]
    lost = set(range(max(trained) - num_under_way)) - set(ordinals.values())
    return len(lost), len(trained) - len(set(trained))


def measure(minutes: float, every_s: float, num_engines: int, seed: int, roles: list[str]) -> None:
    """The table, on standard output."""
    random.seed(seed)
    with tempfile.TemporaryDirectory(prefix="raylign-chaos-", dir="/tmp") as temporary:
        folder = Path(temporary)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, num_engines)))
        words = [sys.executable, "-m", "raylign.jobs", "train", "--config", str(folder / "recipe.yaml")]
        watched = Watched(folder / "run" / "metrics.jsonl")
        watcher = threading.Thread(target=watched.watch, daemon=True)
        watcher.start()
        with (folder / "log").open("wb") as log:
            run = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            outcome = chaos(run, watched, minutes, every_s, roles)
        except BaseException:
            print((folder / "log").read_text()[-5000:])
            raise
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    run.wait(120)
            watched.end()
            watcher.join()
            for process in processes_of(run.pid, "") if run.poll() is None else []:
                process.kill()
        print(f"the run ended with {run.returncode} (130: asked to stop)\n")
        if not outcome.all_recovered:
            print((folder / "log").read_text()[-5000:])
        num_lost, num_twice = accounts(
            folder / "run", last_step(watched.metrics), (MAX_STALENESS + 2) * GROUPS_PER_STEP
        )
    tell(outcome.disturbances, num_lost, num_twice)
    tell_predicted(outcome, num_engines)


def chaos(run: subprocess.Popen[bytes], watched: Watched, minutes: float, every_s: float, roles: list[str]) -> Outcome:
    """All signals; stops with one that the run did not survive."""
    while watched.furthest < 20:
        if run.poll() is not None:
            raise RuntimeError(f"the run ended with {run.returncode} before it was disturbed")
        time.sleep(1.0)
    began = undisturbed_at = time.monotonic()
    first_step = watched.furthest
    time.sleep(every_s)
    rate = (watched.furthest - first_step) / (time.monotonic() - undisturbed_at)
    print(f"undisturbed: {rate:.2f} steps/s over {every_s:.0f} s", flush=True)
    done: list[Disturbance] = []
    began, first_step = time.monotonic(), watched.furthest
    deck: list[tuple[str, signal.Signals]] = []
    while time.monotonic() - began < minutes * 60 and all(each.was_recovered for each in done):
        if not deck:  # every role and signal comes before any comes again
            deck = random.sample([(role, sign) for role in roles for sign in SIGNS], len(roles) * len(SIGNS))
        done.append(disturb(run, watched, *deck.pop(), every_s))
        print(f"{time.monotonic() - began:5.0f} s: {done[-1]}", flush=True)
    wall_s = time.monotonic() - began
    share = (watched.furthest - first_step) / (rate * wall_s)
    print(f"effective training time: {share:.2f} over {wall_s / 60:.1f} minutes, {len(done)} signals", flush=True)
    return Outcome(done, rate, wall_s, share)


def tell(done: list[Disturbance], num_lost: int, num_twice: int) -> None:
    """A row for each role and signal."""
    print("| role | signal | recovered | median s to full speed | max s |\n|---|---|---|---|---|")
    for key in sorted({(each.role, each.sign) for each in done}):
        rows = [each for each in done if (each.role, each.sign) == key]
        seconds = [each.standstill_s for each in rows]
        recovered = sum(each.was_recovered for each in rows)
        found = f"{recovered} of {len(rows)} | {statistics.median(seconds):.1f} | {max(seconds):.1f}"
        print(f"| {key[0]} | {key[1]} | {found} |")
    print(f"\nprompts lost: {num_lost}; trained twice: {num_twice}")


def tell_predicted(outcome: Outcome, num_engines: int) -> None:
    """Beside what the simulator makes of the times that were measured."""
    standstills_s = [(each.role, each.standstill_s) for each in outcome.disturbances]
    shape = Shape(GROUPS_PER_STEP, NUM_COMPLETIONS, MAX_TOKENS, MAX_STALENESS, num_engines)
    expected = predicted(standstills_s, outcome.undisturbed_steps_per_s, outcome.wall_s, shape)
    ratio = outcome.effective_share / expected
    print(f"`plan --simulate` predicts {expected:.3f} from these times: measured ÷ predicted {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=90.0, help="seconds between two signals")
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--roles", nargs="*", default=list(ROLES), choices=list(ROLES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    measure(given.minutes, given.every, given.engines, given.seed, given.roles)


if __name__ == "__main__":
    main()
