"""Formats of preference data sets, turned into columns.

Given rows as they are published (chats: `pair_chats.py`); gives rows with `prompt`, `chosen`, `rejected` (texts), and
what else the row held, but for lists of all answers (`_without`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, takewhile
from typing import Any

from raylign.rollout.data.config import PairFormat
from raylign.rollout.data.html_text import plain_text
from raylign.rollout.data.mapping import row_name
from raylign.rollout.data.sources import Row

ASSISTANT_TAG = "\n\nAssistant:"
LEAST_SCORE_RATIO = 2.0


def likely_format(row: Row) -> PairFormat | None:
    """The data set whose columns a row has, where it has no pair as it stands."""
    if {"chosen", "rejected"} <= row.keys():
        texts = row["chosen"], row["rejected"]
        is_dialogue = all(isinstance(text, str) and ASSISTANT_TAG in text for text in texts)
        return "dialogues" if is_dialogue and "prompt" not in row else None
    found = next((format for format, columns in _COLUMNS.items() if columns <= row.keys()), None)
    entries = list(row.values())
    is_best_worst = bool(entries) and all(
        isinstance(each, dict) and {"responses", "pairs"} <= each.keys() for each in entries
    )
    return "best_worst" if is_best_worst else found


def pair_rows(format: PairFormat, rows: Sequence[Row]) -> list[Row]:
    """Rows with the columns; an error names the row that does not fit."""
    read = _READERS[format]
    expanded: list[Row] = []
    for index, row in enumerate(rows):
        try:
            expanded += read(row)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{row_name(index)} is no pair in the format `{format}`: {error}") from error
    return expanded


def _dialogues(row: Row) -> list[Row]:
    """Both dialogues are the same up to the last answer, which begins after the last assistant tag of both."""
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    num_common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    end = chosen[:num_common].rfind(ASSISTANT_TAG)
    if end < 0:
        raise ValueError("the two dialogues share no assistant's turn to answer in")
    end += len(ASSISTANT_TAG)
    return [{**row, "prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}]


def _best_worst(row: Row) -> list[Row]:
    """{prompt: {"responses": […], "pairs": [[best, worst], …], …}}, several prompts in an object allowed; what else
    stands beside the pairs of a prompt is said of each of them."""
    rows: list[Row] = []
    for prompt, entry in row.items():
        responses: list[Any] = entry["responses"]
        others = _without(entry, "responses", "pairs")
        for best, worst in entry["pairs"]:
            answers = {"chosen": str(responses[best]), "rejected": str(responses[worst])}
            rows.append({**others, "prompt": prompt, **answers})
    return rows


def _pku_better(row: Row) -> list[Row]:
    return _pku(row, "better_response_id")


def _pku_safer(row: Row) -> list[Row]:
    return _pku(row, "safer_response_id")


def _pku(row: Row, label: str) -> list[Row]:
    """PKU-SafeRLHF: prompt, response_0, response_1 and the number of the better or the safer one."""
    number = int(row[label])
    return [{**row, "chosen": row[f"response_{number}"], "rejected": row[f"response_{1 - number}"]}]


def _ultrafeedback(row: Row) -> list[Row]:
    """UltraFeedback: four completions with overall scores; the best and the worst, the first ones on ties."""
    completions = row["completions"]
    if len(completions) != 4:
        return []
    scores = [float(completion["overall_score"]) for completion in completions]
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if best == worst:
        return []
    answers = {"chosen": completions[best]["response"], "rejected": completions[worst]["response"]}
    pair_scores = {"chosen_score": scores[best], "rejected_score": scores[worst]}
    return [{**_without(row, "completions"), "prompt": row["instruction"], **answers, **pair_scores}]


def _webgpt(row: Row) -> list[Row]:
    """WebGPT comparisons: two answers with scores; equal scores say nothing."""
    scores = float(row["score_0"]), float(row["score_1"])
    if scores[0] == scores[1]:
        return []
    better = int(scores[1] > scores[0])
    answers = {"chosen": row[f"answer_{better}"], "rejected": row[f"answer_{1 - better}"]}
    return [{**row, "prompt": row["question"]["full_text"], **answers}]


def _summarize(row: Row) -> list[Row]:
    """Summarize-from-feedback comparisons: a post, two summaries, the number of the chosen one."""
    info, choice = row["info"], int(row["choice"])
    prompt = f"SUBREDDIT: r/{info['subreddit']}\nTITLE: {info['title']}\nPOST: {info['post']}\nTL;DR:"
    summaries = [summary["text"] for summary in row["summaries"]]
    answers = {"chosen": summaries[choice], "rejected": summaries[1 - choice]}
    return [{**_without(row, "summaries"), "prompt": prompt, **answers}]


def _shp(row: Row) -> list[Row]:
    """Stanford Human Preferences: two comments below a post, and whether A got the higher score (labels 1). Where it is
    less than twice the other, little is said; such rows are left out, as by the public DPO code."""
    if float(row["score_ratio"]) < LEAST_SCORE_RATIO:
        return []
    better, worse = ("A", "B") if int(row["labels"]) == 1 else ("B", "A")
    answers = {"chosen": row[f"human_ref_{better}"], "rejected": row[f"human_ref_{worse}"]}
    return [{**_without(row, "human_ref_A", "human_ref_B"), "prompt": row["history"], **answers}]


def _stack_exchange(row: Row) -> list[Row]:
    """Stack Exchange preferences: a question with scored answers, all of HTML; every two answers of unequal scores."""
    answers = [(int(answer["pm_score"]), plain_text(answer["text"])) for answer in row["answers"]]
    common = {**_without(row, "answers"), "prompt": plain_text(row["question"])}
    pairs = [
        sorted(pair, key=lambda scored: -scored[0]) for pair in combinations(answers, 2) if pair[0][0] != pair[1][0]
    ]
    return [
        {**common, "chosen": best, "rejected": worst, "chosen_score": high, "rejected_score": low}
        for (high, best), (low, worst) in pairs
    ]


def _without(row: Row, *lists_of_answers: str) -> Row:
    """The row but for columns that hold all answers: chosen and rejected stand for them, and rows stay in memory and
    go into the experience log."""
    return {column: value for column, value in row.items() if column not in lists_of_answers}


_COLUMNS: dict[PairFormat, set[str]] = {
    "pku_better": {"prompt", "response_0", "response_1", "better_response_id"},
    "ultrafeedback": {"instruction", "completions"},
    "webgpt": {"question", "answer_0", "answer_1", "score_0", "score_1"},
    "summarize": {"info", "summaries", "choice"},
    "shp": {"history", "human_ref_A", "human_ref_B", "labels", "score_ratio"},
    "stack_exchange": {"qid", "question", "answers"},
}
"""That tell the data sets apart."""
_READERS = {
    "dialogues": _dialogues,
    "best_worst": _best_worst,
    "pku_better": _pku_better,
    "pku_safer": _pku_safer,
    "ultrafeedback": _ultrafeedback,
    "webgpt": _webgpt,
    "summarize": _summarize,
    "shp": _shp,
    "stack_exchange": _stack_exchange,
}
