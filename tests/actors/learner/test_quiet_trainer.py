"""Ranks are started without a word to Ray's autoscaling coordinator."""

from __future__ import annotations

from typing import Any

import pytest


def test_the_ranks_are_as_many_as_configured_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import autoscaling_coordinator_client

    from raylign.actors.learner.quiet_trainer import FixedRanks

    def asked(*_: Any) -> None:
        pytest.fail("the autoscaling coordinator was started")

    monkeypatch.setattr(autoscaling_coordinator_client, "get_or_create_autoscaling_coordinator", asked)
    ranks = FixedRanks(ScalingConfig(num_workers=3, resources_per_worker={"CPU": 1}))
    ranks.after_controller_start(None)
    decision: Any = ranks.make_decision_for_non_running_worker_group()
    assert decision.num_workers == 3
    ranks.before_controller_abort()
