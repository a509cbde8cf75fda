"""The report of a recorded run, frozen in `report/*.txt`.

Given the run folders `recorded_run/{grpo,bdr_online}` (made by the curves of those names, without experience and
checkpoints); gives their reports in a form that can be read in a diff: a tag in each line, the data of every chart,
and of the scripts and the style a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from tests.frozen.command_line import FROZEN, printed_by
from tests.frozen.differences import text_difference

RECORDED = FROZEN / "recorded_run"
FOLDER = FROZEN / "report"
REPORTED = {"both": ".", "grpo": "grpo"}
"""Name of the frozen file, and folder that is reported on: the page of a folder of runs compares them."""


def report(part: str, temporary: Path) -> str:
    """The report of a copy of the recorded run, in readable form."""
    copy = temporary / "recorded_run"
    if not copy.exists():
        shutil.copytree(RECORDED, copy)
        for seconds, run in enumerate(("grpo", "bdr_online")):  # the order in which they were started
            os.utime(copy / run / "metrics.jsonl", (1_000_000 + seconds, 1_000_000 + seconds))
    folder = copy / REPORTED[part]
    printed_by(["report", "--folder", str(folder)])
    return readable((folder / "report.html").read_text())


def readable(page: str) -> str:
    """A line for each tag; chart data a line for each trace; scripts and style as their fingerprints."""
    page = re.sub(r"(<style>)(.*?)(</style>)", _fingerprint, page, flags=re.DOTALL)
    page = re.sub(r"(<script>)(.*?)(</script>)", _fingerprint, page, flags=re.DOTALL)
    page = re.sub(r'(id="figures">)(.*?)(</script>)', _charts, page, flags=re.DOTALL)
    return re.sub(r"(?<=[^\n])(<(?!/))", r"\n\1", page)


def compare(temporary: Path) -> str:
    """The differences of all reports; empty where there are none."""
    return "\n".join(filter(None, (compare_one(part, temporary) for part in REPORTED)))


def compare_one(part: str, temporary: Path) -> str:
    """The difference of one report."""
    return text_difference((FOLDER / f"{part}.txt").read_text(), report(part, temporary))


def write(temporary: Path) -> None:
    """Freeze the reports of the recorded run as they are now."""
    FOLDER.mkdir(exist_ok=True)
    for part in REPORTED:
        (FOLDER / f"{part}.txt").write_text(report(part, temporary))


def _fingerprint(found: re.Match[str]) -> str:
    if "plotly.js v" in found[2]:  # of whatever version is installed
        return f"{found[1]}plotly.js{found[3]}"
    return f"{found[1]}sha256 {hashlib.sha256(found[2].encode()).hexdigest()}{found[3]}"


def _charts(found: re.Match[str]) -> str:
    lines = []
    for name, chart in json.loads(found[2]).items():
        lines += [f"{name} layout {json.dumps(chart['layout'])}"]
        lines += [f"{name} trace {json.dumps(trace)}" for trace in chart["data"]]
        lines += [f"{name} {key} {json.dumps(chart[key])}" for key in sorted(chart.keys() - {"layout", "data"})]
    return "\n".join([found[1], *lines, found[3]])
