"""Human-written data through the real loop. Needs a data folder: RAYLIGN_DATA, or `shared/data` beside the clone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raylign.jobs.init_model import InitModelConfig, init_model
from raylign.jobs.run.folder import read_metrics
from raylign.jobs.train import train
from raylign.rollout.data.config import DataConfig
from raylign.rollout.data.prompts import PromptSource
from raylign.rollout.model_folder import load_tokenizer
from tests.end_to_end.conftest import configured, small_config

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("RAYLIGN_DATA", BESIDE))
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="no data folder (RAYLIGN_DATA)"),
]


@pytest.mark.parametrize(
    ("file", "prompt", "reference", "first_reference_is_a_number"),
    [
        ("mawps/mawps.jsonl", "{input}", "{target}", True),
        ("svamp/svamp.jsonl", "{Body} {Question}", "{Answer}", True),
        ("gsm8k/train.jsonl.gz", "{question}", "{answer}", False),
    ],
)
def test_word_problem_files_become_prompts(
    start_model: Path, file: str, prompt: str, reference: str, first_reference_is_a_number: bool
) -> None:
    config = DataConfig(source=str(DATA / file), prompt=prompt, reference=reference, template="{prompt}")
    source = PromptSource.open(config, load_tokenizer(start_model), 0, max_prompt_tokens=4096)
    assert len(source) > 600
    first = source.prompt(0)
    assert first.text.strip()
    assert first.references[0].replace("-", "").replace(".", "").isdigit() is first_reference_is_a_number


@pytest.mark.slow
@pytest.mark.ray
def test_long_human_prompts_flow_through_training(ray_session: None, tmp_path: Path) -> None:
    data = {"source": str(DATA / "gsm8k/train.jsonl.gz"), "skip_too_long": True}
    model = init_model(InitModelConfig(output=tmp_path / "model", data=DataConfig(**data), num_layers=2))
    values = small_config(model, tmp_path / "run", data=data, rewards=[{"name": "hash"}])
    values["rollout"] = {"prompts_per_step": 4, "engine": {"max_model_len": 512, "kv_cache_gib": 0.2}}
    run = train(configured(values))
    lines = [line for line in read_metrics(run.folder.path) if "learner/loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["mismatch/mean_abs_logp_difference"] <= 1e-4 for line in lines)
