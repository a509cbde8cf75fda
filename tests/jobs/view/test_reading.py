"""What the viewer reads of folders, and what it makes of it, without a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from raylign.jobs.report.charts import CHARTS
from raylign.jobs.view import answers, curves, data_jobs, files
from raylign.jobs.view.folders import find_folders
from raylign.jobs.view.runs import RunRow, run_rows
from raylign.jobs.view.tables import aggregated, filter_choices, filtered, heat_map, swept, table_lines
from tests.jobs.view.made_folders import EVIL, make_data_job, make_run, make_sweep, write_lines


def rows_in(*folders: Path) -> list[RunRow]:
    return run_rows(find_folders(folders))


def test_folders_are_known_by_their_files_and_a_run_s_own_parts_are_not_looked_into(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "a")
    write_lines(tmp_path / "a" / "checkpoints" / "x" / "metrics.jsonl", [])
    make_sweep(tmp_path / "b", [0.2], [0.1])
    make_data_job(tmp_path / "c")
    found = find_folders([tmp_path, tmp_path / "a"])
    kinds = {each.path.relative_to(tmp_path).as_posix(): each.kind for each in found}
    assert kinds == {"a": "run", "b": "sweep", "b/run-0": "run", "b/after-run-0": "comparison", "c": "data"}
    assert find_folders([tmp_path / "nowhere"]) == []


def test_a_run_is_what_its_sweep_says_with_the_numbers_of_what_followed(tmp_path: Path) -> None:
    first, *_ = rows_in(make_sweep(tmp_path / "b", [0.2, 0.4], [0.1]))
    assert (first.tag, first.task, first.model, first.data) == ("study", "DDP", "L8B", "U0")
    assert first.parameters == {"r": 0.2, "rho": 0.1, "s": 0}
    assert first.column("win rate") == 0.2 and first.column("duration (s)") == 100.0
    assert first.column("validation loss") == pytest.approx(0.3)
    assert first.column("accuracy") is None


def test_a_run_that_goes_on_has_its_last_evaluation_and_its_step(tmp_path: Path) -> None:
    (row,) = rows_in(make_run(tmp_path / "a", "a", num_steps=7))
    assert (row.column("validation loss"), row.column("duration (s)")) == (0.5, 14.0)
    assert row.state == "step 7"  # in epochs: the number of steps is not said


def test_an_evaluation_elsewhere_belongs_to_the_run_whose_checkpoint_it_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "a", summary={"num_steps": 5, "seconds": 1.0})
    found = {"model": str(run / "checkpoints" / "step-000005"), "evaluation/reward_mean": 0.25}
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "evaluation.json").write_text(json.dumps(found))
    (row,) = rows_in(tmp_path)
    assert row.column("mean reward") == 0.25


def test_runs_of_a_folder_have_the_keys_that_differ_as_parameters(tmp_path: Path) -> None:
    for beta in (0.1, 0.5):
        make_run(tmp_path / "x" / f"{beta}", "same", f"name: dpo, beta: {beta}")
    assert [row.parameters for row in rows_in(tmp_path)] == [{"algorithm.beta": 0.1}, {"algorithm.beta": 0.5}]


def test_filters_keep_what_is_wanted_and_offer_what_differs(tmp_path: Path) -> None:
    lines = table_lines(rows_in(make_sweep(tmp_path / "b", [0.2, 0.4], [0.1, 0.3])))
    assert filter_choices(lines) == {"r": [0.2, 0.4], "rho": [0.1, 0.3]}
    assert len(filtered(lines, {"r": [0.4], "rho": []})) == 2


def test_means_and_bests_are_over_seeds_and_of_losses_the_lowest(tmp_path: Path) -> None:
    rows = rows_in(make_sweep(tmp_path / "b", [0.2, 0.4], [0.1], seeds=[0, 1]))
    lines = table_lines(rows)
    means = aggregated(rows, lines, "mean over seeds")
    assert [line["validation loss"] for line in means] == [pytest.approx(0.8), pytest.approx(1.0)]
    assert [(line["r"], line["s"], line["runs"]) for line in means] == [(0.2, None, 2), (0.4, None, 2)]
    best = aggregated(rows, lines, "best over seeds")[0]
    assert best["validation loss"] == pytest.approx(0.3) and best["margin"] == pytest.approx(0.7)


def test_a_heat_map_has_means_at_points_and_undoes_the_stretch(tmp_path: Path) -> None:
    rows = rows_in(make_sweep(tmp_path / "b", [0.4, 0.2], [0.1, 0.3], seeds=[0, 2]))
    assert swept(rows)[:2] in (["r", "rho"], ["r", "s"])
    found = heat_map(rows, "r", "rho", "validation loss")
    assert (found.across, found.down) == ([0.2, 0.4], [0.1, 0.3])
    assert found.cells[0] == [pytest.approx(1.3), pytest.approx(1.5)] and found.counts == [[2, 2], [2, 2]]
    times = heat_map(rows, "r", "rho", "duration (s)", unstretch=True)
    assert times.cells[0] == [pytest.approx(80.0), pytest.approx(60.0)]


def test_curves_of_several_runs_stand_over_steps_tokens_or_time(tmp_path: Path) -> None:
    lines = curves.metric_lines(make_run(tmp_path / "a", "a"))
    loss = next(chart for chart in CHARTS if chart.title == "Loss")
    for axis, last in (("steps", 5.0), ("tokens", 500.0), ("wall time", 10 / 3600)):
        drawn = curves.figure(loss, {"<b>a</b>": lines, "b": lines}, axis)  # type: ignore[arg-type]
        assert drawn is not None and len(drawn["data"]) == 2
        assert drawn["data"][0]["x"][-1] == last and drawn["data"][0]["name"] == "&lt;b&gt;a&lt;/b&gt;"
    smooth = curves.figure(loss, {"a": lines}, "steps", smoothed_over=1)
    assert smooth is not None and smooth["data"][0]["y"][0] == pytest.approx(0.75)
    assert curves.figure(CHARTS[0], {"a": lines}) is None


def test_answers_of_two_sides_meet_by_prompt_in_the_order_asked_for(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "b", [0.2], [0.1]) / "after-run-0"
    sides = {name: answers.read_answers(*place) for name, place in answers.answer_files(folder).items()}
    assert list(sides) == ["comparison: new", "comparison: reference"]
    new, reference = sides.values()
    assert [each.prompt for each in answers.paired(reference, new, "best first")] == ["one", EVIL, "three"]
    assert [each.prompt for each in answers.paired(reference, new, "worst first")] == [EVIL, "one", "three"]
    changes = answers.paired(reference, new, "largest change first")
    assert [each.change for each in changes] == [-3.0, 0.5, None]


def test_words_that_differ_are_marked_and_nothing_is_html() -> None:
    assert answers.marked("the cat sat", "the dog sat") == "the <mark>cat</mark> sat"
    assert answers.marked("a <b> c", "a d c") == "a <mark>&lt;b&gt;</mark> c"
    assert answers.marked(EVIL, EVIL).count("<") == 0


def test_held_out_answers_samples_and_draws_are_read_as_answers(tmp_path: Path) -> None:
    group = {"prompt": "p", "completions": [{"text": "t", "total": 1.0}, {"text": "u", "total": 0.0}]}
    write_lines(tmp_path / "evaluation" / "step-000005.jsonl", [{"prompt": "p", "response": "r", "reward": None}])
    write_lines(tmp_path / "samples" / "step-000005.jsonl", [group, {"prompt": "q", "completions": []}])
    write_lines(tmp_path / "draws.jsonl", [{"prompt": "p", "answers": [{"text": "a"}], "scores": [0.5]}])
    found = {name: answers.read_answers(*place) for name, place in answers.answer_files(tmp_path).items()}
    assert found == {
        "held-out answers, step 000005": {"p": answers.Answer("r")},
        "kept samples, step 000005": {"p": answers.Answer("t", 1.0)},
        "drawn answers (draws)": {"p": answers.Answer("a", 0.5)},
    }


def test_a_data_job_tells_what_it_left_out_and_where_rows_come_from(tmp_path: Path) -> None:
    job = make_data_job(tmp_path / "c")
    assert data_jobs.dropped_counts(job) == [{"part": "", "reason": "too easy", "rows": 3}]
    rows = data_jobs.read_rows(data_jobs.row_files(job)["train.jsonl"])
    assert data_jobs.lineage_of(rows[0]) == {"stage": "verify", "parent": 3, "passage": "p-1", "k": 2, "score": 0.5}
    assert data_jobs.number_columns(rows)[0] == "score"
    assert sum(data_jobs.histogram([*rows, {"score": float("nan")}, {"score": None}], ["score"])["data"][0]["y"]) == 2
    summary = {"best_of": {"2": {"num_pairs": 5, "dropped": {"tied": 2, "empty": 0}}}}
    (job / "summary.json").write_text(json.dumps(summary))
    assert data_jobs.dropped_counts(job) == [{"part": "best_of/2", "reason": "tied", "rows": 2}]
    (job / "summary.json").unlink()
    assert data_jobs.dropped_counts(job) == [{"part": "", "reason": "too easy", "rows": 3}]


def test_counts_by_split_do_not_count_twice_and_a_journal_holds_no_rows(tmp_path: Path) -> None:
    summary = {"left_out": {"empty": 2}, "splits": {"train": {"left_out": {"empty": 2}}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert data_jobs.dropped_counts(tmp_path) == [{"part": "", "reason": "empty", "rows": 2}]
    write_lines(tmp_path / "scores.jsonl", [{"stage": "score-pairs", "row": "train:0", "key": "k", "begun": True}])
    write_lines(tmp_path / "scored.jsonl", [{"prompt": "p"}])
    assert list(data_jobs.row_files(tmp_path)) == ["scored.jsonl"]


def test_rows_of_parquet_and_of_a_saved_folder_are_read(tmp_path: Path) -> None:
    import datasets

    rows = [{"prompt": "p", "score": 1.0}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "saved"))
    found = data_jobs.row_files(tmp_path)
    assert [data_jobs.read_rows(path) for path in found.values()] == [rows, rows]
    assert data_jobs.row_files(tmp_path / "saved") == {
        "rows": tmp_path / "saved",
        "train": tmp_path / "saved" / "train",
    }


def test_what_is_half_written_or_deleted_meanwhile_is_left_out_until_it_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "a", summary={"num_steps": 5, "seconds": 1.0})
    found = find_folders([tmp_path])
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text[:-5])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "seco')
    (row,) = run_rows(found)
    assert row.state == "step 5" and len(curves.metric_lines(run)) == 5
    (run / "summary.json").write_text(text)
    assert run_rows(found)[0].state == "finished"
    (run / "config.yaml").write_text("name: [a")
    assert run_rows(found) == []
    shutil.rmtree(run)
    assert run_rows(found) == [] and curves.metric_lines(run) == [] and data_jobs.row_files(run) == {}
    assert answers.answer_files(run) == {}


def test_a_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path, parsed = tmp_path / "x.json", []
    path.write_text("{}")

    def parse(place: Path) -> str:
        parsed.append(place)
        return place.read_text()

    assert [files.read_as(path, "x", parse) for _ in range(3)] == ["{}"] * 3 and len(parsed) == 1
    path.write_text('{"a": 1}')
    assert files.read_as(path, "x", parse) == '{"a": 1}' and len(parsed) == 2


def test_a_sweep_json_of_another_version_still_tells_what_it_can(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "b", [0.2], [0.1])
    (folder / "sweep.json").write_text(json.dumps({"version": 0, "commands": []}))
    assert [row.task for row in rows_in(folder)] == ["sail"]
