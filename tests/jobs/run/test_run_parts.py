"""What the parts of a run are told by its config. Nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylign.actors.learner.spec import LearnerSpec
from raylign.jobs.config.loading import load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.parts import RunParts
from raylign.learners.algorithms.facts import RunRows


def learner_spec(folder: Path, algorithm: dict[str, Any], **sections: Any) -> LearnerSpec:
    """Of a run that samples at temperature 0.6."""
    given = {"algorithm": algorithm, "sampling": {"temperature": 0.6}, **sections}
    config = load_config(TrainConfig, [], given)
    return RunParts(config)._learner_spec(10, folder, None, RunRows(0, "", 1, 10), [])


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus"])
def test_samples_are_learned_at_the_temperature_that_they_were_drawn_at(tmp_path: Path, name: str) -> None:
    assert learner_spec(tmp_path, {"name": name}, rewards=[{"name": "exact"}]).temperature == 0.6


@pytest.mark.parametrize("name", ["sft", "dpo", "sail", "reward_model"])
def test_rows_are_learned_at_temperature_one_whatever_is_sampled_beside_them(tmp_path: Path, name: str) -> None:
    """Nobody drew a row at a temperature: its likelihood is the model's own. SAIL's policy answers some rows itself;
    its loss still compares the model's own log-probs."""
    assert learner_spec(tmp_path, {"name": name}).temperature == 1.0
