"""The tour names the core: files that exist, in reading order, few enough for an afternoon."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs" / "tour.md"
MOST_LINES = 7500


def core_files() -> list[str]:
    return re.findall(r"^- \[`([^`]+)`\]\(\.\./\1\): ", TOUR.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_tour_names_each_file_of_the_core_once_with_its_link() -> None:
    files = core_files()
    assert len(files) == len(set(files)) == len(re.findall(r"^- \[", TOUR.read_text(encoding="utf-8"), re.MULTILINE))
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert files[0] == "jobs/train.py"


def test_the_core_can_be_read_in_an_afternoon() -> None:
    lines = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in core_files()}
    assert sum(lines.values()) <= MOST_LINES, f"{sum(lines.values())} lines: {lines}"
