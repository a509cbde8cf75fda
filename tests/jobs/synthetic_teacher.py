"""A scripted teacher: a chat endpoint that writes real sums, solves them, is wrong at a known rate, rewrites rows
harder and easier, and misbehaves on request.

Given nothing but prompts (as jobs/synthetic/prompts.py writes them); gives replies that depend on the prompt and, for
equal prompts, on how often it was asked: two servers that are asked the same in the same order reply the same. As a
program it serves until it is ended: `python -m tests.jobs.synthetic_teacher [port]` prints its address.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import operator
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.rewards.chat_server import Scripted, chat_server

SUM = re.compile(r"-?\d+(?: [-+] \d+)*")
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {ast.Add: operator.add, ast.Sub: operator.sub}


@dataclass
class SumTeacher:
    """Its replies. `misbehave(text, number)` may give another answer for the n-th call, or None."""

    wrong_share: float = 0.1
    """Of its solutions."""
    terms: tuple[int, int] = (2, 3)
    """Of the sums that it writes."""
    hard_terms: int = 5
    seed: int = 0
    template: str = "{answer}"
    """How it writes an answer."""
    misbehave: Callable[[str, int], Scripted | None] = lambda text, number: None
    counts_repetitions: bool = True
    """False: equal calls get equal replies, however often they are made."""
    delay_s: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    """By kind: keyword, synonyms, pattern, generate, harder, easier, solve."""
    asked: Counter[str] = field(default_factory=Counter)
    """By prompt."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: dict[str, Any]) -> Scripted:
        text = body["messages"][-1]["content"]
        if self.delay_s:
            time.sleep(self.delay_s)
        with self.lock:
            self.calls[kind := kind_of(text)] += 1
            number = sum(self.calls.values())
            first = self.asked[text] if self.counts_repetitions else 0
            self.asked[text] += body.get("n", 1)
        if (other := self.misbehave(text, number)) is not None:
            return other
        replies = [self.reply(kind, text, first + index) for index in range(body.get("n", 1))]
        return Scripted(replies, usage=(len(text) // 4, sum(len(reply) // 4 + 1 for reply in replies)))

    def reply(self, kind: str, text: str, index: int) -> str:
        """The reply number `index` to equal prompts."""
        random = Random(hashlib.blake2b(f"{self.seed}/{index}/{text}".encode()).hexdigest())
        if kind == "keyword":
            return "Arithmetic"
        if kind == "synonyms":
            return '["sums", "addition", "subtraction"]'
        if kind == "pattern":
            return "Short sums of small numbers."
        if kind == "solve":
            return self._solution(SUM.findall(text)[-1], random)
        if kind == "generate":
            return self._row(written_sum(random, random.randint(*self.terms)), random)
        found = re.search(r'\{"input": .*\}', text)
        assert found is not None
        terms = len(re.findall(r"\d+", json.loads(found[0])["input"]))
        wanted = random.randint(terms + 1, max(terms + 1, self.hard_terms)) if kind == "harder" else max(2, terms - 1)
        return self._row(written_sum(random, wanted), random)

    def _row(self, question: str, random: Random) -> str:
        row = {"input": question, "output": self._solution(question, random)}
        return str(row) if random.random() < 0.2 else f"Here it is:\n{json.dumps(row)}"

    def _solution(self, question: str, random: Random) -> str:
        wrong = random.randint(1, 9) if random.random() < self.wrong_share else 0
        return self.template.replace("{answer}", str(value_of(question) + wrong))


def kind_of(text: str) -> str:
    """What is asked, by the words of the prompt."""
    beginnings = {
        "Name the field": "keyword",
        "Write a JSON list": "synonyms",
        "Read the task": "pattern",
        "You write training data": "generate",
        "The sample below is too simple": "harder",
        "The sample below is too hard": "easier",
    }
    return next((kind for beginning, kind in beginnings.items() if text.startswith(beginning)), "solve")


def written_sum(random: Random, num_terms: int) -> str:
    """Of one-digit numbers."""
    return str(random.randint(1, 9)) + "".join(
        f" {random.choice('+-')} {random.randint(0, 9)}" for _ in range(num_terms - 1)
    )


def value_of(question: str) -> int:
    """Of a sum."""

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        assert isinstance(node, ast.Constant) and isinstance(node.value, int)
        return node.value

    return value(ast.parse(question, mode="eval").body)


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with chat_server(SumTeacher(), port) as server:
        print(f"a scripted teacher serves {server.address}; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
