"""BLEU of completions as the rewards compute it, beside one call for each completion as the `evaluate` library does.

The library loads its metrics from a hub, so its side is written here after its published code: for each completion the
13a tokens of completion and references by sacrebleu's substitutions, all n-grams of both counted, nothing kept between
calls. Without what `evaluate` does around it (an Arrow file for each call), so its real calls are slower than this.
Rates are in CPU time of one process, texts are of 490 tokens out of this repository's own pages; groups of 8
completions share one reference, as in training.

    .venv/bin/python -m benchmarks.bleu
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.measurement import compare, in_turn, show
from raylign.rewards.base import Item
from raylign.rewards.overlap import BleuConfig, BleuReward
from raylign.rewards.tokens_13a import tokenize_13a

NUM_TOKENS, GROUP, NUM_GROUPS = 490, 8, 40
ROOT = Path(__file__).parents[1]


def texts(count: int) -> list[str]:
    """Pieces of so many tokens each."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/**/*.md"))]
    words = " ".join(pages).replace("<answer>", "").split(" ")  # what follows the tag would be scored alone
    pieces: list[str] = []
    piece: list[str] = []
    num_tokens = 0
    for word in cycle(words):
        piece.append(word)
        num_tokens += len(tokenize_13a(word))
        if num_tokens >= NUM_TOKENS:
            pieces.append(" ".join(piece))
            piece, num_tokens = [], 0
        if len(pieces) == count:
            return pieces
    raise AssertionError("pages never end")


def one_call(prediction: str, references: Sequence[str]) -> float:
    """One completion as the library's metric computes it."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    tokenizer = Tokenizer13a()
    tokenized = [tokenizer(text).split() for text in (prediction, *references)]
    for kind in (Tokenizer13a, TokenizerRegexp):
        kind.__call__.cache_clear()
    found, *expected = (
        Counter(tuple(tokens[i : i + order]) for order in range(1, 5) for i in range(len(tokens) - order + 1))
        for tokens in tokenized
    )
    merged: Counter[tuple[str, ...]] = Counter()
    for counts in expected:
        merged |= counts
    matches = [0] * 4
    for gram, count in (found & merged).items():
        matches[len(gram) - 1] += count
    length, shortest = len(tokenized[0]), min(map(len, tokenized[1:]))
    precisions = [(match + 1) / (max(0, length - order) + 1) for order, match in enumerate(matches)]
    brevity = 1.0 if length > shortest else math.exp(1 - shortest / length)
    return brevity * math.exp(sum(math.log(each) for each in precisions) / 4)


def measure(num_pairs: int = 5) -> list[dict[str, Any]]:
    """Rows of the table."""
    pieces = texts((GROUP + 1) * NUM_GROUPS)
    items = [
        Item("a prompt", tuple(pieces[start : start + GROUP]), (pieces[start + GROUP],))
        for start in range(0, len(pieces), GROUP + 1)
    ]
    reward = BleuReward(BleuConfig())
    ours = [float(score) for scores in reward.score(items) for score in scores if isinstance(score, float)]
    theirs = [one_call(text, item.references) for item in items for text in item.completions]
    assert max(abs(left - right) for left, right in zip(ours, theirs, strict=True)) < 1e-12

    def rate(score_all: Callable[[], object]) -> float:
        start = time.process_time()
        score_all()
        return len(ours) / (time.process_time() - start)

    completions = [(text, item.references) for item in items for text in item.completions]
    found = in_turn(
        {
            "ours": lambda: rate(lambda: reward.score(items)),
            "a call each": lambda: rate(lambda: [one_call(text, references) for text, references in completions]),
            "tokens": lambda: rate(lambda: [tokenize_13a(text) for text, _ in completions]),
        },
        num_pairs,
    )
    mean = sum(len(tokenize_13a(text)) for text, _ in completions) / len(completions)
    notes = [
        f"{mean:.0f} tokens a completion, groups of {GROUP}, one reference; in CPU time of one core",
        f"the tokens alone: {sorted(found['tokens'])[len(found['tokens']) // 2]:,.0f} texts/s",
    ]
    name = "BLEU of completions of 490 tokens"
    row = compare(name, "completions/s and core", found["ours"], found["a call each"], "a call each", ">= 2", notes)
    return [row.row()]


if __name__ == "__main__":
    show(measure())
