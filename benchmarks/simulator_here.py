"""The simulator against this machine: the gain of η = 2 over taking turns, predicted from each role measured alone.

Given results.json with `async_share`; measures the engine's decode step by running sequences and the learner's rate,
each alone on its core, and holds `simulate_like`'s ratio of wall times against the measured one.

    .venv/bin/python -m benchmarks.run --only async_share --only simulator_here
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.async_share import MAX_STALENESS, NUM_STEPS, rate_alone
from benchmarks.long_tail import (
    DATA,
    MAX_MODEL_LEN,
    MAX_TOKENS,
    NUM_COMPLETIONS,
    PROMPTS_PER_STEP,
    completion_lengths,
    prepare,
)
from benchmarks.measurement import Measurement, engine_core, show

RUNNING = (1, 8, 32, 64, 128, 256)
SECONDS_EACH = 6.0
EXPORT_S, SYNC_S = 0.004, 0.03
"""Of a weight update of a model of this size; the row `weight sync, 1M float32` measures them."""


def measure() -> list[dict[str, Any]]:
    """One row."""
    from raylign.jobs.simulation.simulate import simulate_like

    results = json.loads((Path(__file__).parent / "results.json").read_text())
    shares = results["benchmarks"]["async_share"]["rows"]
    measured = next(row["ratio"] for row in shares if row["name"].startswith("sync"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        learner = rate_alone("learner", folder)
        command = [sys.executable, "-m", "benchmarks.simulator_here", "--curve", str(folder)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        curve = {int(running): seconds for running, seconds in json.loads(said.splitlines()[-1]).items()}
    gain = simulate_like(
        {
            "decode_step_s": curve,
            "completion_lengths": completion_lengths(20_000, 0).tolist(),
            "learner_tokens_per_s": learner,
            "export_s": EXPORT_S,
            "sync_s": SYNC_S,
            "groups_per_step": PROMPTS_PER_STEP,
            "num_completions": NUM_COMPLETIONS,
            "num_steps": NUM_STEPS,
            "max_staleness": MAX_STALENESS,
        }
    )
    steps = ", ".join(f"{running}: {1000 * seconds:.1f}" for running, seconds in curve.items())
    ratio = min(gain.wall_ratio / measured, measured / gain.wall_ratio)
    return [
        Measurement(
            "simulator: gain of η = 2 on this machine",
            "",
            gain.wall_ratio,
            other=measured,
            other_name="measured",
            ratio=ratio,
            goal=">= 0.9",
            notes=[f"decode step, ms by running sequences: {steps}; learner {learner:,.0f} completion tokens/s"],
        ).row()
    ]


async def decode_curve(folder: Path) -> dict[int, float]:
    """Seconds of a decode step with so many sequences running: single completions, another started as one ends."""
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.prompts import PromptSource
    from raylign.rollout.engine.config import EngineConfig
    from raylign.rollout.engine.vllm_engine import VllmEngine
    from raylign.rollout.model_folder import load_tokenizer
    from raylign.rollout.sampling import SamplingConfig

    model = str(folder / "model")
    source = PromptSource.open(DataConfig(**DATA), load_tokenizer(model), 1, MAX_MODEL_LEN - MAX_TOKENS)
    engine = VllmEngine(
        model, EngineConfig(max_model_len=MAX_MODEL_LEN, max_num_seqs=max(RUNNING), cpu_cores=str(engine_core()))
    )
    await engine.start()
    sampling = SamplingConfig(num_completions=1, max_tokens=MAX_TOKENS)
    ordinal = 0
    curve: dict[int, float] = {}
    try:
        for running in RUNNING:
            finished: list[tuple[float, int]] = []
            ends_at = time.perf_counter() + SECONDS_EACH

            async def keep_one(finished: list[tuple[float, int]] = finished, ends_at: float = ends_at) -> None:
                nonlocal ordinal
                while time.perf_counter() < ends_at:
                    ordinal += 1
                    group = await engine.generate(source.prompt(ordinal), sampling, None)
                    finished.append((time.perf_counter(), group.num_tokens))

            await asyncio.gather(*(keep_one() for _ in range(running)))
            window = [one for one in finished if ends_at - 0.75 * SECONDS_EACH < one[0] < ends_at]
            rate = sum(tokens for _, tokens in window[1:]) / (window[-1][0] - window[0][0])
            curve[running] = running / rate
    finally:
        await engine.stop()
    return curve


def main() -> None:
    if sys.argv[1:2] == ["--curve"]:
        print(json.dumps(asyncio.run(decode_curve(Path(sys.argv[2])))))
        return
    show(measure())


if __name__ == "__main__":
    main()
