"""The one-pass 13a tokenizer against sacrebleu's own."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from raylign.rewards.tokens_13a import tokenize_13a

ODD = [
    *"ab5.,.,-- \n'/&<>\"!éЖ٣½²1234567890;_~{|}[]^`@:$%()*+=?\\#ßİ😀",
    *("\u00a0", "\u2028", "\u200b", "\u3000", "\x1c", "\x85", "\r\n", "\t", "-\n"),
    *("&quot;", "&amp;", "&lt;", "&gt;", "<skipped>"),
]


def of_sacrebleu(text: str) -> list[str]:
    """Without its memory of every text."""
    tokens: list[str] = Tokenizer13a.__call__.__wrapped__(Tokenizer13a(), text).split()
    return tokens


def test_all_short_texts_of_what_the_rules_tell_apart() -> None:
    for length in range(6):
        for letters in itertools.product("a5.,- ", repeat=length):
            text = "".join(letters)
            assert tokenize_13a(text) == of_sacrebleu(text), repr(text)


def test_odd_texts() -> None:
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choices(ODD, k=rng.randint(0, 16)))
        assert tokenize_13a(text) == of_sacrebleu(text), repr(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1.5 a.5 .5 5. 5,a", ["1.5", "a", ".", "5", ".", "5", "5", ".", "5", ",", "a"]),
        ("x..5 1...5 x...5", ["x", ".", ".5", "1", ".", ".", ".5", "x", ".", ".", ".", "5"]),
        ("well-known 5-6 -7 5--6", ["well-known", "5", "-", "6", "-7", "5", "-", "-6"]),
        ("it's &quot;so&quot; &amp;lt; a-\nb", ["it's", '"', "so", '"', "<", "ab"]),
        ("<skipped>", []),
    ],
)
def test_tokens_worked_out(text: str, tokens: list[str]) -> None:
    assert tokenize_13a(text) == tokens == of_sacrebleu(text)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in texts_in(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in texts_in(inner))


DATA = Path(os.environ.get("RAYLIGN_DATA", Path(__file__).parents[3] / "shared/data"))


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "asset").is_dir(), reason="no data folder (RAYLIGN_DATA)")
@pytest.mark.parametrize(("name", "least"), [("asset", 22_000), ("alpaca_eval", 6_000), ("wmt14_multiref", 6_000)])
def test_every_text_of_real_data(name: str, least: int) -> None:
    folder = DATA / name
    count = 0
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        for line in text.split("\n"):
            for each in texts_in(json.loads(line)) if line else ():
                assert tokenize_13a(each) == of_sacrebleu(each), repr(each)
                count += 1
    assert count >= least
