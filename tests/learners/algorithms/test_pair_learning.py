"""Preference pairs through the real learner: SAIL without routes is DPO, references are kept, routes are pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raylign.learners.algorithms.preference.dpo import DpoConfig
from raylign.learners.algorithms.preference.pairs import PairConfig, PairObjective
from raylign.learners.algorithms.preference.reward_model import RewardModelTrainingConfig
from raylign.learners.algorithms.preference.sail import SailConfig
from raylign.learners.algorithms.preference.sail_routing import DATA, DDP, DPP, DPR, RouteDraws
from raylign.learners.algorithms.registry import AnyAlgorithmConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.learners.engines.non_finite import NonFiniteError
from raylign.learners.examples.example import Example
from raylign.learners.examples.micro_batch import micro_batches, plan_for, shard, units_of
from raylign.learners.learner import Learner
from raylign.rollout.sample import PreferencePair
from tests.learners.algorithms.pair_cases import random_groups, random_pairs

SETTINGS = LearnerConfig(learning_rate=1e-2, threads_per_rank=1)


def learner_of(config: AnyAlgorithmConfig, model: Path, out: Path, cache: Path | None = None) -> Learner:
    return Learner(SETTINGS, str(model), config.build_objective(), 1.0, 4, 0, out, 0, cache)


def pair_examples(learner: Learner, pairs: list[PreferencePair], is_training: bool = True) -> list[Example]:
    assert isinstance(learner.objective, PairObjective)
    config: PairConfig = learner.objective.config
    return config.build_examples(0, 7).from_pairs(pairs, is_training)


def trained(learner: Learner, updates: int = 2) -> tuple[list[dict[str, float]], np.ndarray]:
    examples = pair_examples(learner, random_pairs())
    metrics = [learner.update(examples) for _ in range(updates)]
    return metrics, np.concatenate([tensor.flatten().numpy() for _, tensor in learner.weights()])


def test_sail_without_routes_is_dpo_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    dpo_metrics, dpo = trained(learner_of(DpoConfig(), tiny_model, tmp_path))
    sail_metrics, sail = trained(learner_of(SailConfig(), tiny_model, tmp_path))
    assert np.array_equal(dpo, sail)
    for one, other in zip(dpo_metrics, sail_metrics, strict=True):
        assert one["learner/loss"] == other["learner/loss"]
        assert one["preference/margin"] == other["preference/margin"]


def test_dpo_learns_to_rank_the_pairs_it_sees(tiny_model: Path, tmp_path: Path) -> None:
    metrics, _ = trained(learner_of(DpoConfig(), tiny_model, tmp_path), updates=4)
    assert metrics[0]["learner/loss"] == pytest.approx(np.log(2), rel=1e-5), (
        "policy and reference are the same at first"
    )
    assert metrics[-1]["learner/loss"] < metrics[0]["learner/loss"]
    assert metrics[-1]["preference/accuracy"] > 0.8


def test_the_reference_runs_once_a_row_and_never_again(tiny_model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "reference"
    first_metrics, first = trained(learner_of(DpoConfig(), tiny_model, tmp_path, cache))
    again = learner_of(DpoConfig(), tiny_model, tmp_path, cache)
    again_metrics, second = trained(again)
    assert not again._reference.is_loaded, "all rows are known, so the reference was never loaded"
    assert np.array_equal(first, second)
    assert [line["learner/loss"] for line in first_metrics] == [line["learner/loss"] for line in again_metrics]


def test_a_loss_that_overflows_names_the_rows_and_stops_before_the_optimizer_moves(
    tiny_model: Path, tmp_path: Path
) -> None:
    learner = learner_of(DpoConfig(), tiny_model, tmp_path / "debug")
    before = np.concatenate([tensor.flatten().numpy().copy() for _, tensor in learner.weights()])
    pairs = random_pairs()
    pairs[4] = replace(pairs[4], probability=float("inf"))
    with pytest.raises(NonFiniteError, match=r"loss not finite at optimizer step 0.*\(rows .*\b4\b"):
        learner.update(pair_examples(learner, pairs))
    assert np.array_equal(before, np.concatenate([tensor.flatten().numpy() for _, tensor in learner.weights()]))
    assert list((tmp_path / "debug").iterdir()), "the batch is saved"


def test_held_out_pairs_are_evaluated_without_a_step(tiny_model: Path, tmp_path: Path) -> None:
    learner = learner_of(DpoConfig(), tiny_model, tmp_path)
    before = np.concatenate([tensor.flatten().numpy().copy() for _, tensor in learner.weights()])
    metrics = learner.evaluate(pair_examples(learner, random_pairs(), is_training=False))
    assert metrics["learner/loss"] == pytest.approx(np.log(2), rel=1e-5)
    after = np.concatenate([tensor.flatten().numpy() for _, tensor in learner.weights()])
    assert np.array_equal(before, after)


def test_a_reward_model_is_saved_so_that_transformers_gives_the_same_scores(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    learner = learner_of(RewardModelTrainingConfig(), tiny_model, tmp_path)
    metrics, _ = trained(learner, updates=4)
    assert (
        metrics[-1]["preference/accuracy"] > metrics[0]["preference/accuracy"] or metrics[0]["preference/accuracy"] == 1
    )
    learner.save_model(tmp_path / "scorer")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer")
    assert model.config.num_labels == 1
    pair = random_pairs(1)[0]
    whole = torch.tensor(np.concatenate([pair.prompt.token_ids, pair.chosen_ids])).long()[None]
    with torch.no_grad():
        expected = model.score(model.model(whole).last_hidden_state[0, -1]).item()
    example = pair_examples(learner, [pair])[0]
    assert learner.logprobs([example])[0][-1] == pytest.approx(expected, rel=1e-4)


def test_pairs_stay_together_in_every_split() -> None:
    examples = DpoConfig().build_examples().from_pairs(random_pairs(9))
    for layout in ("padded", "packed"):
        for ranks in (1, 2, 3):
            shares = [shard(examples, rank, ranks) for rank in range(ranks)]
            assert sorted(index for share in shares for index in share) == list(range(18))
            for share in shares:
                for part in plan_for(examples, share, 30, layout):  # type: ignore[arg-type]
                    assert all(len(unit) == 2 for unit in units_of([examples[i] for i in part]))
        for batch in micro_batches(examples, 30, layout):  # type: ignore[arg-type]
            sides = torch.zeros(batch.num_units).index_add(0, batch.unit_index, batch.facts["side"])
            assert sides.tolist() == [0.0] * batch.num_units


def test_routes_have_their_shares_and_depend_on_nothing_but_seed_and_ordinal() -> None:
    draws = RouteDraws(5, 50, [0.4, 0.3, 0.2])
    routes = [draws.route(ordinal) for ordinal in range(10_000)]
    assert np.bincount(routes) / 10_000 == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.015)
    again = RouteDraws(5, 50, [0.4, 0.3, 0.2])
    assert [again.route(ordinal) for ordinal in reversed(range(10_000))] == routes[::-1]
    assert {DATA, DDP, DPP, DPR} == set(routes)


def test_generated_rows_are_numbered_by_themselves_and_none_is_lost() -> None:
    draws = RouteDraws(5, 50, [0.1, 0.3, 0.2])
    assert [draws.generated_before(step) for step in (0, 1)] == [0, 50 - len(draws.kept_rows(0))]
    generated = [draws.row_of(number) for number in range(draws.generated_before(20))]
    kept = [ordinal for step in range(20) for ordinal in draws.kept_rows(step)]
    assert sorted(generated + kept) == list(range(20 * 50))


def test_rewards_decide_which_answer_of_the_policy_is_the_better_one() -> None:
    config = SailConfig.model_validate({"dpr": {"share": 0.9, "coefficient": 0.3}})
    groups = random_groups(4)
    examples = config.build_examples(0, 12).from_groups(groups)
    for number, group in enumerate(groups):
        better = 1 if number % 2 else 0  # fixture: the second answer of odd groups; ties keep their order
        chosen = next(e for e in examples if e.unit == number and e.facts["side"] > 0)
        assert np.array_equal(chosen.completion_ids, group.completions[better].token_ids)
        assert chosen.facts["route"] == DPR


def test_groups_without_two_whole_scored_answers_make_no_pair() -> None:
    config = SailConfig.model_validate({"dpr": {"share": 0.9, "coefficient": 0.3}})
    whole, unscored, empty, aborted = random_groups(4)
    unscored = replace(unscored, total_rewards=np.array([np.nan, 1.0], np.float32))
    empty = replace(empty, completions=(), total_rewards=None)
    first, second = aborted.completions
    aborted = replace(aborted, completions=(first, replace(second, stop_reason="aborted")))
    examples = config.build_examples(0, 12).from_groups([whole, unscored, empty, aborted])
    assert [example.unit for example in examples] == [0, 0]


def test_the_baseline_follows_and_is_kept_in_checkpoints() -> None:
    config = SailConfig.model_validate({"dpr": {"share": 0.5, "coefficient": 0.3}, "baseline": "mean"})
    algorithm = config.build_objective()
    examples = config.build_examples(0, 12).from_groups(random_groups(2))
    algorithm.after_step(examples, [-1.0] * len(examples))
    expected = 0.9 * np.log(0.5) + 0.1 * -1.0
    assert algorithm.state()["baseline"] == pytest.approx(expected)
    other = config.build_objective()
    other.load_state(algorithm.state())
    assert other.state() == algorithm.state()
