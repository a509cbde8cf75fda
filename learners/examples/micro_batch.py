"""Micro-batches: examples laid out as tensors under a token budget.

Given `Example`s; gives each rank its share, and the share as `MicroBatch`es: rows padded to equal length and
bucketed by length, or sequences packed into one row without padding. The loss does not depend on the split
(`Normalizers` are global).

Axis suffixes: B rows of L positions, N completion tokens (flat, example by example), S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raylign.learners.examples.example import Example, Normalizers

if TYPE_CHECKING:
    import torch

Layout = Literal["padded", "packed"]
TOKEN_FIELDS = ("advantages", "rollout_logps", "old_logps", "reference_logps", "proximal_share")
"""Optional (T,) fields of an `Example`, flat (N,) in a `MicroBatch`."""

MAX_PADDING_SHARE = 0.06
"""Of a padded micro-batch."""
WORTH_A_PASS = 64
"""Positions of padding that cost less than another forward/backward pass."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward/backward pass. The last token of a sequence is predicted but never fed."""

    input_ids: torch.Tensor
    """(B, L); packed: (1, Σ lengths)."""
    position_ids: torch.Tensor | None
    """(1, L), from 0 in each sequence; packed only. Padding is on the right: causal attention never sees it."""
    runs: tuple[tuple[int, int], ...] | None
    """(number, length) of neighbouring sequences of equal length in the packed row; packed only."""
    predictor_index: torch.Tensor
    """(N,) position in the flattened (B·L) row whose output predicts the token."""
    targets: torch.Tensor
    """(N,) the completion tokens."""
    loss_mask: torch.Tensor
    """(N,) float; 0 where a token does not count."""
    sequence_index: torch.Tensor
    """(N,) which sequence of this micro-batch a token belongs to."""
    sequence_lengths: torch.Tensor
    """(S,) float: tokens in the loss of each sequence."""
    sequence_weights: torch.Tensor
    """(S,) float: `Example.weight`."""
    example_indices: tuple[int, ...]
    """(S,) where each sequence stands in the list it was made from; empty for a stand-in batch."""
    rows: tuple[int, ...]
    """(S,) `Example.group`: ordinals of prompts or rows, for words about them."""
    num_input_tokens: int
    """Positions fed that are no padding."""
    unit_index: torch.Tensor
    """(S,) which unit of this micro-batch a sequence belongs to; one without is a unit of its own."""
    num_units: int
    facts: dict[str, torch.Tensor] = field(default_factory=dict)
    """(S,) each: `Example.facts`."""
    advantages: torch.Tensor | None = None
    rollout_logps: torch.Tensor | None = None
    old_logps: torch.Tensor | None = None
    reference_logps: torch.Tensor | None = None
    proximal_share: torch.Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch with its tensors on `device`."""
        import torch

        if device.type == "cpu":
            return self
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in values.items() if isinstance(v, torch.Tensor)}
        facts = {name: value.to(device, non_blocking=True) for name, value in self.facts.items()}
        return replace(self, facts=facts, **moved)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its tensors as numpy arrays, to be saved for inspection."""
        import torch

        values = {each.name: getattr(self, each.name) for each in fields(self)} | self.facts
        return {name: value.cpu().numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}


def input_length(example: Example) -> int:
    """Positions fed to the model for `example`."""
    return len(example.prompt_ids) + len(example.completion_ids) - 1


def normalizers_of(examples: Sequence[Example]) -> Normalizers:
    """Denominators of the loss over `examples`, which must be the global batch of one optimizer step."""
    num_tokens = float(sum(float(example.loss_mask.sum()) for example in examples))
    num_sequences = sum(bool(example.loss_mask.any()) for example in examples)
    return Normalizers(num_tokens=num_tokens, num_sequences=num_sequences)


