"""What the quickstart promises on every seed: 20 points of held-out accuracy in 3 minutes of two idle cores, no alarm.

Given nothing; runs `raylign quickstart` for each seed, prints a Markdown table, and exits 1 where a promise is broken.

    .venv/bin/python benchmarks/quickstart_seeds.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from raylign.jobs.run.folder import read_metrics
from raylign.learners.losses.corrections import CorrectionConfig
from raylign.learners.meters.mismatch import SHARE, WEIGHTED_SHARE

MIN_GAIN, MAX_SECONDS, ALARM_BELOW = 0.20, 180.0, CorrectionConfig().alarm_below
HEAD = """\
| seed | accuracy before GRPO | accuracy after | gain (points) | least sample size, with weights | of raw ratios | seconds | load |
|---|---|---|---|---|---|---|---|"""  # noqa: E501


class Found(NamedTuple):
    """What one quickstart gave."""

    seed: int
    before: float
    after: float
    seconds: float
    least_share: float
    least_raw_share: float

    @property
    def row(self) -> str:
        """Of the table; the load is that of the last 5 minutes."""
        return (
            f"| {self.seed} | {self.before:.1%} | {self.after:.1%} | {100 * (self.after - self.before):+.1f} "
            f"| {self.least_share:.2f} | {self.least_raw_share:.2f} | {self.seconds:.0f} | {os.getloadavg()[1]:.1f} |"
        )

    @property
    def kept(self) -> bool:
        """Every promise."""
        return self.after - self.before >= MIN_GAIN and self.seconds <= MAX_SECONDS and self.least_share >= ALARM_BELOW


def found(seed: int, folder: Path) -> Found:
    """Read from the folder of a finished quickstart."""
    summary = json.loads((folder / "summary.json").read_text())
    steps = [line for line in read_metrics(folder / "grpo") if WEIGHTED_SHARE in line]
    return Found(
        seed,
        summary["accuracy_before"],
        summary["accuracy_after"],
        summary["seconds"],
        min(line[WEIGHTED_SHARE] for line in steps),
        min(line[SHARE] for line in steps),
    )


def main() -> int:
    """One quickstart after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/quickstart-seeds"))
    arguments = parser.parse_args()
    results, rows = [], []
    for seed in arguments.seeds:
        folder = arguments.folder / f"seed-{seed}"
        command = [sys.executable, "-m", "raylign.jobs", "quickstart", "--seed", str(seed), "--folder", str(folder)]
        subprocess.run(command, check=True)
        results.append(found(seed, folder))
        rows.append(results[-1].row)
    print(HEAD, *rows, sep="\n")
    kept = all(result.kept for result in results)
    print(
        f"goal on every seed: a gain of at least {MIN_GAIN:.0%}, within {MAX_SECONDS:.0f} s on two idle cores, "
        f"no sample size under {ALARM_BELOW}: {'kept' if kept else 'MISSED'}"
    )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
