"""The report of a recorded run says what it said when the outputs were frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frozen.recorded_report import FOLDER, REPORTED, compare_one


@pytest.mark.parametrize("part", REPORTED)
def test_the_report_of_a_recorded_run_stays(part: str, tmp_path: Path) -> None:
    assert compare_one(part, tmp_path) == ""


def test_the_frozen_report_holds_charts_samples_and_a_selection() -> None:
    both = (FOLDER / "both.txt").read_text()
    for expected in ("Selection of rows", "Held-out accuracy", "chart-0-0 trace", "chart-1-0 trace", "Samples"):
        assert expected in both
