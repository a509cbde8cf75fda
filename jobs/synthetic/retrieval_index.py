"""The BM25 index of a library on disk: built once for a content, read through memory maps.

Given the files of a library and a folder for indexes, gives the folder of its index. Its name is a hash of what the
files hold and of what decides the scores; it appears there whole or not at all.

    vocabulary  words.bin, word_offsets, word_ids    sorted words, and the number of each
    texts       texts.bin, text_offsets
    shard_0000  tokens, starts, indices, scores      by word: the passages that hold it and what it counts there

Scores are those of bm25s with `method="robertson"`, times k1 + 1: idf × tf (k1 + 1) / (tf + k1 (1 − b + b·len/mean)),
idf = log((N − df + 0.5) / (df + 0.5)), 0 for words in half the library or more. N, df and mean are of all shards.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylign.jobs.synthetic.library import LibraryCounts, passages

K1, B = 1.5, 0.75
VERSION = 1
"""Of tokens, scores and layout; part of the index's name."""
TOKENS_A_SHARD = 16_000_000
"""What is sorted in memory at once: about half a gigabyte."""
META = "index.json"
SAY_EVERY_S = 30.0
CHUNK_BYTES = 1 << 22


def tokens_of(text: str) -> list[str]:
    """Lower-cased words between spaces, punctuation kept on them."""
    return text.lower().split()


@dataclass(frozen=True)
class IndexMeta:
    """What the index holds; written last."""

    num_words: int
    shard_sizes: list[int]
    """Passages of each shard."""
    counts: dict[str, int]
    """Of the files: see `LibraryCounts`."""


def ensure_index(files: Sequence[Path], folder: Path, tokens_a_shard: int = TOKENS_A_SHARD) -> Path:
    """The index of these files, built where it is not there."""
    place = folder / _content_key(files, tokens_a_shard)
    if read_meta(place) is not None:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{building_prefix()}{os.getpid()}-", dir=folder))
    try:
        _remove_abandoned(folder)
        counts = LibraryCounts()
        _build(_said(passages(files, counts)), building, tokens_a_shard, counts)
        if place.exists():  # damaged
            shutil.rmtree(place)
        with contextlib.suppress(OSError):  # another job was first: it built the same
            building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return place


