"""The data and rewards of a run, tried on its first rows before anything starts.

Given data and reward configs and the model's tokenizer; adds to the findings what the first prompt looks like and
what the reference answers earn. A reward that fails on every sample row is a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.unused_rows import SectionRead
from raylign.jobs.config.references import compare_with_references
from raylign.rewards.base import Item
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.order import parse_range
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.data.text_checks import first_text_beyond, tokens_without_embedding
from raylign.rollout.sample import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_SAMPLE_PROMPTS = 4


@dataclass(frozen=True)
class Samples:
    """One data source of a run, and what is to hold for its rows."""

    key: str
    """Its section in the config."""
    data: DataConfig
    rewards: Sequence[RewardConfig]
    """To be tried on the first rows."""
    max_prompt_tokens: int
    max_sequence_tokens: int | None = None
    """Set where the rows' own answers are learned from."""
    row_kind: str | None = None
    """What rows are to the algorithm, where more than prompts."""
    needs_references: bool = False
    """A reward compares answers with them; so do those of `rewards`."""


_Remembered = dict[str, tuple[Findings, int | None]]
_remembered: ContextVar[_Remembered | None] = ContextVar("remembered", default=None)


@contextmanager
def remember_rows() -> Iterator[None]:
    """Until the block ends, rows that were checked are not read and rendered again for the next command that has the
    same ones: a sweep has hundreds of commands and a few data sets."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def check_data(samples: Samples, tokenizer: PreTrainedTokenizerBase, seed: int, findings: Findings) -> int | None:
    """All rows through template and tokenizer, the first ones' answers through the rewards; gives their number."""
    known = _remembered.get()
    if known is None:
        return findings.attempt(samples.key, lambda: _check_rows(samples, tokenizer, seed, findings))
    # The seed decides only which rows stand first.
    key = repr((samples, tokenizer.name_or_path, findings.num_embeddings))
    if key not in known:
        of_rows = Findings(num_embeddings=findings.num_embeddings)
        num_rows = of_rows.attempt(samples.key, lambda: _check_rows(samples, tokenizer, seed, of_rows))
        known[key] = of_rows, num_rows
    of_rows, num_rows = deepcopy(known[key])
    findings.facts += of_rows.facts
    findings.warnings += of_rows.warnings
    findings.problems += of_rows.problems
    return num_rows


def _check_rows(samples: Samples, tokenizer: PreTrainedTokenizerBase, seed: int, findings: Findings) -> int:
    if samples.row_kind == "pairs":
        assert samples.max_sequence_tokens is not None
        source = PromptSource.open_pairs(
            samples.data,
            tokenizer,
            seed,
            samples.max_prompt_tokens,
            samples.max_sequence_tokens,
            samples.needs_references,
        )
    else:
        compares = samples.needs_references or compare_with_references(samples.rewards)
        source = PromptSource.open(
            samples.data, tokenizer, seed, samples.max_prompt_tokens, samples.max_sequence_tokens, compares
        )
    prompts = source.take(0, min(NUM_SAMPLE_PROMPTS, len(source)))
    first = prompts[0]
    skipped = f", {source.num_skipped} left out as too long" if source.num_skipped else ""
    if source.num_unusable:
        findings.warnings.append(
            f"{samples.key}: {source.num_unusable} pairs left out: an empty or twice the same answer"
        )
    if source.num_unanswered:
        findings.warnings.append(
            f"{samples.key}: {source.num_unanswered} rows left out: no demonstration, or no reference"
        )
    findings.read.append(SectionRead(samples.key, samples.data, source.num_in_source))
    num_chosen = len(source) + source.num_skipped + source.num_unusable + source.num_unanswered
    of_all = f" of {source.num_in_source} ({samples.data.rows})" if num_chosen < source.num_in_source else ""
    findings.fact(samples.key, f"{samples.data.source}: {len(source)} rows{of_all}{skipped}")
    if source.found:
        findings.fact("  found", f"{source.found} (data.format says it by hand)")
    for note in source.notes:
        findings.fact("  read", note)
    findings.warnings += [f"{samples.key}: {warning}" for warning in source.warnings]
    findings.attempt(samples.key, lambda: _check_embeddings(source, tokenizer, findings.num_embeddings))
    findings.fact("  first prompt", repr(first.text))
    findings.fact("  its tokens", f"{len(first.token_ids)} of at most {samples.max_prompt_tokens}")
    if samples.row_kind == "pairs":
        pair = source.pair(0)
        findings.fact("  chosen", f"{pair.chosen!r} ({len(pair.chosen_ids)} tokens)")
        findings.fact("  rejected", f"{pair.rejected!r} ({len(pair.rejected_ids)} tokens)")
    elif samples.max_sequence_tokens is not None:
        findings.fact("  its demonstration", repr(source.demonstration(0)[1]))
    if samples.rewards:
        findings.fact("  its references", ", ".join(map(repr, first.references)) or "none")
        findings.attempt("rewards", lambda: _check_references(samples.key, samples.rewards, source, findings))
        findings.attempt("rewards", lambda: _check_rewards(samples.rewards, prompts, findings))
    return len(source)


