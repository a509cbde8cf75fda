"""What the quickstart promises: held-out accuracy rises by at least 20 points on every seed, within 6 minutes.

Given nothing; runs `raylign quickstart` for each seed, prints a Markdown table, and exits 1 where a promise is broken.

    .venv/bin/python benchmarks/quickstart_seeds.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

MIN_GAIN, MAX_SECONDS = 0.20, 360.0


def main() -> int:
    """One quickstart after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/quickstart-seeds"))
    arguments = parser.parse_args()
    kept = True
    rows = []
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed-{seed}"
        command = [sys.executable, "-m", "raylign.jobs", "quickstart", "--seed", str(seed), "--folder", str(folder)]
        subprocess.run(command, check=True)
        summary = json.loads((folder / "summary.json").read_text())
        before, after, seconds = summary["accuracy_before"], summary["accuracy_after"], summary["seconds"]
        rows.append(f"| {seed} | {before:.1%} | {after:.1%} | {after - before:+.1%} | {seconds:.0f} |")
        kept = kept and after - before >= MIN_GAIN and seconds <= MAX_SECONDS
    verdict = "kept" if kept else "MISSED"
    print(f"goal: gain of at least {MIN_GAIN:.0%} within {MAX_SECONDS:.0f} s on every seed: {verdict}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
