"""The viewer's page as streamlit builds it, without a browser."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from raylign.jobs.cli import run_command_line
from raylign.jobs.view.view import LOOPBACK, ViewConfig, server_words
from tests.jobs.view.made_folders import EVIL, make_data_job, make_run, make_sweep

PATIENCE_S = 300
"""Of AppTest for one run of the page: later means never."""


def _script(folders: list[str]) -> None:
    from raylign.jobs.view.page import show

    show(folders)


def page(*folders: Path) -> AppTest:
    """Its first look."""
    test = AppTest.from_function(_script, kwargs={"folders": [str(each) for each in folders]})
    return test.run(timeout=PATIENCE_S)


def view(test: AppTest, name: str) -> AppTest:
    """Another of its views."""
    test.radio(key="view").set_value(name).run(timeout=PATIENCE_S)
    assert not test.exception, test.exception
    return test


def htmls(test: AppTest) -> list[str]:
    return [element.proto.body for element in test.main.get("html")]


def texts(test: AppTest) -> str:
    return "\n".join(element.value for element in test.text)


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest puts its script in the place of `__main__`, which processes that are started later would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_sweep(folder / "study", [0.2, 0.4], [0.1, 0.3])
    make_data_job(folder / "rows")
    return folder


def test_the_table_shows_filters_and_aggregates(made: Path) -> None:
    test = page(made)
    assert not test.exception
    table = test.dataframe[0].value
    assert list(table["r"]) == [0.2, 0.2, 0.4, 0.4] and list(table["win rate"]) == [0.2, 0.2, 0.4, 0.4]
    test.multiselect(key="filter r").set_value([0.4])
    test.radio(key="aggregate").set_value("best over seeds").run(timeout=PATIENCE_S)
    assert list(test.dataframe[0].value["rho"]) == [0.1, 0.3] and "2 of 4 runs" in texts(test)


def test_the_heat_map_offers_swept_parameters_and_all_numbers(made: Path) -> None:
    test = view(page(made), "Parameters")
    assert test.selectbox(key="across").options == ["r", "rho"] and test.selectbox(key="down").options == ["rho"]
    assert {"win rate", "W/win_rate", "duration (s)"} <= set(test.selectbox(key="number").options)
    test.selectbox(key="number").set_value("duration (s)").run(timeout=PATIENCE_S)
    test.checkbox(key="unstretch").check().run(timeout=PATIENCE_S)
    assert not test.exception


def test_curves_of_the_report_and_any_metric(made: Path) -> None:
    test = view(page(made), "Curves")
    assert "Loss" in test.selectbox(key="chart").options
    test.selectbox(key="chart").set_value("one metric …").run(timeout=PATIENCE_S)
    assert "evaluation/loss" in test.selectbox(key="metric").options
    test.selectbox(key="axis").set_value("tokens").run(timeout=PATIENCE_S)
    assert not test.exception and len(test.main.get("plotly_chart")) == 1


def test_samples_stand_side_by_side_and_texts_stay_texts(made: Path) -> None:
    test = view(page(made / "study" / "after-run-0"), "Samples")
    assert "the <mark>cat</mark> sat" in "".join(htmls(test))
    test.radio(key="order").set_value("largest change first").run(timeout=PATIENCE_S)
    shown = "".join(htmls(test))
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "**bold**" in shown
    assert "change +3" in texts(test)
    assert not test.markdown, "nothing of a text is markdown"
    test.number_input(key="place").set_value(2).run(timeout=PATIENCE_S)
    assert "the <mark>dog</mark> sat" in "".join(htmls(test))


def test_data_shows_drops_histogram_rows_and_lineage(made: Path) -> None:
    test = view(page(made), "Data")
    frames = [frame.value for frame in test.dataframe]
    assert list(frames[1]["reason"]) == ["too easy"] and "Left out: 3" in texts(test)
    assert list(frames[-1].iloc[0]) == ["verify", "3", "p-1", "2", "0.5"]
    assert "<script>" not in "".join(htmls(test)) and not test.markdown


def test_bdr_s_selection_is_shown_by_state_and_weight(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    from raylign.jobs.curricula.selection import SCHEMA

    run = make_run(tmp_path / "bdr", "bdr")
    rows: list[dict[str, Any]] = [
        {"row": n, "source_row": n, "prompt": EVIL, "response": "r", "weight": w, "logit": w, "state": s, "answers": a}
        for n, (w, s, a) in enumerate(
            [(1.5, "kept", []), (0.2, "dropped", []), (0.1, "regenerated", [{"text": "anew", "version": 3}])]
        )
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), run / "selection.parquet")
    test = view(page(tmp_path), "Data")
    assert list(test.dataframe[0].value["state"]) == ["kept", "dropped", "regenerated"]
    test.selectbox(key="state").set_value("regenerated").run(timeout=PATIENCE_S)
    assert "answer of the policy, weight version 3" in texts(test) and ">anew<" in "".join(htmls(test))


def test_folders_that_are_empty_deleted_or_half_written_are_said_and_break_nothing(tmp_path: Path) -> None:
    test = page(tmp_path, tmp_path / "nowhere")
    assert "There is no run" in texts(test) and "nowhere is not there" in texts(test)
    run = make_run(tmp_path / "a", "a")
    (run / "config.yaml").write_text("name: [a")
    test.run(timeout=PATIENCE_S)
    assert "1 runs are not shown" in texts(test)
    shutil.rmtree(run)
    test.run(timeout=PATIENCE_S)
    for name in ("Parameters", "Curves", "Samples", "Data"):
        view(test, name)


def test_a_viewer_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "streamlit" else find_spec(name))
    assert run_command_line(["view", str(tmp_path)]) == 2
    assert "pip install 'raylign[viewer]'" in capsys.readouterr().err


def test_it_listens_on_this_machine_alone_and_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command_line(["view", str(tmp_path), "--port", str(port)]) == 2
        assert f"port {port} is taken" in capsys.readouterr().err
    words = server_words(ViewConfig(folders=[tmp_path, tmp_path], port=port))
    assert words[words.index("--server.address") + 1] == LOOPBACK
    assert words[-3:] == ["--", str(tmp_path), str(tmp_path)]
    assert run_command_line(["view", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
