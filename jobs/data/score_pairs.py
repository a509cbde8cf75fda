"""`raylign data score-pairs`: both answers of preference pairs scored, with the probability that the first is better.

Given pairs in any format and rewards; gives `scored.jsonl`: the rows as columns, `chosen_score`, `rejected_score` (mean
over repeats) and `bt_prob`, which `data.pairs.probability` reads as a soft label. Pairs that could not be scored are
left out, counted and named. Runs in this process; the file is whole or not there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from raylign.jobs.config.shared_checks import filled_folder
from raylign.jobs.run.folder import write_atomically
from raylign.jobs.run.progress import Progress
from raylign.rewards.base import Item
from raylign.rewards.pair_scores import bradley_terry_probability
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.sample import PreferencePair

PAIRS_AT_ONCE = 64
NUM_NAMED = 3
UNBOUNDED = 2**31


class ScorePairsConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Soft labels for preference pairs."""

    name: str = Field("score-pairs", min_length=1)
    """Name of the job, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder of the result; `{name}` is filled in."""
    model: str = "models/tiny"
    """Model whose tokenizer and chat template write the prompts, as in training."""
    data: DataConfig = DataConfig(prompt="{prompt}", reference=None, shuffle=False)
    """The pairs."""
    rewards: list[RewardConfig] = []
    """What scores; the total is the weighted sum (a cost model: weight -1)."""
    num_repeats: int = Field(1, ge=1)
    """Times that each answer is scored, for scorers that are not the same each time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.folder = filled_folder(self.folder, self.name, 0)
        if not self.rewards:
            raise ValueError("rewards is empty: at least one must score the answers")
        return self


def score_pairs(config: ScorePairsConfig) -> dict[str, Any]:
    """Score, write, summarise."""
    from raylign.rewards.scoring import Scorer
    from raylign.rollout.model_folder import load_tokenizer

    path = config.folder / "scored.jsonl"
    if path.exists():
        raise ValueError(f"{path} exists: choose another name or folder")
    source = PromptSource.open_pairs(config.data, load_tokenizer(config.model), 0, UNBOUNDED, UNBOUNDED)
    pairs = [source.pair(ordinal) for ordinal in range(len(source))]
    scorer = Scorer(config.rewards)
    lines: list[dict[str, Any]] = []
    failed: list[str] = []
    try:
        with Progress(config.name, len(pairs), unit="pairs") as progress:
            for line, failure in _scored(scorer, pairs, config.num_repeats):
                lines += [line] if line else []
                failed += [failure] if failure else []
                progress.advance(len(lines) + len(failed))
    finally:
        scorer.close()
    if not lines:
        raise ValueError(f"{config.data.source}: none of {len(pairs)} pairs could be scored; {failed[0]}")
    config.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines))
    summary = {
        "pairs": len(lines),
        "failed": len(failed),
        "chosen_is_better_share": statistics.mean(line["chosen_score"] > line["rejected_score"] for line in lines),
        "bt_prob_mean": statistics.mean(line["bt_prob"] for line in lines),
        "first_failures": failed[:NUM_NAMED],
    }
    write_atomically(config.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    print(
        f"{len(lines)} pairs scored ({path}); chosen scores higher in {summary['chosen_is_better_share']:.1%}"
        + (f"; {len(failed)} left out: {failed[0]}" if failed else "")
    )
    return summary


def _scored(
    scorer: Any, pairs: Sequence[PreferencePair], num_repeats: int
) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
    """For each pair its row with scores, or why there is none."""
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        items = [_item(pair) for pair in part]
        repeats = [scorer.score(items) for _ in range(num_repeats)]
        for number, pair in enumerate(part):
            scored = [repeat[number] for repeat in repeats]
            failures = [failure for one in scored for failure in one.failures]
            if failures:
                name, failure = failures[0]
                yield None, f"{pair.prompt.prompt_id}: {name}: {failure.kind}: {failure.message}"
                continue
            chosen, rejected = ([float(one.total[side]) for one in scored] for side in (0, 1))
            yield (
                {
                    **pair.prompt.row,
                    "prompt": pair.prompt.text,
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "chosen_score": statistics.mean(chosen),
                    "rejected_score": statistics.mean(rejected),
                    "bt_prob": bradley_terry_probability(chosen, rejected),
                },
                None,
            )


def _item(pair: PreferencePair) -> Item:
    prompt = pair.prompt
    return Item(
        prompt=prompt.text,
        completions=(pair.chosen, pair.rejected),
        references=prompt.references,
        messages=prompt.messages,
        row=prompt.row,
        num_tokens=(len(pair.chosen_ids), len(pair.rejected_ids)),
        finished=(True, True),
    )