def read_meta(place: Path) -> IndexMeta | None:
    """None where there is no whole index."""
    try:
        data = json.loads((place / META).read_text())
        return IndexMeta(**{field.name: data[field.name] for field in fields(IndexMeta)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _content_key(files: Sequence[Path], tokens_a_shard: int) -> str:
    whole = hashlib.blake2b(f"{VERSION}/{K1}/{B}/{tokens_a_shard}".encode(), digest_size=12)
    for file in files:
        of_file = hashlib.blake2b(file.suffix.encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                of_file.update(chunk)
        whole.update(of_file.digest())
    return whole.hexdigest()


def building_prefix() -> str:
    """Of this machine: other machines may share the folder, and their processes have numbers of their own."""
    return f".building-{socket.gethostname()}-"


def _remove_abandoned(folder: Path) -> None:
    """What processes that are no more had begun."""
    for path in folder.glob(f"{glob.escape(building_prefix())}*"):
        owner = path.name.removeprefix(building_prefix()).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _said(texts: Iterable[str]) -> Iterator[str]:
    """A large library takes a while: says how far it is."""
    said_at = time.monotonic()
    for number, text in enumerate(texts, 1):
        yield text
        if number % 1000 == 0 and time.monotonic() - said_at > SAY_EVERY_S:
            print(f"indexing the library: {number:,} passages so far", flush=True)
            said_at = time.monotonic()


def _build(texts: Iterable[str], place: Path, tokens_a_shard: int, counts: LibraryCounts) -> None:
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
    shard_lengths: list[NDArray[np.int32]] = []
    frequencies: NDArray[np.int64] = np.zeros(0, np.int64)
    with (place / "texts.bin").open("wb") as file:
        offsets = array("q", [0])
        pending, lengths = array("i"), array("i")

        def finish_shard() -> None:
            nonlocal frequencies
            present, num_passages_with = _write_counts(_shard(place, len(shard_lengths)), pending, lengths)
            frequencies = np.pad(frequencies, (0, len(vocabulary) - len(frequencies)))
            frequencies[present] += num_passages_with
            shard_lengths.append(np.array(lengths, np.int32))
            del pending[:], lengths[:]

        for text in texts:
            encoded = text.encode()
            file.write(encoded)
            offsets.append(offsets[-1] + len(encoded))
            words = tokens_of(text)
            pending.extend(map(vocabulary.__getitem__, words))
            lengths.append(len(words))
            if len(pending) >= tokens_a_shard:
                finish_shard()
        if lengths:
            finish_shard()
    np.save(place / "text_offsets.npy", np.array(offsets, np.int64))
    _write_vocabulary(place, vocabulary)
    all_lengths = np.concatenate(shard_lengths)
    idf = inverse_document_frequencies(frequencies, len(all_lengths))
    for number, lengths_of_shard in enumerate(shard_lengths):
        _write_scores(_shard(place, number), lengths_of_shard, idf, float(all_lengths.mean()))
    meta = IndexMeta(len(vocabulary), list(map(len, shard_lengths)), asdict(counts))
    (place / META).write_text(json.dumps(asdict(meta)))


def inverse_document_frequencies(frequencies: NDArray[np.int64], num_passages: int) -> NDArray[np.float64]:
    """Never negative: 0 from half the library on."""
    ratios = (num_passages - frequencies + 0.5) / (frequencies + 0.5)
    return np.log(np.maximum(ratios, 1.0))


def _shard(place: Path, number: int) -> Path:
    shard = place / f"shard_{number:04}"
    shard.mkdir(exist_ok=True)
    return shard


def _write_counts(shard: Path, tokens: array[int], lengths: array[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By word, then passage: how often it occurs there. Gives the words and how many passages hold each."""
    num_passages = len(lengths)
    owners = np.repeat(np.arange(num_passages, dtype=np.int64), np.array(lengths, np.int64))
    keys = np.array(tokens, np.int64) * num_passages + owners
    del owners
    keys.sort()
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(firsts, append=len(keys))
    words, indices = np.divmod(keys[firsts], num_passages)
    present, starts = np.unique(words, return_index=True)
    starts = np.append(starts, len(words))
    np.save(shard / "tokens.npy", present.astype(np.int32))
    np.save(shard / "starts.npy", starts.astype(np.int64))
    np.save(shard / "indices.npy", indices.astype(np.int32))
    np.save(shard / "counts.npy", counts.astype(np.int32))
    return present, np.diff(starts)


def _write_scores(shard: Path, lengths: NDArray[np.int32], idf: NDArray[np.float64], mean_length: float) -> None:
    """And leaves out the words that count nothing: they have the longest lists."""
    tokens, starts = np.load(shard / "tokens.npy"), np.load(shard / "starts.npy")
    sizes, counts_something = np.diff(starts), idf[tokens] > 0
    kept = np.repeat(counts_something, sizes)
    tokens, sizes = tokens[counts_something], sizes[counts_something]
    indices = np.load(shard / "indices.npy")[kept]
    counts = np.load(shard / "counts.npy")[kept].astype(np.float64)
    divisors = K1 * (1 - B + B * lengths / mean_length)
    scores = np.repeat(idf[tokens], sizes)
    scores *= (K1 + 1) * counts / (counts + divisors[indices])
    np.save(shard / "tokens.npy", tokens)
    np.save(shard / "starts.npy", np.cumsum([0, *sizes], dtype=np.int64))
    np.save(shard / "indices.npy", indices)
    np.save(shard / "scores.npy", scores.astype(np.float32))
    (shard / "counts.npy").unlink()


def _write_vocabulary(place: Path, vocabulary: dict[str, int]) -> None:
    """Sorted as bytes, to be found by bisection."""
    words = sorted((word.encode(), number) for word, number in vocabulary.items())
    (place / "words.bin").write_bytes(b"".join(word for word, _ in words))
    np.save(place / "word_offsets.npy", np.cumsum([0] + [len(word) for word, _ in words], dtype=np.int64))
    np.save(place / "word_ids.npy", np.array([number for _, number in words], np.int32))
