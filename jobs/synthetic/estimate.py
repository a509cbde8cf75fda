"""What a job would ask of the teacher and of the base model, before anything is spent.

Given a config and what the user gives; gives calls, replies, tokens and cost for each stage: as expected, with replies
of `EXPECTED_REPLY_TOKENS` and every row kept, and at most, with the longest replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raylign.jobs.synthetic.config import SynthesizeConfig
from raylign.jobs.synthetic.generate import Material
from raylign.jobs.synthetic.prompts import (
    generation_prompt,
    keyword_prompt,
    pattern_prompt,
    rewrite_prompt,
    synonyms_prompt,
)
from raylign.rewards.chat_client import BYTES_PER_TOKEN

EXPECTED_REPLY_TOKENS = 400
"""Of a row or a solution; a guess for word problems, printed with the table."""
EXPECTED_INPUT_BYTES = 600


@dataclass(frozen=True)
class StageEstimate:
    """One line of the table."""

    stage: str
    num_calls: int
    num_replies: int
    prompt_tokens: int
    expected_reply_tokens: int
    most_reply_tokens: int

    def cost(self, config: SynthesizeConfig, at_most: bool) -> float:
        """At the teacher's prices."""
        replies = self.most_reply_tokens if at_most else self.expected_reply_tokens
        return (self.prompt_tokens * config.teacher.prompt_price + replies * config.teacher.reply_price) / 1e6


def estimate(config: SynthesizeConfig, material: Material, has_library: bool) -> list[StageEstimate]:
    """Calls of the teacher by stage. `material`: without passages, which are not known yet."""
    rows, texts, demos = config.rows, material.texts, material.demos
    row = "x" * EXPECTED_INPUT_BYTES
    passage = "x" * rows.passage_characters if has_library else None
    shown = list(demos[: rows.demos_shown])
    stages = []
    if has_library:
        prompts = ([] if config.domain else [keyword_prompt(texts, demos)]) + [synonyms_prompt(config.domain or "x")]
        stages.append(_stage(config, "keywords", prompts, 1))
    if demos:
        stages.append(_stage(config, "pattern", [pattern_prompt(texts, demos[: rows.pattern_demos])], 1))
    pattern = "x" * EXPECTED_INPUT_BYTES if demos else None
    share = min(1.0, len(demos) / rows.num_rows)
    with_demos = [generation_prompt(texts, pattern, shown, passage)] * round(share * rows.num_rows)
    without = [generation_prompt(texts, pattern, [], passage)] * (rows.num_rows - len(with_demos))
    stages.append(_stage(config, "generate", [*with_demos, *without], 1))
    solve = [f"{row} {texts.output_instruction}"] * rows.num_rows
    stages.append(_stage(config, "verify", solve, rows.num_votes))
    stages.append(_stage(config, "adapt", [rewrite_prompt(True, row, row)] * rows.num_rows, 1))
    stages.append(_stage(config, "verify rewrites", solve, rows.num_votes))
    return stages


def base_model_answers(config: SynthesizeConfig) -> dict[str, int]:
    """Answers of the base model by stage, at most."""
    return {"solve": config.rows.num_rows, "score": 2 * config.rows.num_rows * config.scoring.num_answers}


def print_estimate(config: SynthesizeConfig, stages: Sequence[StageEstimate]) -> None:
    """To the terminal."""
    has_prices = bool(config.teacher.prompt_price or config.teacher.reply_price)
    head = ("stage", "calls", "replies", "prompt tokens", "reply tokens", "cost", "at most")
    lines: list[tuple[str, ...]] = [head]
    total = StageEstimate("all", *(sum(getattr(each, name) for each in stages) for name in _NUMBERS))
    for each in [*stages, total]:
        numbers = (each.num_calls, each.num_replies, each.prompt_tokens, each.expected_reply_tokens)
        costs = (each.cost(config, at_most=False), each.cost(config, at_most=True))
        lines.append(
            (
                each.stage,
                *(f"{number:,}" for number in numbers),
                *(f"{cost:.2f}" if has_prices else "" for cost in costs),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        first, *others = line
        print(
            "  ".join(
                [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
            )
        )
    for stage, count in base_model_answers(config).items():
        print(f"base model, {stage}: {count:,} answers of at most {config.scoring.max_tokens:,} tokens")
    most = config.teacher.max_tokens
    print(
        f"replies are counted with {min(EXPECTED_REPLY_TOKENS, most)} tokens, at most with {most:,}; every row is "
        "taken to be kept; several replies come in one call where the endpoint allows n"
        + ("" if has_prices else "; teacher.prompt_price and teacher.reply_price are 0, so no cost is shown")
    )


_NUMBERS = ("num_calls", "num_replies", "prompt_tokens", "expected_reply_tokens", "most_reply_tokens")


def _stage(config: SynthesizeConfig, name: str, prompts: Sequence[str], replies: int) -> StageEstimate:
    most = config.teacher.max_prompt_tokens
    prompt_tokens = sum(min(most, len(prompt.encode()) // BYTES_PER_TOKEN) for prompt in prompts)
    count = len(prompts) * replies
    expected = min(EXPECTED_REPLY_TOKENS, config.teacher.max_tokens)
    return StageEstimate(name, len(prompts), count, prompt_tokens, count * expected, count * config.teacher.max_tokens)
