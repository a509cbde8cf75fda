"""Win rates with ties and failures, and the charts of what they cost."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from raylign.jobs.compare.charts import (
    ComparisonPoint,
    points_of_folder,
    win_rate_versus_kl_chart,
    win_rate_versus_length_chart,
    write_comparison_page,
)
from raylign.jobs.compare.win_rate import WinRate, win_rate
from raylign.jobs.run.statistics import wilson_interval
from raylign.learners.losses.best_of_n_theory import best_of_n_kl, best_of_n_win_rate


def test_two_of_five_win_one_ties_and_two_lose() -> None:
    found = win_rate([1, 0.5, 2, 0.3, 0.3], [0.9, 0.7, 2, 0.1, 0.5])
    assert found == WinRate(num_wins=2, num_ties=1, num_losses=2, num_failed=0)
    row = found.row()
    assert (row["win_share"], row["tie_share"], row["loss_share"]) == (0.4, 0.2, 0.4)
    assert row["win_rate"] == 0.5  # ties half; `win_share` is the number that counts them as lost
    assert (row["win_share_low"], row["win_share_high"]) == wilson_interval(0.4, 5)


def test_a_missing_score_is_neither_won_nor_lost_nor_a_tie() -> None:
    found = win_rate([1.0, None, 2.0, math.nan], [0.0, 1.0, None, math.nan])
    assert found == WinRate(num_wins=1, num_ties=0, num_losses=0, num_failed=3)
    assert found.row()["win_share"] == 1.0


def test_with_nothing_compared_there_are_no_shares() -> None:
    row = win_rate([None], [1.0]).row()
    assert row["num_failed"] == 1 and row["win_rate"] is None and row["win_share"] is None


def test_the_interval_with_ties_is_narrower_than_without_and_covers_the_mean() -> None:
    with_ties = WinRate(10, 80, 10, 0).row()
    without = WinRate(50, 0, 50, 0).row()
    assert with_ties["win_rate_low"] < 0.5 < with_ties["win_rate_high"]
    assert with_ties["win_rate_high"] < without["win_rate_high"]
    assert (without["win_rate_low"], without["win_rate_high"]) == pytest.approx(wilson_interval(0.5, 100))


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 scores of the new model, 1 of the reference"):
        win_rate([1.0, 2.0], [1.0])


POINT = ComparisonPoint("dpo", 0.7, 0.6, 0.8, kl=1.5, kl_error=0.1, length=30.0, reference_length=20.0)


def test_points_stand_beside_best_of_n_and_the_best_tilt() -> None:
    figure = win_rate_versus_kl_chart([POINT, ComparisonPoint("no KL", 0.6, 0.5, 0.7)])
    tilt, best_of_n, *marks = figure["data"]
    assert (tilt["x"][0], tilt["y"][0]) == (0.0, 0.5) and tilt["x"][-1] >= 1.5
    assert best_of_n["text"][1:6] == ["n = 2", "n = 3", "n = 4", "n = 6", "n = 8"]
    assert best_of_n["x"][1] == best_of_n_kl(2) and best_of_n["y"][1] == best_of_n_win_rate(2)
    assert [mark["name"] for mark in marks] == ["dpo"]
    assert (marks[0]["x"], marks[0]["y"]) == ([1.5], [0.7])
    assert marks[0]["error_y"]["array"] == pytest.approx([0.1])
    assert marks[0]["error_x"]["array"] == pytest.approx([0.196])


def test_the_chart_of_theory_alone_reaches_beyond_best_of_8() -> None:
    figure = win_rate_versus_kl_chart([])
    assert figure["data"][0]["x"][-1] > best_of_n_kl(8)


def test_win_rate_stands_against_length_beside_the_reference() -> None:
    figure = win_rate_versus_length_chart([POINT])
    assert figure is not None
    reference, mark = figure["data"]
    assert (reference["x"], reference["y"], mark["x"]) == ([20.0], [0.5], [30.0])
    assert win_rate_versus_length_chart([ComparisonPoint("no length", 0.6, 0.5, 0.7)]) is None
    other = ComparisonPoint("characters", 0.6, 0.5, 0.7, length=90.0, length_unit="characters")
    assert win_rate_versus_length_chart([POINT, other]) is None


def test_a_page_holds_the_points_of_several_comparisons_and_fetches_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = {
            "new": {"label": f"<{name}>", "mean_tokens": 30.0, "mean_characters": 99.0},
            "reference": {"label": "sft", "mean_tokens": 20.0, "mean_characters": 80.0},
            "kl": {"mean": 0.7, "standard_error": None},
            "by_reward": WinRate(7, 1, 2, 0).row(),
            "by_judge": None,
        }
        (tmp_path / name / "comparison.json").write_text(json.dumps(found))
    write_comparison_page(tmp_path / "page.html", "two models", [tmp_path / "a", tmp_path / "b"])
    text = (tmp_path / "page.html").read_text()
    assert "&lt;a&gt; against sft, by reward" in text and "&lt;b&gt; against sft" in text
    assert "75.0 %" in text and text.count("Plotly.newPlot(") == 2
    assert re.search(r"<(script|link|img)[^>]+(src|href)=", text.replace(get_plotlyjs(), "")) is None
    with pytest.raises(ValueError, match=r"holds no comparison.json"):
        points_of_folder(tmp_path)