def _check_embeddings(source: PromptSource, tokenizer: PreTrainedTokenizerBase, num_embeddings: int | None) -> None:
    """Raise where a row, the template or the end token needs a token that the model has no embedding for."""
    if num_embeddings is None or not tokens_without_embedding(tokenizer, num_embeddings):
        return
    rows, texts = zip(*source.texts(), strict=True)
    found = first_text_beyond(tokenizer, [str(tokenizer.eos_token), *texts], num_embeddings)
    if found is not None:
        place, token = found
        where = f"row {rows[place - 1] + 1}" if place else "the end of every answer"
        raise ValueError(
            f"{where} needs the token {token!r}, and the model has only {num_embeddings} embeddings: give the "
            "tokenizer that belongs to the model, or enlarge the model's (resize_token_embeddings)"
        )


def _check_references(key: str, rewards: Sequence[RewardConfig], source: PromptSource, findings: Findings) -> None:
    """References of all rows, where a reward can tell by itself which of them it cannot compare with."""
    from raylign.rewards.registry import reference_check

    for reward in rewards:
        if (check := reference_check(reward)) is None:
            continue
        words: list[str] = []
        for prompt in source.take(0, len(source)):
            try:
                for reference in prompt.references:
                    check(reference)
            except ValueError as error:
                words.append(f"row of {prompt.text[-40:]!r}: {error}")
        if words:
            said = f"rewards: {reward.name} cannot compare with the references of {len(words)} of {len(source)} rows; "
            (findings.problems if len(words) == len(source) else findings.warnings).append(
                f"{said}the first: {words[0]}" + (f" ({key})" if key != "data" else "")
            )


def _check_rewards(rewards: Sequence[RewardConfig], prompts: list[Prompt], findings: Findings) -> None:
    """Reference answers and empty ones through the real rewards. One that always fails is a problem."""
    from raylign.rewards.scoring import Scored, Scorer

    # A model takes longer to load than all the rest; it is loaded when the run starts.
    quick = [reward for reward in rewards if not hasattr(reward, "model")]
    if not quick:
        return
    scorer = Scorer(quick)
    items = [_item(prompt) for prompt in prompts]
    scored: list[Scored] = []
    try:
        for item in items:
            scored += scorer.score([item])
            if any(failure.kind == "timeout" for _, failure in scored[-1].failures):
                break  # every further row could take as long
    finally:
        scorer.close()
    for name, form in scorer.forms.items():
        findings.fact(f"  {name}", f"called as {form}")
    num_tried = sum(len(item.completions) for item in items[: len(scored)])
    for name in scorer.names:
        messages = [
            f"{failure.kind}: {failure.message}" for each in scored for who, failure in each.failures if who == name
        ]
        if len(messages) == num_tried:
            findings.problems.append(f"rewards: {name} fails on every one of {len(scored)} sample rows; {messages[0]}")
            continue
        if messages:
            findings.warnings.append(f"rewards: {name} fails on some of {len(scored)} sample rows; {messages[0]}")
        if len(messages) < num_tried and all(np.isnan(each.rewards[name]).all() for each in scored):
            findings.warnings.append(f"rewards: {name} gave None for every one of {len(scored)} sample rows")
            continue
        first = next(each for each in scored if not np.isnan(each.rewards[name]).all())
        of_reference, of_nothing = first.rewards[name][0], first.rewards[name][-1]
        findings.fact(f"  {name}", f"{of_reference:g} for the reference, {of_nothing:g} for an empty completion")
        if items[0].references and all(each.rewards[name][0] <= each.rewards[name][-1] for each in scored):
            findings.warnings.append(
                f"rewards: {name} gives the reference answer no more than an empty one; is the reference "
                f"{items[0].references[0]!r} what the reward expects?"
            )


def _item(prompt: Prompt) -> Item:
    completions = (prompt.references[0], "") if prompt.references else ("",)
    return Item(
        prompt=prompt.text,
        completions=completions,
        references=prompt.references,
        row=prompt.row,
        num_tokens=tuple(len(completion) for completion in completions),
        finished=(True,) * len(completions),
    )


def may_share_rows(training: DataConfig, evaluation: DataConfig) -> bool:
    """Whether both take the same rows of the same source."""
    one, other = (
        config.model_dump(include={"source", "subset", "split", "split_seed", "num_generated"})
        for config in (training, evaluation)
    )
    if one != other:
        return False
    try:
        (start, stop), (other_start, other_stop) = (parse_range(each.rows, 10**6) for each in (training, evaluation))
    except ValueError:
        return False
    return start < other_stop and other_start < stop
