"""The last guard of the staleness bound."""

from __future__ import annotations

import numpy as np
import pytest

from raylign.learners.examples.example import Example
from raylign.learners.meters.staleness import staleness_metrics
from raylign.rollout.staleness import StalenessError


def example(versions: list[int] | None, mask: list[float] | None = None) -> Example:
    size = len(versions or [0, 0])
    ids = np.ones(size, np.int32)
    return Example(
        ids,
        ids,
        loss_mask=np.array(mask or [1.0] * size, np.float32),
        token_versions=None if versions is None else np.array(versions, np.int32),
    )


def test_the_histogram_counts_trained_tokens() -> None:
    batch = [example([3, 3, 4]), example([5, 1], [1.0, 0.0])]  # the token of version 1 is masked
    assert staleness_metrics(batch, 5, max_staleness=3) == pytest.approx(
        {
            "staleness/mean": 5 / 4,
            "staleness/max": 2,
            "staleness/share_0": 0.25,
            "staleness/share_1": 0.25,
            "staleness/share_2": 0.5,
            "staleness/share_3": 0,
        }
    )


def test_a_token_outside_the_bound_is_stopped_at_the_door() -> None:
    with pytest.raises(StalenessError, match=r"2 of 4 tokens for version 5 .* oldest is of version 2, the limit is 4"):
        staleness_metrics([example([2, 2, 4, 5])], 5, max_staleness=1)
    with pytest.raises(StalenessError, match="from the future"):
        staleness_metrics([example([6])], 5, max_staleness=1)


@pytest.mark.parametrize("versions", [None, [1, 1, 1]])
def test_tokens_without_a_version_are_stopped_at_the_door(versions: list[int] | None) -> None:
    bad = example(versions)
    bad.loss_mask = np.ones(2, np.float32)
    with pytest.raises(StalenessError, match="each needs its own"):
        staleness_metrics([bad], 5, max_staleness=1)
