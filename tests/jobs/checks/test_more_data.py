"""Several sources of preference pairs in a run: planned, refused, and read by the curriculum."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raylign.jobs.checks import plan
from raylign.jobs.checks.findings import Findings
from raylign.jobs.config.loading import ConfigError, config_yaml, load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.pairs import PairCurriculum
from raylign.jobs.curricula.registry import num_steps_of, open_curriculum
from raylign.jobs.report.charts import figures
from raylign.jobs.run.metrics import undocumented
from raylign.jobs.run.pair_evaluation import evaluation_words
from raylign.learners.examples.example import Example
from raylign.rollout.data.yaml_text import yaml_value
from raylign.rollout.model_folder import load_tokenizer
from tests.jobs.stand_ins import TWO_CORES, StandIns
from tests.rollout.data.small import write_rows

pytestmark = pytest.mark.usefixtures("one_tokenizer")


def source(folder: Path, name: str, count: int, **keys: Any) -> dict[str, Any]:
    rows = [{"prompt": f"{name}{number}?", "chosen": " yes", "rejected": " no"} for number in range(count)]
    path = write_rows(folder / f"{name}.jsonl", *rows)
    return {"source": path, "prompt": "{prompt}", "reference": None, "template": "{prompt}", **keys}


@pytest.fixture
def values(tmp_path: Path, stand_ins: StandIns) -> dict[str, Any]:
    return {
        "folder": str(tmp_path / "run"),
        "model": {"path": stand_ins.model},
        "data": source(tmp_path, "a", 30),
        "more_data": [source(tmp_path, "b", 20, share=0.25)],
        "rollout": {"prompts_per_step": 4, "engine": {"max_model_len": 64}},
        "sampling": {"max_tokens": 8},
        "algorithm": {"name": "dpo"},
        "num_epochs": 1,
        "cluster": {"address": "local"},
    }


def loaded(values: dict[str, Any], **changes: Any) -> TrainConfig:
    return load_config(TrainConfig, [], values | changes)


def examined(values: dict[str, Any], **changes: Any) -> Findings:
    return plan.examine_training(loaded(values, **changes), TWO_CORES)


def test_plan_prints_rows_and_share_of_each_source(values: dict[str, Any]) -> None:
    findings = examined(values)
    assert findings.problems == []
    shares = [words for name, words in findings.facts if name == "  share"]
    # 50 rows an epoch: 37.5 of the 30 of a, 12.5 of the 20 of b
    assert [words.split("/")[0][:7] for words in shares] == ["0.75 of", "0.25 of"]
    assert [words.split(": ")[1] for words in shares] == [
        "its 30 rows 1.25 times in an epoch of 50",
        "its 20 rows 0.625 times in an epoch of 50",
    ]
    assert any(name == "more_data[0]" and words.endswith("b.jsonl: 20 rows") for name, words in findings.facts)


def test_the_curriculum_reads_all_of_them(values: dict[str, Any]) -> None:
    config = loaded(values)
    curriculum = open_curriculum(config, load_tokenizer(config.model.path))
    assert isinstance(curriculum, PairCurriculum)
    assert curriculum.run_rows(13).num_rows == 50
    assert num_steps_of(config, 50) == 13
    for step in range(8):
        examples = curriculum.examples(step, [])
        assert len(examples) == 8  # both answers of four pairs
        ordinals = range(4 * step, 4 * step + 4)
        assert sorted(curriculum.rows.pair(ordinal).prompt.text[0] for ordinal in ordinals) == list("aaab")


def test_a_config_comes_back_as_it_was_written(values: dict[str, Any]) -> None:
    config = loaded(values)
    assert load_config(TrainConfig, [], yaml_value(config_yaml(config), "config.yaml")) == config


def test_what_cannot_be_mixed_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    further = values["more_data"][0]
    for share in (0, -0.5, 1):
        with pytest.raises(ConfigError, match=r"more_data.*share"):
            loaded(values, more_data=[further | {"share": share}])
    with pytest.raises(ConfigError, match=r"the shares add up to 1\.2"):
        loaded(values, more_data=[further | {"share": 0.6}] * 2)
    with pytest.raises(ConfigError, match=r"more_data\[1\]\.share is empty"):
        loaded(values, more_data=[further, source(tmp_path, "c", 4)])
    with pytest.raises(ConfigError, match="sft does not learn from preference pairs"):
        loaded(values, algorithm={"name": "sft"})
    with pytest.raises(ConfigError, match="shares"):
        loaded(values, more_data=[further | {"shares": 0.1}])
    (tmp_path / "empty.jsonl").write_text("")
    write_rows(tmp_path / "no_pairs.jsonl", {"prompt": "why?", "answer": "so"})
    for name, why in (("empty", "the file is empty"), ("no_pairs", "chosen"), ("missing", "not found")):
        path = str(tmp_path / f"{name}.jsonl")
        (problem,) = examined(values, more_data=[further | {"source": path}]).problems
        assert problem.startswith("more_data[0]: ")
        assert why in problem


def test_held_out_pairs_of_a_further_source_that_is_trained_on_are_said(values: dict[str, Any]) -> None:
    held_out = {key: value for key, value in values["more_data"][0].items() if key != "share"}
    (words,) = [each for each in examined(values, evaluation={"pairs": held_out}).warnings if "overlap" in each]
    assert "more_data[0].rows 0%:100%" in words


class CountsPairs:
    """A learner whose loss is the number of examples that it was given."""

    async def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        return {
            "learner/loss": float(len(examples)),
            "preference/accuracy": 0.5,
            "preference/margin": 0.25,
            "preference/chosen_logp": -1.0,
        }


def test_each_source_of_held_out_pairs_is_measured_apart(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    held_out = [source(tmp_path, "c", 5), source(tmp_path, "d", 3), source(tmp_path / "sub", "c", 4)]
    evaluation = {"pairs": held_out[0], "more_pairs": held_out[1:], "num_prompts": 4}
    assert [each for each in examined(values, evaluation=evaluation).warnings if "overlap" in each] == []
    config = loaded(values, evaluation=evaluation)
    curriculum = open_curriculum(config, load_tokenizer(config.model.path))
    services: Any = SimpleNamespace(learner=CountsPairs())
    line = asyncio.run(curriculum.evaluate(services))
    assert (line["evaluation/loss"], line["evaluation/num_pairs"]) == (8.0, 4.0), "those of evaluation.pairs"
    losses = {key.split("/")[2]: value for key, value in line.items() if key.endswith("/loss") and key.count("/") == 3}
    assert losses == {"c": 8.0, "d": 6.0, "c-2": 8.0}
    assert line["evaluation/pairs/d/reward_accuracy_low"] < 0.5 < line["evaluation/pairs/d/reward_accuracy_high"]
    assert undocumented(line) == [] and "of d 50.0% [" in evaluation_words(line)
    lines = [{"step": step, **line} for step in (0, 4)]
    (figure,) = [figure for chart, figure in figures(lines)[0] if chart.title == "Pairs ranked right"]
    assert [trace["name"] for trace in figure["data"]] == ["held-out pairs", "c", "c-2", "d"]
    alone = open_curriculum(loaded(values, evaluation={"pairs": held_out[0]}), load_tokenizer(config.model.path))
    assert not any(key.startswith("evaluation/pairs/") for key in asyncio.run(alone.evaluate(services)))


def test_a_further_source_of_held_out_pairs_is_checked_as_the_first(values: dict[str, Any], tmp_path: Path) -> None:
    first, missing = source(tmp_path, "c", 5), source(tmp_path, "d", 3) | {"source": str(tmp_path / "gone.jsonl")}
    (problem,) = examined(values, evaluation={"pairs": first, "more_pairs": [missing]}).problems
    assert problem.startswith("evaluation.more_pairs[0]: ") and "not found" in problem
    trained_on = {key: value for key, value in values["more_data"][0].items() if key != "share"}
    found = examined(values, evaluation={"pairs": first, "more_pairs": [trained_on]})
    (words,) = [each for each in found.warnings if "overlap" in each]
    assert words.startswith("evaluation.more_pairs[0].rows 0%:100% and more_data[0].rows 0%:100%")
    with pytest.raises(ConfigError, match=r"make the first of them evaluation\.pairs"):
        loaded(values, evaluation={"more_pairs": [first]})
