"""How long the viewer takes over many long runs: 200 runs of 1,000 steps, as a sweep.

Given nothing; makes the folders, opens the page in a fresh process and changes a filter; prints seconds and the CPU
seconds that they took.

    .venv/bin/python -m benchmarks.viewer [--num_runs 200 --num_steps 1000]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from raylign.jobs.config.loading import config_yaml, load_config
from raylign.jobs.config.train import TrainConfig

KEYS = ("learner/loss", "learner/grad_norm", "learner/entropy", "preference/accuracy", "preference/margin")
SEEDS = 5


def make_sweep(folder: Path, num_runs: int, num_steps: int) -> None:
    """Runs over r × rho × seed, each with as many metrics as a run has."""
    drawn = random.Random(0)
    config = config_yaml(load_config(TrainConfig, ["sail_ddp_arithmetic"]))
    lines: list[dict[str, Any]] = []
    for number in range(num_runs):
        name = f"run-{number:03d}"
        path = folder / name
        path.mkdir(parents=True)
        seed, point = number % SEEDS, number // SEEDS
        share, coefficient = 0.1 * (1 + point % 6), 0.1 * (1 + point // 6)
        text = config.replace("name: sail-ddp-arithmetic", f"name: {name}").replace("seed: 0", f"seed: {seed}", 1)
        (path / "config.yaml").write_text(text)
        with (path / "metrics.jsonl").open("w") as file:
            for step in range(1, num_steps + 1):
                metrics = {key: drawn.random() for key in KEYS} | {
                    f"time/part_{n}_s": drawn.random() for n in range(30)
                }
                file.write(json.dumps({"step": step, "seconds": 2.0 * step, **metrics}) + "\n")
        evaluation = {"evaluation/loss": drawn.random(), "evaluation/reward_accuracy": drawn.random()}
        summary = {"finished": True, "num_steps": num_steps, "seconds": 2.0 * num_steps, "evaluation": evaluation}
        (path / "summary.json").write_text(json.dumps(summary))
        values = {"r": round(share, 2), "rho": round(coefficient, 2), "seed": seed}
        lines.append(
            {"name": name, "folder": name, "task": "DDP", "model": "m", "data": "d", "values": values, "follows": None}
        )
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "name": "many", "runs": lines}))


def look(folder: str) -> dict[str, float]:
    """In a fresh process: what the server has imported, then the first page, a filter, curves of four runs."""
    started = time.perf_counter()
    from streamlit.testing.v1 import AppTest

    found = {"importing streamlit": time.perf_counter() - started}

    def script(folders: list[str]) -> None:
        from raylign.jobs.view.page import show

        show(folders)

    page = AppTest.from_function(script, kwargs={"folders": [folder]}, default_timeout=600)
    started = time.perf_counter(), time.process_time()
    page.run()
    found |= _passed("first page", *started)
    steps = {
        "a filter": lambda: page.multiselect(key="filter r").set_value([0.1]).run(),
        "over seeds": lambda: page.radio(key="aggregate").set_value("mean over seeds").run(),
        "heat map": lambda: page.radio(key="view").set_value("Parameters").run(),
        "curves, first time": lambda: page.radio(key="view").set_value("Curves").run(),
        "another chart": lambda: page.selectbox(key="chart").set_value("Loss").run(),
    }
    for name, step in steps.items():
        started = time.perf_counter(), time.process_time()
        step()
        found |= _passed(name, *started)
    assert not page.exception, page.exception
    return found


def _passed(name: str, wall: float, cpu: float) -> dict[str, float]:
    return {name: time.perf_counter() - wall, f"{name}, of the processor": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_runs", type=int, default=200)
    parser.add_argument("--num_steps", type=int, default=1000)
    parser.add_argument("--look", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.look:
        print(json.dumps(look(words.look)))
        return
    folder = Path(tempfile.mkdtemp(prefix="raylign-viewer-"))
    try:
        make_sweep(folder, words.num_runs, words.num_steps)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{words.num_runs} runs of {words.num_steps} steps, {size >> 20} MiB")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.viewer", "--look", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for name, seconds in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"  {name:32} {seconds:6.2f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
