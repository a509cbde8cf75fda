"""Share of the bound: wall time of the real loop on the long-tailed workload against the slower of its two halves.

Given nothing; one core generates, one trains. Ideal wall = max(generated tokens ÷ the engine's saturated decode rate on
its core, trained tokens ÷ the learner's rate on its core), both measured alone, in the same run, before and after. The
loop at η = 2, and at η = 0 (taking turns) beside it.

    .venv/bin/python -m benchmarks.async_share
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.long_tail import DATA, MAX_MODEL_LEN, MAX_TOKENS, NUM_COMPLETIONS, PROMPTS_PER_STEP, prepare
from benchmarks.measurement import Measurement, command_line, engine_core, learner_core, on_core
from benchmarks.runs_of_ours import train

MAX_STALENESS, NUM_STEPS, NUM_WARM_UP = 2, 20, 4
SATURATED_PROMPTS = (MAX_STALENESS + 1) * PROMPTS_PER_STEP
"""In flight at η = 2: the engine's rate is measured with as many, and refilled as they finish."""


def measure(num_rounds: int = 3, num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """Rounds of: both rates alone, async, sync."""
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload = prepare(folder)
        for number in range(num_rounds):
            alone = {what: rate_alone(what, folder) for what in ("decode", "learner")}
            runs = {
                eta: train(workload, folder / f"run-{number}-{eta}", eta, num_steps, NUM_WARM_UP, seed=number)
                for eta in ([MAX_STALENESS, 0] if number % 2 == 0 else [0, MAX_STALENESS])
            }
            fast, slow = runs[MAX_STALENESS], runs[0]
            bounds_s = {
                "rollout": fast.generated_tokens / alone["decode"],
                "learner": fast.trained_tokens / alone["learner"],
            }
            slower_role = max(bounds_s, key=lambda role: bounds_s[role])
            rounds.append(
                {
                    "share": bounds_s[slower_role] / fast.seconds,
                    "gain": (slow.seconds / slow.generated_tokens) / (fast.seconds / fast.generated_tokens),
                    "idle": fast.idle_share(slower_role),
                    "idle_other": fast.idle_share("learner" if slower_role == "rollout" else "rollout"),
                    "slower_role": slower_role,
                    "bounds_s": bounds_s,
                    "async_s": fast.seconds,
                    "sync_s": slow.seconds,
                    "samples_per_s": fast.num_samples / fast.seconds,
                    **alone,
                }
            )
    return _rows(rounds)


def _rows(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def of(key: str) -> list[float]:
        return [found[key] for found in rounds]

    def row(name: str, key: str, goal: str, notes: list[str]) -> dict[str, Any]:
        values = of(key)
        return Measurement(
            name, "share", statistics.median(values), spread=(min(values), max(values)), goal=goal, notes=notes
        ).row()

    median = {key: statistics.median(of(key)) for key in ("async_s", "sync_s", "decode", "learner", "idle_other")}
    ideal = [found["share"] * found["async_s"] for found in rounds]
    share = Measurement(
        "share of the bound, async η = 2",
        "s",
        median["async_s"],
        other=statistics.median(ideal),
        other_name="ideal wall",
        ratio=statistics.median(of("share")),
        spread=(min(of("share")), max(of("share"))),
        goal=">= 0.9",
        notes=[
            f"alone: engine {median['decode']:,.0f} tokens/s, learner {median['learner']:,.0f} completion tokens/s; "
            f"slower: {', '.join(sorted({found['slower_role'] for found in rounds}))}"
        ],
        details={"rounds": rounds},
    )
    gain = Measurement(
        "sync (η = 0) ÷ async (η = 2), a token",
        "s",
        median["sync_s"],
        other=median["async_s"],
        other_name="async",
        ratio=statistics.median(of("gain")),
        spread=(min(of("gain")), max(of("gain"))),
    )
    other = f"the other role: {median['idle_other']:.1%}"
    return [share.row(), gain.row(), row("idle share of the slower role", "idle", "<= 0.08", [other])]


def rate_alone(what: str, folder: Path) -> float:
    """Tokens/s, in a process of its own, with nothing beside it."""
    command = [sys.executable, "-m", "benchmarks.async_share", "--alone", what, str(folder)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(json.loads(said.splitlines()[-1]))


async def decode_rate(folder: Path, num_prompts: int = 10 * PROMPTS_PER_STEP) -> float:
    """Tokens/s of the engine while `SATURATED_PROMPTS` groups are in flight: from the first that finishes, to when
    fewer are left."""
    from raylign.rollout.data.config import DataConfig
    from raylign.rollout.data.prompts import PromptSource
    from raylign.rollout.engine.config import EngineConfig
    from raylign.rollout.engine.vllm_engine import VllmEngine
    from raylign.rollout.model_folder import load_tokenizer
    from raylign.rollout.sampling import SamplingConfig

    model = str(folder / "model")
    source = PromptSource.open(DataConfig(**DATA), load_tokenizer(model), 1, MAX_MODEL_LEN - MAX_TOKENS)
    engine = VllmEngine(
        model, EngineConfig(max_model_len=MAX_MODEL_LEN, max_num_seqs=256, cpu_cores=str(engine_core()))
    )
    await engine.start()
    sampling = SamplingConfig(num_completions=NUM_COMPLETIONS, max_tokens=MAX_TOKENS)
    finished: list[tuple[float, int]] = []
    left = iter(source.take(0, num_prompts))

    async def keep_busy() -> None:
        for prompt in left:
            group = await engine.generate(prompt, sampling, None)
            finished.append((time.perf_counter(), group.num_tokens))

    try:
        await asyncio.gather(*(keep_busy() for _ in range(SATURATED_PROMPTS)))
    finally:
        await engine.stop()
    # Groups finish out of step with their tokens: a window that begins and ends in the same state counts right.
    window = finished[SATURATED_PROMPTS // 2 : num_prompts - SATURATED_PROMPTS]
    return sum(tokens for _, tokens in window[1:]) / (window[-1][0] - window[0][0])


def learner_rate(folder: Path, num_batches: int = 4) -> float:
    """Completion tokens/s of `Learner.update` on batches of the workload."""
    import torch

    from benchmarks.learner_tokens import example_batch, our_learner

    with on_core(learner_core()):
        torch.set_num_threads(1)
        learner = our_learner(folder / "model", "auto", folder)
        batches = [example_batch(PROMPTS_PER_STEP * NUM_COMPLETIONS, seed) for seed in range(num_batches + 1)]
        learner.update(batches[0])
        start = time.perf_counter()
        num_tokens = sum(learner.update(batch)["learner/num_tokens"] for batch in batches[1:])
        return num_tokens / (time.perf_counter() - start)


def main() -> None:
    if sys.argv[1:2] == ["--alone"]:
        folder = Path(sys.argv[3])
        print(json.dumps(asyncio.run(decode_rate(folder)) if sys.argv[2] == "decode" else learner_rate(folder)))
        return
    command_line(measure, __doc__, NUM_STEPS)


if __name__ == "__main__":
    main()
