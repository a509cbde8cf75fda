"""Rows of both levels step by step: lock-step, equal visits, answers in their place. No Ray, no real engine."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raylign.jobs.config.loading import ConfigError, load_config
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.curricula.registry import open_curriculum
from raylign.jobs.curricula.selection import read_selection
from raylign.jobs.curricula.two_levels import TwoLevelCurriculum
from raylign.learners.examples.example import Example
from raylign.rollout.model_folder import load_tokenizer
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan
from raylign.rollout.sampling import SamplingConfig
from tests.conftest import MakeModel

NUM_WEIGHED, NUM_TRUSTED, ROWS_PER_STEP = 10, 6, 4


class Learner:
    """Weights that fall with the row's number."""

    weights = np.arange(NUM_WEIGHED, 0, -1, dtype=np.float32)

    async def algorithm_state(self) -> dict[str, Any]:
        return {"weights": self.weights, "logits": np.log(self.weights)}

    async def evaluate(self, examples: list[Example]) -> dict[str, float]:
        return {"learner/loss": sum(example.facts["coefficient"] for example in examples)}

    async def lost(self) -> Exception:
        await asyncio.Event().wait()
        raise AssertionError("it lives")


class Pool:
    def __init__(self, publisher: Publisher) -> None:
        self.prompts: list[Prompt] = []
        self._publisher = publisher

    async def collect_all(self, prompts: list[Prompt], sampling: SamplingConfig, ordered: bool) -> list[Group]:
        self.prompts = prompts
        spans = (VersionSpan(self._publisher.version, 0, 2),)
        answer = Completion(np.array([5, 6], np.int32), np.full(2, -1, np.float32), spans, "stop", "x")
        return [Group(prompt, (answer,) * sampling.num_completions) for prompt in prompts]


class Exported:
    buckets = ("one",)

    def __init__(self, version: int) -> None:
        self.version = version


class Publisher:
    version = 0

    async def export(self, version: int) -> Exported:
        return Exported(version)

    async def deliver(self, exported: Exported) -> None:
        self.version = exported.version


class Parts:
    def __init__(self) -> None:
        self.learner, self.publisher = Learner(), Publisher()
        self.rollouts = Pool(self.publisher)


def rows_file(path: Path, count: int, name: str) -> dict[str, Any]:
    lines = [json.dumps({"ask": f"{name} {number}?", "say": f"it is {number}"}) for number in range(count)]
    path.write_text("\n".join(lines))
    return {"source": str(path), "prompt": "{ask}", "reference": "{say}", "template": "{prompt}"}


@pytest.fixture
def values(tmp_path: Path, make_tiny_model: MakeModel) -> dict[str, Any]:
    return {
        "folder": str(tmp_path / "run"),
        "model": {"path": str(make_tiny_model("llama", tied=True))},
        "data": rows_file(tmp_path / "weighed.jsonl", NUM_WEIGHED, "weighed"),
        "trusted_data": rows_file(tmp_path / "trusted.jsonl", NUM_TRUSTED, "trusted"),
        "rollout": {"prompts_per_step": ROWS_PER_STEP, "engine": {"max_model_len": 256}},
        "sampling": {"num_completions": 2, "max_tokens": 8},
        "async": {"max_staleness": 0},
        "algorithm": {"name": "bdr"},
    }


def opened(values: dict[str, Any]) -> tuple[TwoLevelCurriculum, Any]:
    """The curriculum, and the parts of a run that it may call."""
    config = load_config(TrainConfig, [], values)
    curriculum = open_curriculum(config, load_tokenizer(config.model.path))
    assert isinstance(curriculum, TwoLevelCurriculum)
    return curriculum, Parts()


def facts(examples: list[Example], level: float, fact: str) -> list[float]:
    return [example.facts[fact] for example in examples if example.facts["level"] == level]


def test_every_row_is_seen_equally_often_however_long_the_other_set(values: dict[str, Any]) -> None:
    rows, _ = opened(values)
    seen: Counter[float] = Counter()
    for step in range(10):  # 40 places: four passes over the weighed rows
        examples = rows.examples(step, [])
        assert len(facts(examples, 0, "row")) == len(facts(examples, 1, "row")) == ROWS_PER_STEP
        seen.update(facts(examples, 1, "row"))
    assert set(seen.values()) == {4}
    assert len(seen) == NUM_WEIGHED


