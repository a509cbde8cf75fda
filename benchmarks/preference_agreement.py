"""How often BLEU, ROUGE-L and length pick the answer that people (or a judge) prefer.

Given a folder that holds `qa_feedback`, `alpaca_eval`, `pandalm`, `llmbar` and `bleuberi_arena`; gives Markdown tables
(docs/results/bleuberi.md quotes them). An answer wins by the higher score; equal scores agree by half. Intervals are of
a bootstrap over prompts, since comparisons of one prompt hang together.

    .venv/bin/python -m benchmarks.preference_agreement --data PATH
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from raylign.rewards.overlap import bleu, harmonic_mean, rouge_l
from raylign.rewards.tokens_13a import tokenize_13a

NUM_RESAMPLES = 2000
CLEAR = 0.1
"""A judge's probabilities that differ by less do not say which of two answers it prefers."""
Scorer = Callable[[str, Sequence[str]], float]


@dataclass(frozen=True)
class Comparison:
    """Two answers of which the first is preferred."""

    prompt: str
    better: str
    worse: str
    references: Sequence[str] = ()


def rows_of(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def qa_feedback(data: Path) -> Iterator[Comparison]:
    """Human preference among four model answers, one gold answer."""
    gold = {row["question"]: row["gold"] for row in rows_of(data / "qa_feedback/records.jsonl.gz")}
    for row in rows_of(data / "qa_feedback/pairs.jsonl.gz"):
        if row["question"] in gold:
            yield Comparison(row["question"], row["chosen"], row["rejected"], [gold[row["question"]]])


def alpaca_eval(data: Path) -> Iterator[Comparison]:
    """Pairs of four weaker models, told apart by how an AI judge rated each against one fixed model."""
    references = {
        row["id"]: list(row["references"].values()) for row in rows_of(data / "alpaca_eval/references.jsonl.gz")
    }
    for row in rows_of(data / "alpaca_eval/candidates.jsonl.gz"):
        for left, right in combinations(row["candidates"].values(), 2):
            if abs(left["judge_win"] - right["judge_win"]) >= CLEAR:
                better, worse = sorted((left, right), key=lambda each: -each["judge_win"])
                yield Comparison(row["instruction"], better["output"], worse["output"], references[row["id"]])


def pandalm(data: Path) -> Iterator[Comparison]:
    """Majority of three people; no references."""
    for row in rows_of(data / "pandalm/testset.jsonl"):
        (label, count), *_ = Counter(row[f"annotator{n}"] for n in (1, 2, 3)).most_common()
        if label in (1, 2) and count >= 2:
            better, worse = (str(row[f"response{number}"]) for number in (label, 3 - label))
            yield Comparison(f"{row['instruction']}\n{row['input']}", better, worse)


def llmbar(data: Path) -> Iterator[Comparison]:
    """Objective or expert labels; no references."""
    for row in rows_of(data / "llmbar/pairs.jsonl"):
        better, worse = (str(row[f"output_{number}"]) for number in (row["label"], 3 - row["label"]))
        yield Comparison(row["input"], better, worse)


def f1(answer: str, references: Sequence[str]) -> float:
    """Of bags of 13a tokens with the best reference."""
    found = Counter(tokenize_13a(answer))
    best = 0.0
    for reference in references:
        expected = Counter(tokenize_13a(reference))
        common = (found & expected).total()
        if common:
            best = max(best, harmonic_mean(common / found.total(), common / expected.total()))
    return best


def length(answer: str, references: Sequence[str]) -> float:
    return float(len(tokenize_13a(answer)))


def first_references(count: int) -> Scorer:
    return lambda answer, references: bleu(answer, references[:count])


SCORERS: Mapping[str, Mapping[str, Scorer]] = {
    "qa_feedback": {"BLEU": bleu, "ROUGE-L": rouge_l, "F1 of words": f1, "longer answer": length},
    "alpaca_eval": {
        **{f"BLEU, {count} reference{'s' * (count > 1)}": first_references(count) for count in (1, 2, 3, 4)},
        "longer answer": length,
    },
    "pandalm": {"longer answer": length},
    "llmbar": {"longer answer": length},
}
LABELS = {
    "qa_feedback": (qa_feedback, "people"),
    "alpaca_eval": (alpaca_eval, "an AI judge, against one fixed model"),
    "pandalm": (pandalm, "majority of three people"),
    "llmbar": (llmbar, "objective or expert"),
}


def agreements(comparisons: Sequence[Comparison], scorer: Scorer) -> np.ndarray:
    """1, ½ or 0 for each comparison."""
    found = []
    for each in comparisons:
        better, worse = scorer(each.better, each.references), scorer(each.worse, each.references)
        found.append(0.5 if better == worse else float(better > worse))
    return np.array(found)


def interval(values: np.ndarray, prompts: Sequence[str]) -> tuple[float, float]:
    """95 % of the means of resampled prompts, each with all its comparisons."""
    numbers: dict[str, int] = {}
    place = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts])
    sums, counts = np.bincount(place, values), np.bincount(place)
    chosen = np.random.default_rng(0).integers(0, len(counts), (NUM_RESAMPLES, len(counts)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def arena(data: Path) -> list[str]:
    """Mean BLEU of the four systems with one to three references, in the order that the data's own page gives."""
    rows = rows_of(data / "bleuberi_arena/outputs.jsonl.gz")
    lines = ["| system | 1 reference | 2 references | 3 references | words |", "|---|---|---|---|---|"]
    for system in ("bleu", "base", "rm", "sft"):
        cells = []
        for count in (1, 2, 3):
            scores = np.array([bleu(row["systems"][system], list(row["references"].values())[:count]) for row in rows])
            low, high = interval(scores, [row["question_id"] for row in rows])
            cells.append(f"{scores.mean():.3f} [{low:.3f}, {high:.3f}]")
        words = np.mean([len(tokenize_13a(row["systems"][system])) for row in rows])
        lines.append(f"| {system} | {' | '.join(cells)} | {words:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    print("| data | labels | comparisons (prompts) | scorer | agrees |\n|---|---|---|---|---|")
    for name, (read, labels) in LABELS.items():
        comparisons = list(read(data))
        prompts = [each.prompt for each in comparisons]
        for scorer_name, scorer in SCORERS[name].items():
            values = agreements(comparisons, scorer)
            low, high = interval(values, prompts)
            print(
                f"| {name} | {labels} | {len(values)} ({len(set(prompts))}) | {scorer_name} | "
                f"{values.mean():.1%} [{low:.1%}, {high:.1%}] |"
            )
    print("\n" + "\n".join(arena(data)))


if __name__ == "__main__":
    main()
