"""What each algorithm accepts, refuses and asks of the learner: groups, staleness, corrections, long answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from raylign.jobs.run.metrics import rollout_metrics
from raylign.learners.algorithms.facts import RunRows
from raylign.learners.algorithms.policy_gradient.dapo import DapoConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.gspo import GspoConfig
from raylign.learners.algorithms.policy_gradient.policy import PolicyConfig
from raylign.learners.algorithms.policy_gradient.reinforce_plus_plus import ReinforcePlusPlusConfig
from raylign.learners.algorithms.policy_gradient.rloo import RlooConfig
from raylign.learners.algorithms.registry import ALGORITHM_NAMES, AlgorithmConfig
from raylign.learners.algorithms.sft import SftConfig
from raylign.learners.examples.from_groups import OverlongConfig
from raylign.learners.losses.corrections import CorrectionConfig
from raylign.learners.losses.policy import kl
from raylign.rollout.sample import Completion, Group, Prompt, VersionSpan

CONFIGS: Any = TypeAdapter(AlgorithmConfig)
FROM_ROWS = ("sft", "dpo", "ipo", "bonbon", "sail", "bdr", "bdr_online", "reward_model")
PAIRED = ("dpo", "ipo", "bonbon", "sail")
"""They compare with a reference."""


def config(name: str, **settings: Any) -> Any:
    needed = {"norm_constant": 8} if name == "dr_grpo" else {}
    return CONFIGS.validate_python({"name": name, **needed, **settings})


def completion(num_tokens: int, spans: tuple[VersionSpan, ...] = (), stop_reason: Any = "stop") -> Completion:
    ids = np.arange(num_tokens, dtype=np.int32)
    return Completion(ids, np.full(num_tokens, -0.5, np.float32), spans, stop_reason, "")


ROWS = RunRows(num_rows=4, fingerprint="a", rows_per_step=2, num_steps=1)


def group(completions: list[Completion], rewards: list[float], **named: list[float]) -> Group:
    arrays = {name: np.array(values, np.float32) for name, values in named.items()}
    prompt = Prompt("p", 0, "", np.array([1, 2], np.int32))
    return Group(prompt, tuple(completions), rewards=arrays, total_rewards=np.array(rewards, np.float32))


@pytest.mark.parametrize("name", ALGORITHM_NAMES)
def test_every_algorithm_builds_from_its_name(name: str) -> None:
    settings = config(name)
    objective, examples = settings.build_objective(0, ROWS), settings.build_examples()
    assert objective.needs_reference is settings.needs_reference is (name in PAIRED)
    assert objective.num_updates == settings.optimizer_steps_per_batch == 1
    assert objective.proximal == "recompute"
    assert (examples.dynamic_sampling is not None) is (name == "dapo")
    compares_a_group = name not in FROM_ROWS and name != "reinforce_plus_plus"
    assert settings.min_group_size == (2 if compares_a_group else 1)
    assert objective.learns_from_rows is settings.learns_from_rows is (name in FROM_ROWS)


def test_the_baseline_of_reinforce_plus_plus_needs_a_group() -> None:
    assert ReinforcePlusPlusConfig(baseline=True).min_group_size == 2


@pytest.mark.parametrize("name", [name for name in ALGORITHM_NAMES if name not in FROM_ROWS])
def test_auto_corrects_only_stale_samples(name: str) -> None:
    assert config(name).build_objective().correction.kind == "none"  # type: ignore[attr-defined]
    asynchronous = config(name).build_objective(max_staleness=2).correction  # type: ignore[attr-defined]
    assert (asynchronous.kind, asynchronous.over, asynchronous.proximal) == ("decoupled", "truncate", "recompute")
    assert asynchronous.bounds == (0, 5)


def test_what_cannot_learn_from_stale_samples_says_why() -> None:
    SftConfig().build_objective(max_staleness=1)  # nothing of it is stale
    for kind in ("none", "geometric_filter"):
        bare = RlooConfig(correction=CorrectionConfig(kind=kind))  # type: ignore[arg-type]
        bare.build_objective()
        with pytest.raises(ValueError, match="must be weighed by π_θ/π_roll"):
            bare.build_objective(max_staleness=1)
    with pytest.raises(ValueError, match="must be weighed"):
        RlooConfig(correction=CorrectionConfig(kind="decoupled", proximal="rollout")).build_objective(max_staleness=1)
    RlooConfig(correction=CorrectionConfig(kind="token_truncate")).build_objective(max_staleness=1)
    GrpoConfig(correction=CorrectionConfig(kind="none")).build_objective(max_staleness=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "none", "cap": 2.0}, "cap is 2.0: kind none does not read it"),
        ({"kind": "token_truncate", "low": 0.5}, "low is 0.5: kind token_truncate does not read it"),
        ({"kind": "icepop", "over": "mask"}, "over is mask: kind icepop does not read it"),
        ({"kind": "token_mask", "proximal": "loglinear"}, "proximal is loglinear: kind token_mask does not read it"),
        ({"kind": "icepop", "low": 6.0}, "low is 6.0 and cap is 5.0: no ratio lies between"),
    ],
)
def test_correction_keys_that_nothing_reads_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CorrectionConfig.model_validate(settings)


def test_a_correction_survives_being_printed_and_read() -> None:
    for kind in ("auto", "none", "icepop", "decoupled"):
        made = CorrectionConfig(kind=kind)  # type: ignore[arg-type]
        assert CorrectionConfig.model_validate(made.model_dump()) == made


def test_long_answers_are_punished_once() -> None:
    with pytest.raises(ValidationError, match="keep one of them"):
        DapoConfig(overlong=OverlongConfig(max_tokens=8, buffer_tokens=2), mask_truncated=True)
    with pytest.raises(ValidationError, match="more than max_tokens = 8"):
        OverlongConfig(max_tokens=8, buffer_tokens=9)


def test_the_overlong_penalty_is_part_of_the_reward_but_not_of_dynamic_sampling() -> None:
    dapo = DapoConfig(overlong=OverlongConfig(max_tokens=8, buffer_tokens=4)).build_examples()
    both_right = group([completion(2), completion(6)], [1, 1])  # penalties 0 and -1/2
    assert not dapo.accepts(both_right)
    first, second = dapo.from_groups([both_right])
    assert first.advantages is not None and second.advantages is not None
    assert first.advantages[0] == pytest.approx(0.5**0.5, rel=1e-4)
    assert second.advantages[0] == pytest.approx(-(0.5**0.5), rel=1e-4)


def test_dynamic_sampling_refuses_groups_that_cannot_be_compared_and_can_be_off() -> None:
    dapo = DapoConfig().build_examples()
    assert not dapo.accepts(group([], []))
    assert not dapo.accepts(group([completion(1)] * 2, [1, np.nan]))
    assert dapo.accepts(group([completion(1)] * 3, [1, np.nan, 0]))
    off = DapoConfig(dynamic_sampling=None).build_examples()
    assert off.dynamic_sampling is None
    assert off.accepts(group([completion(1)] * 2, [1, 1]))


@pytest.mark.parametrize("normalization", ["total", "per_reward"])
def test_one_rule_says_what_has_no_spread(normalization: str) -> None:
    """Advantages, the metric and dynamic sampling agree, whatever the rewards add up to."""
    weights = {"a": 2.0, "b": 1.0}
    groups = [
        group([completion(1)] * 2, [2.0, 2.0], a=[1.0, 0.0], b=[0.0, 2.0]),  # the total says nothing, `a` alone does
        group([completion(1)] * 2, [3.0, 3.0], a=[1.0, 1.0], b=[1.0, 1.0]),
        group([completion(1)] * 3, [2.0, 0.0, np.nan], a=[1.0, 0.0, 1.0], b=[0.0, 0.0, np.nan]),
    ]
    make = DapoConfig(reward_normalization=normalization).build_examples(reward_weights=weights)  # type: ignore[arg-type]
    expected = [normalization == "per_reward", False, True]
    assert make.has_spread(groups) == [make.accepts(each) for each in groups] == expected
    made = make.from_groups(groups)
    taught = [any(example.advantages.any() for example in made[start:end]) for start, end in ((0, 2), (2, 4), (4, 7))]  # type: ignore[union-attr]
    assert taught == expected
    share = rollout_metrics(groups, make)["reward/zero_variance_share"]
    assert share == pytest.approx(expected.count(False) / 3)


def test_rewards_that_cancel_are_replaced_where_each_is_normalised_alone() -> None:
    cancelling = group([completion(1)] * 2, [1.0, 4.0], a=[1.0, 0.0], b=[0.0, 4.0])
    weights = {"a": 1.0, "b": 1.0}
    make = DapoConfig(reward_normalization="per_reward").build_examples(reward_weights=weights)
    assert not make.accepts(cancelling)
    by_batch = DapoConfig(reward_normalization="per_reward", advantage_scale="batch")
    assert by_batch.build_examples(reward_weights=weights).accepts(cancelling), (
        "beside other groups they need not cancel"
    )


def test_all_equal_groups_teach_nothing_in_any_group_relative_algorithm() -> None:
    for name in ("grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo"):
        made = config(name).build_examples().from_groups([group([completion(2)] * 3, [0.1 + 0.2, 0.3, 0.3])])
        assert all(not example.advantages.any() for example in made), name  # type: ignore[union-attr]


def test_every_token_knows_its_version() -> None:
    spans = (VersionSpan(4, 0, 2), VersionSpan(5, 2, 3))
    first, second = GrpoConfig().build_examples().from_groups([group([completion(3, spans), completion(1)], [1, 0])])
    assert first.token_versions is not None
    assert first.token_versions.tolist() == [4, 4, 5]
    assert second.token_versions is None


def test_each_reward_is_normalised_alone_before_weighting() -> None:
    # `form` has a hundredfold range; in the total it would drown `right`
    named = {"right": [1.0, 0, 0, 1], "form": [100.0, 100, 0, 0]}
    rewards = [101.0, 100, 0, 1]
    settings = GrpoConfig(reward_normalization="per_reward")
    made = settings.build_examples(reward_weights={"right": 2.0, "form": 1.0}).from_groups(
        [group([completion(1)] * 4, rewards, **named)]
    )
    found = np.array([example.advantages.item() for example in made])  # type: ignore[union-attr]
    # each alone: ±0.5/std with std = √(1/3); twice the first plus the second: (1, -3, ... ) pattern 3, -1, -3, 1
    pattern = np.array([3.0, -1, -3, 1])
    assert found == pytest.approx(pattern / pattern.std(ddof=1), rel=1e-5)
    total = GrpoConfig().build_examples().from_groups([group([completion(1)] * 4, rewards, **named)])
    assert total[3].advantages is not None and total[3].advantages.item() < 0  # right, yet punished


def test_per_reward_normalisation_leaves_failures_and_equal_groups_out() -> None:
    settings = GrpoConfig(reward_normalization="per_reward")
    spread = group([completion(1)] * 3, [1.0, 0, np.nan], a=[1.0, 0, 1], b=[0.0, 0, np.nan])
    equal = group([completion(1)] * 2, [1.0, 1], a=[1.0, 1], b=[0.0, 0])
    made = settings.build_examples(reward_weights={"a": 1.0, "b": 1.0}).from_groups([spread, equal])
    found = [example.advantages.item() for example in made]  # type: ignore[union-attr]
    assert found[0] == pytest.approx(-found[1])
    assert found[0] > 0
    assert found[2:] == [0, 0, 0]
    assert made[2].loss_mask.item() == 0


def test_per_reward_normalisation_says_what_it_lacks() -> None:
    settings = GrpoConfig(reward_normalization="per_reward")
    scored = group([completion(1)] * 2, [1, 0], a=[1, 0])
    with pytest.raises(ValueError, match="needs the weights of the rewards"):
        settings.build_examples().from_groups([scored])
    with pytest.raises(ValueError, match="no scores of reward b"):
        settings.build_examples(reward_weights={"a": 1, "b": 1}).from_groups([scored])
    with pytest.raises(ValidationError, match="per_reward does not read"):
        GspoConfig(reward_normalization="per_reward", overlong=OverlongConfig(max_tokens=8, buffer_tokens=2))


def test_rloo_with_the_kl_in_the_reward_equals_leave_one_out_of_lowered_rewards() -> None:
    rng = np.random.default_rng(0)
    lengths, rewards, beta = [3, 1, 4], np.array([1.0, 0, 0.5]), 0.3
    settings = RlooConfig(kl_coef=beta)
    algorithm = settings.build_objective()
    assert algorithm.completes_batch and algorithm.needs_old_logps and algorithm.needs_reference
    first = group([completion(n) for n in lengths], rewards.tolist())
    made = settings.build_examples().from_groups([first, replace(first, prompt=replace(first.prompt, ordinal=1))])
    for example in made:
        size = len(example.completion_ids)
        example.old_logps = rng.normal(size=size).astype(np.float32)
        example.reference_logps = rng.normal(size=size).astype(np.float32)
    completed = algorithm.complete(made)
    for start in (0, 3):
        lowered = rewards - beta * np.array([(e.old_logps - e.reference_logps).sum() for e in made[start : start + 3]])  # type: ignore[operator]
        expected = [lowered[i] - np.delete(lowered, i).mean() for i in range(3)]
        found = [example.advantages[0] for example in completed[start : start + 3]]  # type: ignore[index]
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_kl_is_in_one_place() -> None:
    for made, in_reward in (
        (RlooConfig(kl_coef=0.1), True),
        (RlooConfig(kl_coef=0.1, kl_in="loss"), False),
        (ReinforcePlusPlusConfig(kl_coef=0.1), True),
        (ReinforcePlusPlusConfig(kl_coef=0.1, baseline=True), False),
        (GrpoConfig(kl_coef=0.1), False),
    ):
        algorithm = made.build_objective()
        assert algorithm.needs_reference
        assert algorithm.needs_old_logps is in_reward
        assert algorithm.skips_zero_advantages is in_reward


def test_the_kl_clamp_bounds_one_token() -> None:
    import torch

    far, near = torch.tensor([-40.0, -1.0]), torch.tensor([-1.0, -1.5])
    assert kl(far, near, "k3", clamp=5.0).tolist() == pytest.approx([np.exp(5) - 6, np.exp(-0.5) + 0.5 - 1], rel=1e-5)


def test_configs_share_their_common_keys() -> None:
    common = set(PolicyConfig.model_fields)
    for name in ALGORITHM_NAMES:
        if name not in FROM_ROWS:
            assert common <= set(type(config(name)).model_fields)
