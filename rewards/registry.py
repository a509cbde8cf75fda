"""All rewards by name: what a recipe may ask for, and how it is built.

Given a `RewardConfig` (told apart by `name`), gives the `Reward`; one that can hang or crash comes wrapped in
killable processes. An unknown name is reported with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, cast, get_args

from pydantic import BeforeValidator, Field, TypeAdapter

from raylign.rewards.answers import after_hash, boxed, reference_quantity, tagged
from raylign.rewards.base import KillableConfig, Reward, WeightedConfig
from raylign.rewards.bert_score import BertScoreConfig, BertScoreReward
from raylign.rewards.bleu_rm import BleuRmConfig, BleuRmReward
from raylign.rewards.endpoint import HttpConfig, HttpReward
from raylign.rewards.function import FunctionConfig, FunctionReward
from raylign.rewards.overlap import (
    BleuConfig,
    BleuReward,
    BleuRougeF1Config,
    BleuRougeF1Reward,
    RougeConfig,
    RougeReward,
)
from raylign.rewards.pair_model import PairModel, PairModelConfig
from raylign.rewards.patterns import FormatConfig, FormatReward, RegexConfig, RegexReward
from raylign.rewards.reward_model import RewardModel, RewardModelConfig
from raylign.rewards.rules import (
    BoxedConfig,
    BoxedReward,
    ExactConfig,
    ExactReward,
    HashConfig,
    HashReward,
    LengthConfig,
    LengthReward,
    NumericConfig,
    NumericReward,
    TagConfig,
    TagReward,
    expected_choice,
)
from raylign.rewards.sandbox.sandbox import Sandboxed
from raylign.rewards.tasks.config import TaskConfig
from raylign.rewards.tasks.opening import form_task
from raylign.rewards.tasks.reward import TaskReward
from raylign.rewards.tasks.task import checked_label
from raylign.rewards.verifiers import (
    MathVerifyConfig,
    MathVerifyReward,
    ReasoningGymConfig,
    ReasoningGymReward,
)

AnyRewardConfig = (
    ExactConfig
    | NumericConfig
    | RegexConfig
    | FormatConfig
    | LengthConfig
    | BoxedConfig
    | HashConfig
    | TagConfig
    | TaskConfig
    | MathVerifyConfig
    | ReasoningGymConfig
    | BleuConfig
    | RougeConfig
    | BleuRougeF1Config
    | BleuRmConfig
    | BertScoreConfig
    | FunctionConfig
    | HttpConfig
    | RewardModelConfig
    | PairModelConfig
)

_REWARD_OF_CONFIG: dict[type[WeightedConfig], type[Reward]] = {
    ExactConfig: ExactReward,
    NumericConfig: NumericReward,
    RegexConfig: RegexReward,
    FormatConfig: FormatReward,
    LengthConfig: LengthReward,
    BoxedConfig: BoxedReward,
    HashConfig: HashReward,
    TagConfig: TagReward,
    TaskConfig: TaskReward,
    MathVerifyConfig: MathVerifyReward,
    ReasoningGymConfig: ReasoningGymReward,
    BleuConfig: BleuReward,
    RougeConfig: RougeReward,
    BleuRougeF1Config: BleuRougeF1Reward,
    BleuRmConfig: BleuRmReward,
    BertScoreConfig: BertScoreReward,
    FunctionConfig: FunctionReward,
    HttpConfig: HttpReward,
    RewardModelConfig: RewardModel,
    PairModelConfig: PairModel,
}

REWARD_NAMES: tuple[str, ...] = tuple(
    config_class.model_fields["name"].default for config_class in get_args(AnyRewardConfig)
)


def _check_name(value: Any) -> Any:
    """Before pydantic picks a member of the union, whose own complaint would list all of them."""
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if name in REWARD_NAMES:
        return value
    known = "known: " + ", ".join(REWARD_NAMES)
    if name is None:
        raise ValueError(f"a reward needs a `name`; {known}")
    nearest = difflib.get_close_matches(str(name), REWARD_NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"unknown reward {name!r}; {hint}{known}")


def reference_check(config: AnyRewardConfig) -> Callable[[str], object] | None:
    """Raises ValueError for a reference that the reward cannot compare with; None: only scoring would tell."""
    if isinstance(config, ExactConfig | BoxedConfig | HashConfig | TagConfig) and config.kind == "choice":
        return expected_choice
    if isinstance(config, TaskConfig) and not config.needs_process:
        return partial(checked_label, form_task(config))
    if isinstance(config, NumericConfig):
        return reference_quantity
    if isinstance(config, BoxedConfig | HashConfig | TagConfig) and config.comparison == "numeric":
        find = {"boxed": boxed, "hash": after_hash}.get(config.name, lambda text: tagged(text, config.tag))  # type: ignore[union-attr]
        return lambda reference: reference_quantity(find(reference) or reference)
    return None


def is_quick(config: AnyRewardConfig) -> bool:
    """Whether this reward scores at once, in place."""
    return _REWARD_OF_CONFIG[type(config)].is_quick and not _needs_process(config)


def _needs_process(config: AnyRewardConfig) -> bool:
    return isinstance(config, KillableConfig) and config.needs_process


RewardConfig = Annotated[AnyRewardConfig, Field(discriminator="name"), BeforeValidator(_check_name)]
"""One entry of a recipe's list of rewards."""


def build_reward(config: AnyRewardConfig) -> Reward:
    """The reward, ready to score. ValueError when it cannot work: a function that does not import, no such model."""
    if isinstance(config, KillableConfig) and config.needs_process:
        return Sandboxed(config, config.name)
    return build_here(config)


def build_here(config: AnyRewardConfig) -> Reward:
    """The reward itself in this process: what a killable process does, and `build_reward` for the others."""
    # Every class here is built from its own config alone; the table pairs them.
    make = cast(Callable[[Any], Reward], _REWARD_OF_CONFIG[type(config)])
    return make(config)


def config_from_dict(values: Mapping[str, Any]) -> AnyRewardConfig:
    config: AnyRewardConfig = TypeAdapter(RewardConfig).validate_python(values)
    return config


def config_from_json(text: str) -> AnyRewardConfig:
    config: AnyRewardConfig = TypeAdapter(RewardConfig).validate_json(text)
    return config
