"""All algorithms by name: the one place outside their own files that names them.

Given the `algorithm` section of a run's config; gives its config, which builds the rest. A new algorithm is one line
here: its config in the union.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from raylign.learners.algorithms.bilevel.bdr import BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnlineConfig
from raylign.learners.algorithms.facts import CurriculumKind
from raylign.learners.algorithms.policy_gradient.cispo import CispoConfig
from raylign.learners.algorithms.policy_gradient.dapo import DapoConfig
from raylign.learners.algorithms.policy_gradient.dr_grpo import DrGrpoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.reinforce_plus_plus import ReinforcePlusPlusConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.preference.bonbon import BonbonConfig
from raylign.learners.algorithms.preference.dpo import DpoConfig
from raylign.learners.algorithms.preference.ipo import IpoConfig
from raylign.learners.algorithms.preference.reward_model import RewardModelTrainingConfig
from raylign.learners.algorithms.preference.sail import SailConfig
from raylign.learners.algorithms.sft import SftConfig

AnyAlgorithmConfig = (
    GrpoConfig
    | DrGrpoConfig
    | DapoConfig
    | GspoConfig
    | RlooConfig
    | ReinforcePlusPlusConfig
    | CispoConfig
    | SftConfig
    | DpoConfig
    | IpoConfig
    | BonbonConfig
    | SailConfig
    | BdrConfig
    | BdrOnlineConfig
    | RewardModelTrainingConfig
)
CONFIGS = {config.model_fields["name"].default: config for config in get_args(AnyAlgorithmConfig)}
ALGORITHM_NAMES = tuple(CONFIGS)


def default_algorithm(**values: Any) -> AnyAlgorithmConfig:
    """Where a run names none."""
    return GrpoConfig(**values)


def names_with(curriculum: CurriculumKind) -> list[str]:
    """The algorithms that learn from such rows."""
    return [name for name, config in CONFIGS.items() if config.curriculum == curriculum]


def _known_name(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if name is None:
        raise ValueError(f"name is missing; one of: {', '.join(ALGORITHM_NAMES)}")
    if name not in ALGORITHM_NAMES:
        near = difflib.get_close_matches(str(name), ALGORITHM_NAMES, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown algorithm {name!r}{hint} Known: {', '.join(ALGORITHM_NAMES)}")
    return value


AlgorithmConfig = Annotated[Annotated[AnyAlgorithmConfig, Field(discriminator="name")], BeforeValidator(_known_name)]
