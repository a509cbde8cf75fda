"""Every recipe that comes with raylign, as `raylign plan` checks it, on stand-ins for its model and data."""

from __future__ import annotations

import pytest

from tests.jobs.stand_ins import StandIns, command_of_recipe, shipped_recipes

pytestmark = pytest.mark.usefixtures("one_tokenizer")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_passes_plan(name: str, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of a teacher that is not asked here")
    findings = stand_ins.examine([*command_of_recipe(name).split(), "--config", name])
    assert findings.problems == []
    assert [warning for warning in findings.warnings if "overlap" in warning or "swapped" in warning] == []


def test_stand_ins_are_no_excuse_for_a_wrong_recipe(stand_ins: StandIns) -> None:
    words = ["train", "--config", "dpo_arithmetic", "--evaluation.pairs.rows", "0%:30%"]
    assert "overlap" in stand_ins.examine(words).warnings[0]
    words = ["train", "--config", "dpo_arithmetic", "--rollout.engine.max_model_len", "9999"]
    assert (
        "the model has 4096 positions"
        in stand_ins.examine([*words, "--learner.micro_batch_tokens", "9999"]).problems[0]
    )
