"""All algorithms by name.

Given the `algorithm` section of a run's config; gives the algorithm. A new algorithm adds one line here.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raylign.learners.algorithms.base import Algorithm
from raylign.learners.algorithms.grpo import Grpo, GrpoConfig
from raylign.learners.algorithms.sft import Sft, SftConfig

ALGORITHM_NAMES = ("grpo", "sft")


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


AlgorithmConfig = Annotated[
    Annotated[GrpoConfig | SftConfig, Field(discriminator="name")], BeforeValidator(_known_name)
]


def build_algorithm(config: GrpoConfig | SftConfig) -> Algorithm:
    """The algorithm that `config` describes."""
    if isinstance(config, GrpoConfig):
        return Grpo(config)
    return Sft(config)
