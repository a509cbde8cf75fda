"""Passages for a query by BM25, and which passage each generated row is given.

Given the folder of an index, `PassageIndex` gives the best passages of all its shards for a query, read through memory
maps. Given the paths of a library and a query, `find_passages` gives the passages that rows take in turn.
"""

from __future__ import annotations

import bisect
import logging
import mmap
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylign.jobs.synthetic.library import LibraryCounts, library_files
from raylign.jobs.synthetic.retrieval_index import K1, B, ensure_index, read_meta, tokens_of

if TYPE_CHECKING:
    import bm25s  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

NUM_PASSAGES = 10_000
MAX_CHARACTERS = 2_048


@dataclass(frozen=True, eq=False)
class Hits:
    """Passages by their place in the library, best first, and their scores."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.numbers)


class PassageIndex:
    """Holds no text and no score in memory: what a query touches comes from the page cache."""

    def __init__(self, place: Path) -> None:
        meta = read_meta(place)
        if meta is None:
            raise ValueError(f"{place} holds no whole index; delete it, and it is built again")
        self.counts = LibraryCounts(**meta.counts)
        self._texts = _mapped(place / "texts.bin")
        self._text_offsets = _mapped_array(place / "text_offsets.npy")
        self._words = _mapped(place / "words.bin")
        self._word_offsets = _mapped_array(place / "word_offsets.npy")
        self._word_ids = _mapped_array(place / "word_ids.npy")
        self._shards = [_Shard(place / f"shard_{number:04}", size) for number, size in enumerate(meta.shard_sizes)]
        self._firsts = np.cumsum([0, *meta.shard_sizes])

    def __len__(self) -> int:
        return len(self._text_offsets) - 1

    def text(self, number: int) -> str:
        return self._texts[self._text_offsets[number] : self._text_offsets[number + 1]].decode()

    def scores(self, query: str) -> NDArray[np.float32]:
        """Of every passage, in their order."""
        words = self._ids(query)
        return np.concatenate([shard.scores(words) for shard in self._shards])

    def search(self, query: str, most: int) -> Hits:
        """The best passages, best first; equal ones in the order of the library, those without any word left out."""
        words = self._ids(query)
        numbers, scores = [], []
        for first, shard in zip(self._firsts[:-1], self._shards, strict=True):
            of_shard = shard.scores(words)
            best = _best(of_shard, most)
            numbers.append(first + best)
            scores.append(of_shard[best])
        all_numbers, all_scores = np.concatenate(numbers), np.concatenate(scores)
        order = np.argsort(-all_scores, kind="stable")[:most]
        return Hits(all_numbers[order], all_scores[order])

    def _ids(self, query: str) -> list[int]:
        """Numbers of the query's words, one for each time that a word stands in it; unknown words have none."""
        found = (self._id(word.encode()) for word in tokens_of(query))
        return [number for number in found if number is not None]

    def _id(self, word: bytes) -> int | None:
        place = bisect.bisect_left(range(len(self._word_ids)), word, key=self._word)
        if place < len(self._word_ids) and self._word(place) == word:
            return int(self._word_ids[place])
        return None

    def _word(self, place: int) -> bytes:
        return self._words[self._word_offsets[place] : self._word_offsets[place + 1]]


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _mapped_array(path: Path) -> NDArray[Any]:
    """Mapped all the same; slices of numpy's own class for it cost several times as much."""
    array: NDArray[Any] = np.load(path, "r").view(np.ndarray)
    return array


class _Shard:
    """bm25s scores the passages of one shard; the weights of the words are those of the whole library."""

    def __init__(self, folder: Path, num_passages: int) -> None:
        import bm25s

        arrays = {name: _mapped_array(folder / f"{name}.npy") for name in ("tokens", "starts", "indices", "scores")}
        self._tokens: NDArray[np.int32] = arrays["tokens"]
        self._num_passages = num_passages
        self._scorer: bm25s.BM25 = bm25s.BM25(k1=K1, b=B, method="robertson")
        self._scorer.nonoccurrence_array = None  # what `index` would set; a robertson index has none
        self._scorer.scores = {
            "data": arrays["scores"],
            "indices": arrays["indices"],
            "indptr": arrays["starts"],
            "num_docs": num_passages,
        }

    def scores(self, words: Sequence[int]) -> NDArray[np.float32]:
        places = np.searchsorted(self._tokens, np.array(words, np.int32))  # of one type: no copy
        known = [
            int(place)
            for place, word in zip(places, words, strict=True)
            if place < len(self._tokens) and self._tokens[place] == word
        ]
        if not known:
            return np.zeros(self._num_passages, np.float32)
        scores: NDArray[np.float32] = self._scorer.get_scores_from_ids(known)
        return scores


def _best(scores: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Places of the best positive scores, in order of place; of equal ones at the border the first."""
    positive = np.flatnonzero(scores > 0)
    if len(positive) <= most:
        return positive
    of_positive = scores[positive]
    border = np.partition(of_positive, len(positive) - most)[len(positive) - most]
    above = positive[of_positive > border]
    equal = positive[of_positive == border]
    return np.sort(np.concatenate([above, equal[: most - len(above)]]))


@dataclass(frozen=True)
class Passage:
    """What one prompt is given."""

    number: int
    """Its place in the library, for the row's lineage."""
    text: str


@dataclass(frozen=True)
class Passages:
    """The passages that rows take in turn."""

    passages: tuple[Passage, ...]
    num_found: int
    """Before equal ones were left out."""
    counts: LibraryCounts

    def for_row(self, index: int) -> Passage:
        """Row i takes passage i, and starts again from the first where there are fewer."""
        return self.passages[index % len(self.passages)]

    def num_repeated(self, num_rows: int) -> int:
        """Rows that are given a passage which another row has already."""
        return max(0, num_rows - len(self.passages))


def find_passages(
    paths: Sequence[str | Path],
    query: str,
    index_folder: Path,
    seed: int,
    num_passages: int = NUM_PASSAGES,
    max_characters: int = MAX_CHARACTERS,
) -> Passages:
    """Best passages for the query, cut, without equal ones, shuffled by the seed.

    Where no passage holds a word of the query that counts (the words are in none, or in half the library), all are
    taken in the order of the library: a small library about one subject is no mistake.
    """
    index = PassageIndex(ensure_index(library_files(paths), index_folder))
    numbers = index.search(query, num_passages).numbers.tolist()
    if not numbers:
        logger.warning("no passage of the library stands out for %r: its first passages are taken", query)
        numbers = list(range(min(num_passages, len(index))))
    distinct: dict[str, int] = {}
    for number in numbers:
        distinct.setdefault(index.text(number)[:max_characters], number)
    found = [Passage(number, text) for text, number in distinct.items()]
    random.Random(f"passages/{seed}").shuffle(found)
    return Passages(tuple(found), len(numbers), index.counts)
