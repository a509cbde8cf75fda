"""The only engine is killed in the middle of a run: another takes its place, with the current weights, and the run ends
as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylign.jobs.run.folder import read_metrics
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.processes import raylign

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_STEPS = 300


def test_a_run_goes_on_when_its_only_engine_is_killed(start_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    values = small_config(start_model, folder, num_steps=NUM_STEPS) | {"async": {"max_staleness": 2}}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    with raylign("train", "--config", str(recipe), log=tmp_path / "log") as process:
        process.wait_for(lambda: len(read_metrics(folder)) >= 20, "step 20")
        (core,) = (one for one in process.alive() if "VLLM::EngineCore" in " ".join(one.cmdline()))
        core.kill()
        assert process.wait() == 0, process.output()
        said = process.output()
    assert said.count("; starting another") == 1 and "rollout worker 0 died with" in said
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert max(line["staleness/max"] for line in lines) <= 2
    assert lines[-1]["weights/version"] >= NUM_STEPS - 2
