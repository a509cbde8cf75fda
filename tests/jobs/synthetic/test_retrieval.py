"""Passages of a library: acceptance 10 with its numbers, bm25s as a second opinion, shards, broken libraries."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import bm25s  # type: ignore[import-untyped]
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from raylign.jobs.synthetic.library import LibraryCounts, library_files, passages
from raylign.jobs.synthetic.retrieval import PassageIndex, find_passages
from raylign.jobs.synthetic.retrieval_index import META, ensure_index, tokens_of

FOUR = [
    "Medical diagnosis and clinical care of patients",
    "Cooking pasta with tomato sauce",
    "Clinical trials in medicine and health care systems",
    "History of the railway",
]
QUERY = "clinical health care medicine"


def library(folder: Path, texts: Sequence[str], name: str = "library.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def index_of(folder: Path, texts: Sequence[str], tokens_a_shard: int = 10**6) -> PassageIndex:
    return PassageIndex(ensure_index([library(folder, texts)], folder / "index", tokens_a_shard))


def best(index: PassageIndex, query: str, most: int) -> list[int]:
    hits = index.search(query, most)
    assert hits.scores.tolist() == [index.scores(query)[number] for number in hits.numbers]
    return hits.numbers.tolist()


def random_texts(num_texts: int, num_words: int = 300, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = [f"Word{number}" for number in range(num_words)]
    weights = [1 / (1 + place) for place in range(num_words)]
    return [" ".join(draw.choices(words, weights, k=draw.randint(5, 60))) for _ in range(num_texts)]


def test_words_in_half_the_library_count_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, FOUR)
    assert index.scores(QUERY) == pytest.approx([0, 0, 1.473561, 0], abs=5e-7)
    assert best(index, QUERY, 4) == [2]


def test_scores_are_those_of_bm25s_times_k1_plus_one(tmp_path: Path) -> None:
    texts = random_texts(400)
    reference = bm25s.BM25(k1=1.5, b=0.75, method="robertson")
    reference.index([tokens_of(text) for text in texts], show_progress=False)
    index = index_of(tmp_path, texts)
    for query in ("word3 word17 word99", "WORD200 word200 absent", "word0"):
        known = [word for word in tokens_of(query) if word in reference.vocab_dict]
        assert index.scores(query) == pytest.approx(2.5 * reference.get_scores(known), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("tokens_a_shard", [1, 200, 3000])
def test_shards_give_what_one_index_gives(tokens_a_shard: int, tmp_path: Path) -> None:
    texts = random_texts(150)
    whole = index_of(tmp_path, texts)
    shards = index_of(tmp_path, texts, tokens_a_shard)
    assert len(shards) == len(whole) == 150
    for query in ("word3 word17", "word40 word41 word42 word43", "word2"):
        assert np.array_equal(whole.scores(query), shards.scores(query))
        for most in (1, 10, 150):
            assert best(shards, query, most) == best(whole, query, most)
    assert [shards.text(number) for number in range(150)] == texts


def test_the_best_come_first_and_equal_ones_in_the_order_of_the_library(tmp_path: Path) -> None:
    texts = ["red fish", "blue fish", "red hen", "green hen", "red cow", "a cow", "one pig", "two pigs"]
    index = index_of(tmp_path, texts)
    assert best(index, "red", 2) == [0, 2]
    assert best(index, "red cow", 9) == [4, 5, 0, 2]
    assert best(index, "yellow", 5) == []


def test_tokens_are_lower_cased_words_with_their_punctuation(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["The end.", "the End", "ÉTÉ is a season", "no", "nothing", "none"])
    assert best(index, "end.", 5) == [0]
    assert best(index, "end", 5) == [1]
    assert best(index, "été", 5) == [2]


def test_an_index_is_built_once_for_a_content_wherever_it_lies(tmp_path: Path) -> None:
    first = ensure_index([library(tmp_path, FOUR)], tmp_path / "index")
    written = (first / META).stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    again = ensure_index([library(tmp_path / "elsewhere", FOUR, "other.jsonl")], tmp_path / "index")
    assert again == first and (again / META).stat().st_mtime_ns == written
    other = ensure_index([library(tmp_path, [*FOUR, "one more"])], tmp_path / "index")
    assert other != first and len(PassageIndex(other)) == 5


def test_what_a_killed_process_left_behind_is_removed_and_a_damaged_index_is_built_again(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    left = folder / ".building-4194305-abc"  # above the largest process id
    left.mkdir(parents=True)
    running = folder / f".building-{os.getppid()}-abc"
    running.mkdir()
    place = ensure_index([library(tmp_path, FOUR)], folder)
    assert not left.exists() and running.exists()
    (place / META).write_text('{"num_words": 1')
    with pytest.raises(ValueError, match="holds no whole index"):
        PassageIndex(place)
    assert len(PassageIndex(ensure_index([library(tmp_path, FOUR)], folder))) == 4
    assert sorted(path.name for path in folder.iterdir()) == sorted([running.name, place.name])


def test_rows_without_the_key_text_give_all_values_joined(tmp_path: Path) -> None:
    rows = [
        {"title": "A", "body": ["b", {"c": "d"}], "n": 3, "nothing": None},
        {"text": " x ", "title": "y"},
        {"text": ""},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = LibraryCounts()
    assert list(passages(library_files([tmp_path]), counts)) == ["A b d 3", "x"]
    assert (counts.num_rows, counts.num_without_text, counts.num_passages) == (3, 1, 2)


def test_broken_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut of',
        b"\xff\xfe",
        b'["no object"]',
        b'{"text": "\\ud83d"}',
        b"",
        b"[" * 10**5,
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    found = find_passages([tmp_path], "good", tmp_path / "index", seed=0)
    assert [passage.text for passage in found.passages] == ["good"]
    assert (found.counts.num_rows, found.counts.num_broken, found.counts.num_passages) == (6, 5, 1)
    again = find_passages([tmp_path], "good", tmp_path / "index", seed=0)  # from the index alone
    assert again == found


def test_compressed_lines_and_parquet_are_read_from_folders(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write('{"text": "one"}\n')
    (tmp_path / "below").mkdir()
    table = pyarrow.table({"title": ["two"], "words": [["three", "four"]]})
    pyarrow.parquet.write_table(table, tmp_path / "below" / "b.parquet")
    (tmp_path / "README.md").write_text("not a passage")
    files = library_files([tmp_path, tmp_path / "a.jsonl.gz"])
    assert list(passages(files, LibraryCounts())) == ["one", "two three four"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "no lines at all"),
        ("a.jsonl", b"\n\n", "no lines at all"),
        ("a.jsonl", b'{"text": ""}\nbroken\n', r"no text in any of 2 lines \(1 of them broken\)"),
        ("a.parquet", b"PAR1 half", "no whole Parquet file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0)[:-20], "the compressed file breaks off"),
        ("a.txt", b"text", r"only \.jsonl, \.jsonl\.gz, \.parquet files are read"),
    ],
)
def test_a_library_that_holds_nothing_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        find_passages([tmp_path / name], "x", tmp_path / "index", seed=0)
    assert not any((tmp_path / "index").glob("*"))


def test_a_library_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        library_files([tmp_path / "absent"])
    with pytest.raises(ValueError, match=r"a folder without \.jsonl"):
        library_files([tmp_path])
    with pytest.raises(ValueError, match="at least one file or folder"):
        library_files([])


def test_rows_take_passages_in_turn_cut_distinct_and_shuffled_by_the_seed(tmp_path: Path) -> None:
    texts = [f"apple {number}" for number in range(20)] + ["apple 3", "x" * 3000, *[f"pear {n}" for n in range(30)]]
    path = library(tmp_path, texts)
    found = find_passages([path], "apple", tmp_path / "index", seed=1)
    assert found.num_found == 21 and len(found.passages) == 20
    assert [found.for_row(index) for index in (0, 20, 41)] == [found.passages[index] for index in (0, 0, 1)]
    assert (found.num_repeated(15), found.num_repeated(50)) == (0, 30)
    assert found == find_passages([path], "apple", tmp_path / "index", seed=1)
    other = find_passages([path], "apple", tmp_path / "index", seed=2)
    assert other.passages != found.passages and set(other.passages) == set(found.passages)
    cut = find_passages([path], "x" * 3000, tmp_path / "index", seed=1, num_passages=1)
    assert [len(passage.text) for passage in cut.passages] == [2048]


def test_a_small_library_about_one_subject_gives_all_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = find_passages([library(tmp_path, ["sums are added", "sums grow"])], "sums", tmp_path / "index", seed=0)
    assert len(found.passages) == 2 and "no passage of the library stands out for 'sums'" in caplog.text