def units_of(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of the examples of each unit, in the order of their first ones; an example without is one of its own."""
    places: dict[int, list[int]] = {}
    units: list[list[int]] = []
    for index, example in enumerate(examples):
        if example.unit in places:
            places[example.unit].append(index)
            continue
        units.append([index])
        if example.unit >= 0:
            places[example.unit] = units[-1]
    return units


def shard(examples: Sequence[Example], rank: int, world_size: int) -> list[int]:
    """Indices of the examples of `rank`: whole units, longest first, each to the rank with the fewest tokens so far;
    ties to the lower rank.
    """
    units = units_of(examples)
    lengths = [sum(input_length(examples[i]) for i in unit) for unit in units]
    loads = [0] * world_size
    shares: list[list[int]] = [[] for _ in range(world_size)]
    for number in sorted(range(len(units)), key=lambda i: (-lengths[i], units[i][0])):
        lightest = loads.index(min(loads))
        loads[lightest] += lengths[number]
        shares[lightest] += units[number]
    return sorted(shares[rank])


def plan_for(examples: Sequence[Example], indices: Sequence[int], token_budget: int, layout: Layout) -> list[list[int]]:
    """Which of `examples[i] for i in indices` go together in a micro-batch, sorted by length; units stay whole, and
    only units of as many sequences share a padded one.
    """
    units = [[indices[i] for i in unit] for unit in units_of([examples[i] for i in indices])]
    parts: list[list[int]] = []
    for size in sorted({len(unit) for unit in units}) if layout == "padded" else [0]:
        same = [unit for unit in units if size in (0, len(unit))]
        lengths = [[input_length(examples[i]) for i in unit] for unit in same]
        positions = [max(unit) * size if size else sum(unit) for unit in lengths]
        plan = plan_micro_batches(positions, token_budget, layout)
        parts += [[index for number in part for index in same[number]] for part in plan]
    return [sorted(part, key=lambda i: (input_length(examples[i]), i)) for part in parts]


def plan_micro_batches(lengths: Sequence[int], token_budget: int, layout: Layout) -> list[list[int]]:
    """Which sequences go together: sorted by length, as many as the budget holds, padding included.

    A sequence longer than the budget gets a micro-batch of its own. A padded micro-batch is closed before more than
    `MAX_PADDING_SHARE` of it is padding. The number of micro-batches is the least possible so, and each holds about the
    same number of tokens, so that no small rest is left for the end.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    plan = _fill(order, lengths, token_budget, layout)
    if len(plan) > 1:
        even_budget = max(max(lengths), -(-sum(lengths) // len(plan)))
        while even_budget < token_budget:
            even_plan = _fill(order, lengths, even_budget, layout)
            if len(even_plan) == len(plan):
                return even_plan
            even_budget = max(even_budget + 1, int(even_budget * 1.02))
    return plan


def _fill(order: list[int], lengths: Sequence[int], token_budget: int, layout: Layout) -> list[list[int]]:
    plan: list[list[int]] = []
    used = 0
    for index in order:
        length = lengths[index]
        # Ascending lengths: the newest sequence is the longest of its micro-batch, so it sets the padded width.
        needed = (len(plan[-1]) + 1) * length if plan and layout == "padded" else used + length
        too_padded = needed - used - length > max(MAX_PADDING_SHARE * needed, WORTH_A_PASS)
        if not plan or needed > token_budget or too_padded:
            plan.append([])
            used = 0
        plan[-1].append(index)
        used += length
    return plan


def micro_batches(examples: Sequence[Example], token_budget: int, layout: Layout) -> list[MicroBatch]:
    """All of `examples` as micro-batches of at most `token_budget` positions."""
    plan = plan_for(examples, range(len(examples)), token_budget, layout)
    return [make_micro_batch(examples, indices, layout) for indices in plan]


def make_micro_batch(examples: Sequence[Example], indices: Sequence[int], layout: Layout) -> MicroBatch:
    """One micro-batch of `examples[i] for i in indices`, which must be sorted by length when packed.

    Prompt f with completion G, and prompt a b with completion C D E:  padded [[f . . .], [a b C D]], packed
    [[f a b C D]].  G and E are predicted and never fed; the output at f predicts G, those at b C D predict C D E.
    """
    import torch

    chosen = [examples[i] for i in indices]
    fed = _feed(chosen, layout)
    loss_mask = np.concatenate([example.loss_mask for example in chosen]).astype(np.float32)
    # Flat token fields (N,): completion after completion, in the order of `chosen`; never the prompts.
    num_completion_tokens_S = np.array([len(example.completion_ids) for example in chosen])
    targets = np.concatenate([example.completion_ids for example in chosen]).astype(np.int64)
    # A sequence of C completion tokens is predicted by the outputs at the last C of its positions that were fed.
    places = zip(fed.ends_S, num_completion_tokens_S, strict=True)
    predictors = np.concatenate([np.arange(end - count, end) for end, count in places]).astype(np.int64)
    unit_index, num_units = _unit_index(chosen)
    return MicroBatch(
        input_ids=torch.from_numpy(fed.input_ids),
        position_ids=None if fed.position_ids is None else torch.from_numpy(fed.position_ids),
        runs=fed.runs,
        predictor_index=torch.from_numpy(predictors),
        targets=torch.from_numpy(targets),
        loss_mask=torch.from_numpy(loss_mask),
        sequence_index=torch.from_numpy(np.repeat(np.arange(len(chosen)), num_completion_tokens_S)),
        sequence_lengths=torch.tensor([float(example.loss_mask.sum()) for example in chosen]),
        sequence_weights=torch.tensor([float(example.weight) for example in chosen]),
        example_indices=tuple(indices),
        rows=tuple(example.group for example in chosen),
        num_input_tokens=sum(input_length(example) for example in chosen),
        unit_index=torch.from_numpy(unit_index),
        num_units=num_units,
        facts={
            name: torch.tensor([float(example.facts[name]) for example in chosen]) for name in sorted(chosen[0].facts)
        },
        **_optional_fields(chosen, loss_mask),
    )


@dataclass(frozen=True)
class _Fed:
    """What the model reads, and where each sequence ends in the flattened rows."""

    input_ids: np.ndarray
    """(B, L)"""
    position_ids: np.ndarray | None
    """(1, L) when packed."""
    runs: tuple[tuple[int, int], ...] | None
    ends_S: np.ndarray
    """(S,) first position after the last one that was fed."""


def _feed(chosen: Sequence[Example], layout: Layout) -> _Fed:
    lengths_S = np.array([input_length(example) for example in chosen])
    fed_S = [np.concatenate([example.prompt_ids, example.completion_ids])[:-1] for example in chosen]
    if layout == "padded":
        # One row each, zeros on the right up to the longest: row s begins at s · width.
        width = int(lengths_S.max())
        input_ids = np.zeros((len(chosen), width), np.int64)
        for row, fed in enumerate(fed_S):
            input_ids[row, : len(fed)] = fed
        return _Fed(input_ids, None, None, np.arange(len(chosen)) * width + lengths_S)
    # One row for all, each sequence where the one before it ends, with positions that start again from 0.
    position_ids = np.concatenate([np.arange(length) for length in lengths_S])[None]
    run_lengths, run_counts = np.unique(lengths_S, return_counts=True)  # sorted by length: equal ones are neighbours
    runs = tuple(zip(run_counts.tolist(), run_lengths.tolist(), strict=True))
    return _Fed(np.concatenate(fed_S).astype(np.int64)[None], position_ids, runs, np.cumsum(lengths_S))


def _optional_fields(chosen: Sequence[Example], loss_mask: np.ndarray) -> dict[str, torch.Tensor]:
    """(N,) each of `TOKEN_FIELDS` that the examples have."""
    import torch

    fields_N = {}
    for name in TOKEN_FIELDS:
        values = [getattr(example, name) for example in chosen]
        if all(value is not None for value in values):
            flat = np.concatenate(values).astype(np.float32)
            # A masked token may hold anything (a forced end token has no engine log-prob): 0·NaN would spread.
            fields_N[name] = torch.from_numpy(np.where(loss_mask > 0, flat, 0).astype(np.float32))
        else:
            assert all(value is None for value in values), f"{name} is given for some examples but not for all"
    return fields_N


def _unit_index(chosen: Sequence[Example]) -> tuple[np.ndarray, int]:
    """(S,) the number of each sequence's unit in this micro-batch, and how many units there are."""
    units = units_of(chosen)
    index_S = np.zeros(len(chosen), np.int64)
    for number, unit in enumerate(units):
        index_S[unit] = number
    return index_S, len(units)


def stand_in(like: Example, layout: Layout) -> MicroBatch:
    """A micro-batch of weight 0 with the fields of `like`, for a rank that has run out: all ranks make the
    same number of passes.
    """
    zero = np.zeros(1, np.float32)
    tokens = np.zeros(1, np.int32)
    present: dict[str, Any] = {name: zero for name in TOKEN_FIELDS if getattr(like, name) is not None}
    facts = dict.fromkeys(like.facts, 0.0)
    empty = make_micro_batch([Example(tokens, tokens, loss_mask=zero, facts=facts, **present)], [0], layout)
    return replace(empty, example_indices=(), num_input_tokens=0, num_units=1)
