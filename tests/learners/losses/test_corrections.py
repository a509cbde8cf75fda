"""Corrections by hand: which tokens enter a ratio, what happens at its bounds, what each kind reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from raylign.learners.losses.corrections import Correction, CorrectionConfig, correction_weights, loglinear_share


def correct(
    ratios: list[float], mask: list[float], index: list[int], lengths: list[float], **settings: Any
) -> Correction:
    """Of tokens whose ρ = π_old/π_roll is given."""
    config = CorrectionConfig.model_validate(settings)
    return correction_weights(
        config,
        torch.tensor(ratios, dtype=torch.float32).log(),
        torch.zeros(len(ratios)),
        torch.tensor(mask, dtype=torch.float32),
        torch.tensor(index),
        torch.tensor(lengths, dtype=torch.float32),
    )


def single_tokens(*ratios: float, **settings: Any) -> Correction:
    """Each a sequence of its own."""
    return correct(list(ratios), [1.0] * len(ratios), list(range(len(ratios))), [1.0] * len(ratios), **settings)


def test_the_ratio_of_a_sequence_is_that_of_its_tokens_in_the_loss() -> None:
    # first sequence: 4·0.5 = 2 (the masked 16 would make 32 of it); the second has no token in the loss: 1
    found = correct([4, 16, 0.5, 8], [1, 0, 1, 0], [0, 0, 0, 1], [2, 0], kind="sequence_truncate", cap=100)
    assert found.weights.tolist() == pytest.approx([2, 2, 2, 1])
    assert not found.truncated.any() and not found.masked.any()


def test_a_masked_token_does_not_throw_its_sequence_out() -> None:
    for kind, weight in (("sequence_mask", 2.0), ("geometric_filter", 1.0)):
        found = correct([4, 1e6, 0.5], [1, 0, 1], [0, 0, 0], [2], kind=kind, cap=2.5)
        assert found.weights.tolist() == pytest.approx([weight] * 3) and not found.masked.any()


def test_the_geometric_mean_is_over_the_tokens_in_the_loss() -> None:
    # √(4·0.5) = 1.4142; of the sequence of one token it is the token's ratio 1.5
    ratios, mask, index, lengths = [4, 16, 0.5, 1.5], [1.0, 0, 1, 1], [0, 0, 0, 1], [2.0, 1]
    inside = correct(ratios, mask, index, lengths, kind="geometric_filter", cap=1.45)
    assert inside.weights.tolist() == [1, 1, 1, 0] and inside.masked.tolist() == [False, False, False, True]
    outside = correct(ratios, mask, index, lengths, kind="geometric_filter", cap=1.4)
    assert outside.weights.tolist() == [0, 0, 0, 0]
    low = correct(ratios, mask, index, lengths, kind="geometric_filter", low=1.45, cap=2)
    assert low.weights.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "icepop"])
def test_a_ratio_at_the_cap_is_not_over_it(kind: str) -> None:
    found = single_tokens(1.0, 1.5, kind=kind, cap=1.0)
    assert not found.truncated[0] and not found.masked[0] and found.weights[0] == 1
    is_cut = kind.endswith("truncate")
    assert (found.truncated[1].item(), found.masked[1].item()) == (is_cut, not is_cut)
    assert found.weights[1] == (1 if is_cut else 0)


@pytest.mark.parametrize("kind", ["icepop", "geometric_filter"])
def test_a_ratio_at_the_lower_bound_is_not_under_it(kind: str) -> None:
    found = single_tokens(1.0, 0.9, kind=kind, low=1.0, cap=2.0)
    assert found.masked.tolist() == [False, True] and found.weights.tolist() == [1, 0]


def test_decoupled_cuts_or_masks_as_it_is_told() -> None:
    cut = single_tokens(10.0, 0.5, kind="decoupled")
    assert cut.weights.tolist() == pytest.approx([5, 0.5])
    assert cut.truncated.tolist() == [True, False] and cut.masked.tolist() == [False, False]
    masked = single_tokens(10.0, 0.5, kind="decoupled", over="mask")
    assert masked.weights.tolist() == pytest.approx([0, 0.5])
    assert masked.truncated.tolist() == [False, False] and masked.masked.tolist() == [True, False]


def test_no_correction_weighs_every_token_one() -> None:
    found = single_tokens(10.0, 0.1, kind="none")
    assert found.weights.tolist() == [1, 1]
    assert found.truncated.tolist() == found.masked.tolist() == [False, False]


@pytest.mark.parametrize("kind", ["none", "token_truncate", "icepop"])
def test_flags_are_truth_values_and_weights_carry_no_gradient(kind: str) -> None:
    old = torch.zeros(2, requires_grad=True)
    ones, index = torch.ones(2), torch.tensor([0, 1])
    found = correction_weights(CorrectionConfig(kind=kind), old, torch.zeros(2), ones, index, ones)  # type: ignore[arg-type]
    assert found.truncated.dtype == found.masked.dtype == torch.bool
    assert not found.weights.requires_grad


def test_auto_is_decoupled_from_the_first_step_of_staleness_on() -> None:
    auto = CorrectionConfig(alarm_below=0.25)
    assert auto.resolved(0).kind == "none"
    assert auto.resolved(1).kind == auto.resolved(4).kind == "decoupled"
    assert auto.resolved(1).alarm_below == 0.25  # all else stays
    assert CorrectionConfig(kind="icepop").resolved(4).kind == "icepop"
    with pytest.raises(AssertionError, match=r"^`resolved` comes first$"):
        single_tokens(1.0, kind="auto")


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("auto", (0, math.inf)),
        ("none", (0, math.inf)),
        ("token_truncate", (0, 2)),
        ("sequence_truncate", (0, 3)),
        ("token_mask", (0, 2)),
        ("sequence_mask", (0, 3)),
        ("icepop", (0.5, 5)),
        ("geometric_filter", (0.999, 1.001)),
        ("decoupled", (0, 5)),
    ],
)
def test_each_kind_has_the_documented_bounds_and_keeps_those_it_is_given(
    kind: Any, bounds: tuple[float, float]
) -> None:
    assert CorrectionConfig(kind=kind).bounds == bounds
    if kind not in ("auto", "none"):
        assert CorrectionConfig(kind=kind, cap=7.0).bounds == (bounds[0], 7)
    if kind in ("icepop", "geometric_filter"):
        assert CorrectionConfig(kind=kind, low=0.25).bounds == (0.25, bounds[1])


@pytest.mark.parametrize(
    ("settings", "weighs"),
    [
        ({"kind": "none"}, False),
        ({"kind": "geometric_filter"}, False),
        ({"kind": "token_truncate"}, True),
        ({"kind": "icepop"}, True),
        ({"kind": "sequence_mask"}, True),
        ({"kind": "decoupled"}, True),
        ({"kind": "decoupled", "proximal": "loglinear"}, True),
        ({"kind": "decoupled", "proximal": "rollout"}, False),
    ],
    ids=str,
)
def test_which_kinds_weigh_by_the_ratio(settings: dict[str, Any], weighs: bool) -> None:
    assert CorrectionConfig.model_validate(settings).weighs is weighs


def test_bounds_that_leave_nothing_between_them_are_refused() -> None:
    with pytest.raises(ValueError, match=r"low is 5\.0 and cap is 5\.0"):
        CorrectionConfig(kind="icepop", low=5.0)
    with pytest.raises(ValueError, match=r"low is 0\.999 and cap is 0\.5"):
        CorrectionConfig(kind="geometric_filter", cap=0.5)


def test_the_loglinear_share_of_tokens_of_the_current_version_is_nothing_whatever_lay_in_memory() -> None:
    def dirty_memory() -> None:
        _ = [np.full(3, 7.0) for _ in range(20)]  # freed at once: the next arrays of this size lie where these lay

    dirty_memory()
    # (5 − 3)/(6 − 3), (5 − 5)/(6 − 5), and 0 where v_θ = v_roll
    share = loglinear_share(np.array([3, 5, 6], np.int32), 5.0, 6.0)
    assert share == pytest.approx([2 / 3, 0, 0]) and share.dtype == np.float32
    dirty_memory()
    assert loglinear_share(np.array([5, 5, 5], np.int32), 4.0, 5.0).tolist() == [0, 0, 0]