def test_both_levels_are_encoded_by_the_same_rules(values: dict[str, Any]) -> None:
    rows, _ = opened(values)
    tokenizer = load_tokenizer(values["model"]["path"])
    for example in rows.examples(0, []):
        name = "weighed" if example.facts["level"] else "trusted"
        assert tokenizer.decode(example.prompt_ids).startswith(f"{name} ")
        assert tokenizer.decode(example.completion_ids[:-1]).startswith("it is ")
        assert example.completion_ids[-1] == tokenizer.eos_token_id


def test_held_out_trusted_rows_give_the_upper_loss(values: dict[str, Any]) -> None:
    rows, parts = opened(values | {"evaluation": {"trusted": values["trusted_data"]}})
    found = asyncio.run(rows.evaluate(parts))
    assert found == {"evaluation/loss": pytest.approx(1.0), "evaluation/num_rows": NUM_TRUSTED}


def test_rows_of_the_smallest_weights_are_learned_from_by_answers(values: dict[str, Any], tmp_path: Path) -> None:
    algorithm = {"name": "bdr_online", "dynamic": True, "masked_share": 0.3, "generation_every_steps": 2}
    rows, parts = opened(values | {"algorithm": {**algorithm, "online_warmup_steps": 0}})

    async def run() -> None:
        assert (await rows.before_step(0, parts))["refresh/rows"] == 3  # step 1 of the paper's count: 1 − (−1) = 2
        assert await rows.before_step(1, parts) == {}
        assert (await rows.before_step(2, parts))["refresh/tokens"] == 12
        rows.save(tmp_path)
        await rows.write_results(tmp_path, 3, parts)

    asyncio.run(run())
    assert [prompt.row["ask"] for prompt in parts.rollouts.prompts] == ["weighed 7?", "weighed 8?", "weighed 9?"]
    answered = []
    for step in range(3):
        for example in rows.examples(step, []):
            if example.facts["sampled"]:
                answered.append(example.facts["row"])
                assert example.completion_ids.tolist() == [5, 6]
                assert example.old_logps is not None
                assert example.old_logps.tolist() == [-1, -1]
                assert example.facts["share"] == 0.5
                assert example.token_versions is not None
                assert example.token_versions.tolist() == [2, 2]
            assert example.old_logps is not None
    assert set(answered) == {7, 8, 9}
    states = [row["state"] for row in read_selection(tmp_path)]
    assert states == ["kept"] * 7 + ["regenerated"] * 3

    resumed, _ = opened(values | {"algorithm": {**algorithm, "online_warmup_steps": 0}})
    resumed.load(tmp_path)
    for before, after in zip(rows.examples(1, []), resumed.examples(1, []), strict=True):
        np.testing.assert_array_equal(before.completion_ids, after.completion_ids)
        assert before.facts == after.facts


def test_two_refreshes_draw_with_different_seeds(values: dict[str, Any]) -> None:
    algorithm = {"name": "bdr_online", "masked_share": 0.3, "generation_every_steps": 2, "online_warmup_steps": 0}
    rows, parts = opened(values | {"algorithm": algorithm})

    async def ordinals(step: int) -> set[int]:
        await rows.before_step(step, parts)
        return {prompt.ordinal for prompt in parts.rollouts.prompts}

    async def run() -> None:
        assert not await ordinals(0) & await ordinals(2)

    asyncio.run(run())


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_trusted_rows_must_be_given(values: dict[str, Any]) -> None:
    del values["trusted_data"]
    with pytest.raises(ConfigError, match="trusted_data is empty: bdr weighs the rows of `data` by those"):
        load_config(TrainConfig, [], values)


def test_trusted_rows_that_nobody_reads_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="trusted_data is set: sft does not read it"):
        load_config(TrainConfig, [], values | {"algorithm": {"name": "sft"}})


def test_a_response_without_text_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "weighed.jsonl").write_text(json.dumps({"ask": "a", "say": " "}))
    with pytest.raises(ValueError, match=r"weighed.jsonl, row 1: no demonstration to learn from; so have 1 of 1 rows"):
        opened(values)
