"""All algorithms by name.

Given the `algorithm` section of a run's config; gives the algorithm. A new algorithm adds one line to the union and
one to `_ALGORITHMS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raylign.learners.algorithms.base import Algorithm
from raylign.learners.algorithms.bilevel.bdr import Bdr, BdrConfig
from raylign.learners.algorithms.bilevel.bdr_online import BdrOnline, BdrOnlineConfig
from raylign.learners.algorithms.policy_gradient.cispo import Cispo, CispoConfig
from raylign.learners.algorithms.policy_gradient.dapo import Dapo, DapoConfig
from raylign.learners.algorithms.policy_gradient.dr_grpo import DrGrpo, DrGrpoConfig
from raylign.learners.algorithms.policy_gradient.grpo import Grpo, GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import Gspo, GspoConfig
from raylign.learners.algorithms.policy_gradient.reinforce_plus_plus import ReinforcePlusPlus, ReinforcePlusPlusConfig
from raylign.learners.algorithms.policy_gradient.rloo import Rloo, RlooConfig
from raylign.learners.algorithms.preference.bonbon import Bonbon, BonbonConfig
from raylign.learners.algorithms.preference.dpo import Dpo, DpoConfig
from raylign.learners.algorithms.preference.ipo import Ipo, IpoConfig
from raylign.learners.algorithms.preference.reward_model import RewardModelTraining, RewardModelTrainingConfig
from raylign.learners.algorithms.preference.sail import Sail, SailConfig
from raylign.learners.algorithms.sft import Sft, SftConfig

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
_ALGORITHMS: dict[str, Any] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "dapo": Dapo,
    "gspo": Gspo,
    "rloo": Rloo,
    "reinforce_plus_plus": ReinforcePlusPlus,
    "cispo": Cispo,
    "sft": Sft,
    "dpo": Dpo,
    "ipo": Ipo,
    "bonbon": Bonbon,
    "sail": Sail,
    "bdr": Bdr,
    "bdr_online": BdrOnline,
    "reward_model": RewardModelTraining,
}
ALGORITHM_NAMES = tuple(_ALGORITHMS)


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


def build_algorithm(
    config: AnyAlgorithmConfig, max_staleness: int = 0, reward_weights: Mapping[str, float] | None = None
) -> Algorithm:
    """The algorithm that `config` describes, for samples at most `max_staleness` versions old.

    `reward_weights`: by reward name as in `Group.rewards`; read only where each reward is normalised alone.
    """
    algorithm: Algorithm = _ALGORITHMS[config.name](config, max_staleness, reward_weights)
    return algorithm
