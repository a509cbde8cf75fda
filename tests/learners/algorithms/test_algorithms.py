"""GRPO's examples and settings, demonstrations, and the registry."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from raylign.learners.algorithms.policy_gradient.grpo import Grpo, GrpoConfig
from raylign.learners.algorithms.registry import AlgorithmConfig
from raylign.learners.algorithms.sft import Sft, SftConfig
from raylign.rollout.sample import Completion, Group, Prompt, StopReason
from tests.patience import HANGS_S


class Run(BaseModel):
    algorithm: AlgorithmConfig


def completion(num_tokens: int, stop_reason: StopReason = "stop") -> Completion:
    ids = np.arange(num_tokens, dtype=np.int32)
    return Completion(ids, np.full(num_tokens, -0.5, np.float32), (), stop_reason, "")


def group(rewards: list[float], completions: list[Completion]) -> Group:
    prompt = Prompt("p", 0, "", np.array([1, 2], np.int32))
    return Group(prompt, tuple(completions), total_rewards=np.array(rewards, np.float32))


def test_every_token_of_a_completion_gets_its_group_advantage() -> None:
    examples = GrpoConfig().build_examples().from_groups([group([1, 0], [completion(3), completion(2)])])
    assert examples[0].advantages == pytest.approx([0.70710678] * 3, rel=1e-5)
    assert examples[1].advantages == pytest.approx([-0.70710678] * 2, rel=1e-5)
    assert examples[0].prompt_ids.tolist() == [1, 2]


def test_failed_completions_carry_no_loss() -> None:
    completions = [completion(1), completion(1), completion(1), completion(1, "aborted")]
    examples = GrpoConfig().build_examples().from_groups([group([1, 0, np.nan, 0], completions)])
    assert [example.loss_mask.item() for example in examples] == [1, 1, 0, 0]


def test_truncated_completions_are_masked_only_when_asked() -> None:
    groups = [group([1, 0], [completion(2), completion(2, "length")])]
    for asked in (False, True):
        examples = GrpoConfig(mask_truncated=asked).build_examples().from_groups(groups)
        assert bool(examples[1].loss_mask.any()) is not asked


def test_equal_groups_and_groups_without_completions() -> None:
    examples = GrpoConfig().build_examples().from_groups([group([1, 1], [completion(2)] * 2), group([], [])])
    assert all(example.advantages is not None and not example.advantages.any() for example in examples)


def test_unscored_group_is_an_error_that_names_the_prompt() -> None:
    unscored = Group(Prompt("p7", 0, "", np.array([1], np.int32)), (completion(1),))
    with pytest.raises(ValueError, match="p7"):
        GrpoConfig().build_examples().from_groups([unscored])


def test_the_reference_is_needed_only_for_kl() -> None:
    assert not Grpo(GrpoConfig()).needs_reference
    assert Grpo(GrpoConfig(kl_coef=0.01)).needs_reference


def test_norm_constant_goes_with_its_aggregation() -> None:
    with pytest.raises(ValidationError, match="needs norm_constant"):
        GrpoConfig(aggregation="seq_mean_token_sum_norm")
    with pytest.raises(ValidationError, match="do not read it"):
        GrpoConfig(norm_constant=8)
    GrpoConfig(aggregation="seq_mean_token_sum_norm", norm_constant=8)


def test_demonstrations_become_examples() -> None:
    [example] = SftConfig().build_examples().from_demonstrations([(np.array([1, 2]), np.array([3, 4, 5]))])
    assert example.loss_mask.tolist() == [1, 1, 1]
    assert example.rollout_logps is None
    with pytest.raises(ValueError, match="demonstration 1"):
        SftConfig().build_examples().from_demonstrations(
            [(np.array([1]), np.array([2])), (np.array([1]), np.array([]))]
        )


def test_the_registry_builds_by_name() -> None:
    grpo = Run.model_validate({"algorithm": {"name": "grpo", "kl_coef": 0.1}}).algorithm
    assert isinstance(grpo.build_objective(), Grpo)
    assert isinstance(SftConfig().build_objective(), Sft)


def test_an_unknown_algorithm_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="did you mean 'grpo'"):
        Run.model_validate({"algorithm": {"name": "grpoo"}})
    with pytest.raises(ValidationError, match="name is missing"):
        Run.model_validate({"algorithm": {"kl_coef": 0.1}})


def test_configs_import_no_heavy_library() -> None:
    code = (
        "import sys, raylign.learners.engines.deepspeed_engine, raylign.learners.algorithms.registry; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'deepspeed', 'transformers', 'ray', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=HANGS_S).returncode == 0
