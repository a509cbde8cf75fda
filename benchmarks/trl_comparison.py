"""End to end against `trl`: samples/s of GRPO on the long-tailed workload, on the same two cores.

Given nothing; makes an environment with the newest `trl` beside this file, tries its settings, keeps the fastest, and
runs it in turn with `raylign train` (η = 2).

Same on both sides: model, prompts, 128 completions a step in groups of 8, up to 512 tokens, temperature 1, a penalty on
length as the reward, one optimizer step on every completion, float32 masters, fused AdamW. The lengths are made by the
model's weights (`long_tail.py`), hence the same distribution; samples and tokens of both sides stand in the notes.
trl's vLLM needs CUDA, so it generates with transformers.

    .venv/bin/python -m benchmarks.trl_comparison
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.long_tail import FREE_TOKENS, MAX_TOKENS, prepare
from benchmarks.measurement import Measurement, show
from benchmarks.runs_of_ours import train
from benchmarks.trl_side import VARIANTS

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".trl-venv"
FIRST_LIMIT_S, SLOWER = 600.0, 1.3
"""A setting is given up once it has taken so much longer than the fastest before it, start included."""
MAX_STALENESS = 2


def measure(num_rounds: int = 3, trl_steps: int = 1, our_steps: int = 15) -> list[dict[str, Any]]:
    """The fastest of trl's settings, then rounds of trl and ours."""
    python = environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload = prepare(folder)
        tried: dict[str, float | str] = {}
        limit_s = FIRST_LIMIT_S
        for variant in VARIANTS:
            start = time.perf_counter()
            try:
                tried[variant] = rate(trl(python, folder, variant, trl_steps, limit_s)["steps"])
                limit_s = min(limit_s, SLOWER * (time.perf_counter() - start))
            except subprocess.TimeoutExpired:
                tried[variant] = f"given up after {limit_s:.0f} s"
            except RuntimeError as error:
                tried[variant] = f"failed: {str(error).strip().splitlines()[-1][:200]}"
        rates = {variant: value for variant, value in tried.items() if isinstance(value, float)}
        best = max(rates, key=lambda variant: rates[variant])
        ours, theirs, lengths = [], [], {"ours": [], "trl": []}
        for number in range(num_rounds):
            result = trl(python, folder, best, trl_steps, FIRST_LIMIT_S)
            theirs.append(rate(result["steps"]))
            lengths["trl"] += [step["tokens"] / step["samples"] for step in result["steps"]]
            run = train(workload, folder / f"run-{number}", MAX_STALENESS, our_steps, 4, seed=number)
            ours.append(run.num_samples / run.seconds)
            lengths["ours"].append(run.generated_tokens / run.num_samples)
    ratios = [mine / their for mine, their in zip(ours, theirs, strict=True)]
    mean = {side: statistics.mean(values) for side, values in lengths.items()}
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    notes = [
        f"{versions}; fastest setting: {best}",
        "settings tried, samples/s: "
        + "; ".join(f"{k}: {v if isinstance(v, str) else f'{v:.2f}'}" for k, v in tried.items()),
        f"mean completion: {mean['ours']:.0f} tokens ours, {mean['trl']:.0f} trl",
    ]
    return [
        Measurement(
            "end to end against trl",
            "samples/s",
            statistics.median(ours),
            other=statistics.median(theirs),
            other_name="trl",
            ratio=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            goal=">= 6",
            notes=notes,
            details={"ours": ours, "trl": theirs, "tried": tried},
        ).row()
    ]


def rate(steps: list[dict[str, float]]) -> float:
    """Samples/s. A step takes minutes, so nothing is gained by leaving out a first one."""
    return sum(step["samples"] for step in steps) / sum(step["seconds"] for step in steps)


def trl(python: Path, folder: Path, variant: str, num_steps: int, limit_s: float) -> dict[str, Any]:
    """One run of trl's trainer."""
    words = [str(python), str(HERE / "trl_side.py"), "--workload", str(folder), "--variant", variant]
    words += ["--steps", str(num_steps), "--free-tokens", str(FREE_TOKENS), "--max-tokens", str(MAX_TOKENS)]
    run = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s)
    results = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise RuntimeError(f"trl ended with {run.returncode}:\n{run.stdout[-3000:]}")
    return json.loads(results[-1].removeprefix("RESULT "))


def environment() -> Path:
    """The interpreter of an environment with the newest trl, our torch (CPU build) and, where trl allows, our versions
    of whatever both need; made once, made anew by removing it."""
    python = ENVIRONMENT / "bin" / "python"
    if (ENVIRONMENT / "complete").exists():
        return python
    sys.path.insert(0, str(HERE.parent / "requirements"))
    import environment as installer

    lock = HERE.parent / "requirements" / "cpu.txt"
    torch = installer.pinned(lock, "torch")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    installer.PIP = [str(python), "-m", "pip", "--disable-pip-version-check"]
    installer.install_torch_cpu(torch)
    # torch is named again: without it, pip would take the CUDA build as a dependency of trl's dependencies
    installer.run([*installer.PIP, "install", "--no-compile", "-c", str(lock), torch, "trl"])
    (ENVIRONMENT / "complete").touch()
    return python


def main() -> None:
    show(measure())


if __name__ == "__main__":
    main()
