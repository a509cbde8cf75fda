"""How often BM25 finds the passage that a question was written about, by how many passages one looks at.

Given a folder of data sets; gives a table of recall@1, 5 and 20 with 95 % Wilson intervals: SQuAD (the paragraph), QED
(the paragraph, among those of its questions) and OpenStax Anatomy (any passage of the module that the question belongs
to); once with the words that the jobs search by, once with all punctuation taken out before.

    .venv/bin/python -m benchmarks.retrieval_recall DATA
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raylign.jobs.run.statistics import wilson_interval
from raylign.jobs.synthetic.retrieval import PassageIndex
from raylign.jobs.synthetic.retrieval_index import ensure_index

CUTS = (1, 5, 20)


@dataclass(frozen=True)
class Questions:
    """Passages as (what counts as found, text), questions as (what is to be found, text)."""

    name: str
    what: str
    passages: list[tuple[str, str]]
    questions: list[tuple[str, str]]


def rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def squad(data: Path) -> Questions:
    passages = [(row["pid"], row["text"]) for row in rows(data / "squad/passages.jsonl.gz")]
    questions = [(row["pid"], row["question"]) for row in rows(data / "squad/questions.jsonl.gz")]
    return Questions("SQuAD", "the paragraph", passages, questions)


def qed(data: Path) -> Questions:
    read = rows(data / "qed_nq/qed_dev.jsonl.gz")
    texts = dict.fromkeys(row["paragraph_text"] for row in read)
    questions = [(row["paragraph_text"], row["question_text"]) for row in read]
    return Questions("QED (Natural Questions)", "the paragraph", [(text, text) for text in texts], questions)


def anatomy(data: Path) -> Questions:
    passages = [(row["module"], row["text"]) for row in rows(data / "openstax_anatomy/passages.jsonl.gz")]
    questions = [(row["module"], row["question"]) for row in rows(data / "openstax_anatomy/questions.jsonl")]
    return Questions("OpenStax Anatomy", "a passage of the module", passages, questions)


SETS: tuple[Callable[[Path], Questions], ...] = (squad, qed, anatomy)


def recalls(asked: Questions, folder: Path) -> list[int]:
    """Questions whose passage is among the best 1, 5, 20."""
    library = folder / "library.jsonl"
    library.write_text("".join(json.dumps({"text": text}) + "\n" for _, text in asked.passages))
    index = PassageIndex(ensure_index([library], folder / "index"))
    if len(index) != len(asked.passages):
        raise ValueError(f"{asked.name}: {len(asked.passages) - len(index)} passages have no text")
    found = [0] * len(CUTS)
    for wanted, question in asked.questions:
        names = [asked.passages[number][0] for number in index.search(question, max(CUTS)).numbers]
        for place, cut in enumerate(CUTS):
            found[place] += wanted in names[:cut]
    return found


def without_punctuation(asked: Questions) -> Questions:
    """`begin?` and `begin` become one word."""

    def bare(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(wanted, re.sub(r"[^\w\s]", " ", text)) for wanted, text in pairs]

    return replace(
        asked, name=f"{asked.name}, no punctuation", passages=bare(asked.passages), questions=bare(asked.questions)
    )


def table(data: Path) -> list[str]:
    lines = [
        "| questions of | to be found | passages | questions | recall@1 | recall@5 | recall@20 |",
        "|" + "---|" * 7,
    ]
    for read in SETS:
        for asked in (given := read(data), without_punctuation(given)):
            with tempfile.TemporaryDirectory() as name:
                found = recalls(asked, Path(name))
            cells = [share(count, len(asked.questions)) for count in found]
            sizes = f"{len(asked.passages):,} | {len(asked.questions):,}"
            lines.append(f"| {asked.name} | {asked.what} | {sizes} | {' | '.join(cells)} |")
    return lines


def share(count: int, total: int) -> str:
    low, high = wilson_interval(count / total, total)
    return f"{100 * count / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def main(words: Sequence[str]) -> None:
    if len(words) != 1 or not Path(words[0]).is_dir():
        sys.exit("which folder holds the data sets? python -m benchmarks.retrieval_recall DATA")
    print("\n".join(table(Path(words[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
