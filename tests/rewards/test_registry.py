"""Rewards by name: every one is listed, paired, light to import and gives clear errors."""

from __future__ import annotations

import pickle
import sys
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from raylign.rewards.base import KillableConfig
from raylign.rewards.registry import _REWARD_OF_CONFIG, REWARD_NAMES, AnyRewardConfig, RewardConfig
from tests.patience import finished

MINIMAL: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "a"},
    "length": {"free_tokens": 1, "max_tokens": 2},
    "function": {"path": "a.py:b"},
    "http": {"url": "http://localhost:1/"},
    "task": {"task": "gsm8k"},
    "reward_model": {"model": "some/model"},
    "pair_model": {"model": "some/model"},
    "bleu_rm": {"model": "some/model"},
}


def parse(config: object) -> AnyRewardConfig:
    parsed: AnyRewardConfig = TypeAdapter(RewardConfig).validate_python(config)
    return parsed


@pytest.mark.parametrize("name", REWARD_NAMES)
def test_every_name_parses_and_survives_dump_and_pickle(name: str) -> None:
    config = parse({"name": name, "weight": 0.5, **MINIMAL.get(name, {})})
    assert config.name == name and config.weight == 0.5
    assert parse(config.model_dump(mode="json")) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert parse(config) is config


def test_exactly_the_rewards_that_can_hang_have_a_killable_config() -> None:
    assert set(_REWARD_OF_CONFIG) == set(get_args(AnyRewardConfig))
    for config_class, reward_class in _REWARD_OF_CONFIG.items():
        assert issubclass(config_class, KillableConfig) == reward_class.can_hang, config_class


def test_every_option_has_a_sentence() -> None:
    for config_class in _REWARD_OF_CONFIG:
        for name, field in config_class.model_fields.items():
            assert field.description and field.description.rstrip().endswith("."), (config_class, name)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ValidationError) as caught:
        parse({"name": "numerc"})
    (error,) = caught.value.errors()
    assert "unknown reward 'numerc'; did you mean 'numeric'? known: exact, numeric," in error["msg"]


def test_name_like_no_other_lists_all() -> None:
    with pytest.raises(ValidationError, match="unknown reward 'qqq'; known: exact"):
        parse({"name": "qqq"})
    with pytest.raises(ValidationError, match="a reward needs a `name`; known: exact"):
        parse({"weight": 1})


def test_unknown_option_is_refused_where_it_stands() -> None:
    with pytest.raises(ValidationError) as caught:
        parse({"name": "numeric", "tolerence": 1})
    assert caught.value.errors()[0]["loc"] == ("numeric", "tolerence")


def test_import_is_light() -> None:
    program = (
        "import sys, raylign.rewards.registry, raylign.rewards.scoring\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'sympy', 'nltk', 'reasoning_gym', 'httpx', 'sacrebleu'}\n"
        "print(heavy & set(sys.modules))"
    )
    output = finished([sys.executable, "-c", program])
    assert output.returncode == 0, output.stderr
    assert output.stdout.strip() == "set()"
