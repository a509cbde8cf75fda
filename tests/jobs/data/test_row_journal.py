"""The journal of a stage: nothing finished is made again, whatever kills the process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from raylign.jobs.data.row_journal import RowJournal, key_of
from tests.jobs.data.journal_worker import MOST_AT_ONCE

NUM_ROWS = 200


def filled(path: Path) -> None:
    with RowJournal(path, "votes") as journal:
        journal.append("b", "k1", {"label": "72"})
        journal.begin("c", "k2")
        journal.append("a", "k3", None)


def test_results_are_found_again_in_the_order_of_the_rows(tmp_path: Path) -> None:
    filled(tmp_path / "votes.jsonl")
    with RowJournal(tmp_path / "votes.jsonl", "votes") as journal:
        assert journal.results([("a", "k3"), ("c", "k2"), ("b", "k1"), ("d", "k4")]) == [None, {"label": "72"}]
        assert journal.has("a", "k3") and not journal.has("c", "k2") and len(journal) == 2
        journal.begin("c", "k2")
        journal.append("c", "k2", 7)
        assert journal.repeated_in_flight == 1 and journal.result("c", "k2") == 7
        for call in (lambda: journal.append("c", "k2", 8), lambda: journal.begin("c", "k2")):
            with pytest.raises(ValueError, match="row c of stage votes is finished already"):
                call()
        with pytest.raises(ValueError, match="row d of stage votes is not finished"):
            journal.result("d", "k4")


def test_a_row_that_was_withdrawn_is_made_later_and_counts_as_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    filled(path)
    with RowJournal(path, "votes") as journal:
        journal.withdraw("c", "k2")
    with RowJournal(path, "votes") as journal:
        assert not journal.has("c", "k9")
        journal.begin("c", "k9")
        journal.append("c", "k9", 1)
        assert journal.repeated_in_flight == 0 and journal.result("c", "k9") == 1


def test_a_half_written_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    filled(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:length])
        with RowJournal(path, "votes") as journal:
            journal.append("a", "k3", None)
        assert [json.loads(line)["row"] for line in path.read_bytes().splitlines()] == ["b", "c", "a"]


def test_a_row_of_another_key_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "votes.jsonl")
    with RowJournal(tmp_path / "votes.jsonl", "votes") as journal:
        for call in (journal.has, journal.begin, lambda row, key: journal.append(row, key, 1)):
            with pytest.raises(
                ValueError, match=r"votes.jsonl:3: row a of stage votes was made under k3, .*under k9: .* new folder"
            ):
                call("a", "k9")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "votes.jsonl:4: not what this job writes"),
        ("[1]", "votes.jsonl:4: not what this job writes"),
        ('{"stage": "votes", "row": "x", "key": "k"}', "votes.jsonl:4: not what this job writes"),
        ('{"stage": "scores", "row": "x", "key": "k", "result": 1}', "votes.jsonl:4: written by the stage scores"),
        ('{"stage": "votes", "row": "b", "key": "k1", "result": 1}', "votes.jsonl:4: row b stands in line 1 already"),
    ],
)
def test_a_file_that_the_stage_did_not_write_is_refused(tmp_path: Path, line: str, said: str) -> None:
    filled(tmp_path / "votes.jsonl")
    with (tmp_path / "votes.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=said):
        RowJournal(tmp_path / "votes.jsonl", "votes")


def test_keys_are_of_all_parts_and_of_nothing_else() -> None:
    assert key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1}) != key_of("a", {"x": 1, "y": 3})
    assert key_of("a", "b") != key_of("ab") and key_of("\ud800") != key_of("?")


def test_texts_that_no_encoding_knows_are_kept(tmp_path: Path) -> None:
    with RowJournal(tmp_path / "x.jsonl", "votes") as journal:
        journal.append("a", "k", {"text": "half \ud83d of a pair\u2028"})
    with RowJournal(tmp_path / "x.jsonl", "votes") as journal:
        assert journal.result("a", "k") == {"text": "half \ud83d of a pair\u2028"}


def test_after_twenty_kills_at_random_moments_every_row_was_made_once(tmp_path: Path) -> None:
    path, made = tmp_path / "squares.jsonl", tmp_path / "made"
    words = [sys.executable, "-m", "tests.jobs.data.journal_worker", str(path), str(made), str(NUM_ROWS)]
    random, kills, hits = Random(0), 0, 0
    while kills < 20:
        before = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        more = random.randint(1, 1500)
        while process.poll() is None and not (path.exists() and path.stat().st_size > before + more):
            time.sleep(0.002)  # the process ends by itself
        hits += process.poll() is None
        process.kill()
        process.communicate()
        kills += 1
    assert hits >= 15
    subprocess.run(words, check=True, stdout=subprocess.PIPE)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    finished = Counter(line["row"] for line in lines if "result" in line)
    assert finished == Counter(map(str, range(NUM_ROWS)))
    begun = Counter(line["row"] for line in lines if "begun" in line)
    assert sum(begun.values()) - NUM_ROWS <= kills * MOST_AT_ONCE
    # what was finished in the journal, and only that, was never made again
    assert max(Counter(made.read_text().split()).values()) == 1
    with RowJournal(path, "squares") as journal:
        rows = [(str(row), key_of("square", row)) for row in range(NUM_ROWS)]
        assert [result["square"] for result in journal.results(rows)] == [row * row for row in range(NUM_ROWS)]
