"""Config and its loading: recipes, flags, and an error for every way to get them wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from raylign.jobs.checks.doctor import DoctorConfig
from raylign.jobs.config.evaluate import EvaluateConfig
from raylign.jobs.config.keys import dotted_keys, models_in
from raylign.jobs.config.loading import ConfigError, config_yaml, load_config, parse_words, resolve
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.init_model import InitModelConfig
from raylign.jobs.quickstart import QuickstartConfig
from tests.jobs.stand_ins import config_of_recipe, shipped_recipes

REWARDS = ["--rewards", '[{"name": "exact"}]']


def from_words(*words: str, config_class: type[Any] = TrainConfig) -> Any:
    return resolve(config_class, parse_words(config_class, list(words), "raylign").layers)


def problems_of(*words: str, config_class: type[Any] = TrainConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_words(*words, config_class=config_class)
    return str(caught.value).split("\n")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text("name: sums\nseed: 3\nsampling:\n  max_tokens: 16\n  temperature: 0.7\nrewards:\n  - name: exact\n")
    return file


# merging


def test_flags_win_over_recipes_and_recipes_over_defaults(recipe: Path) -> None:
    config = from_words("--config", str(recipe), "--sampling.temperature", "0.9")
    assert config.sampling.temperature == 0.9
    assert config.sampling.max_tokens == 16
    assert config.sampling.num_completions == 8


def test_of_several_recipes_the_later_wins_and_sections_merge(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("sampling: {max_tokens: 32}\nrewards: [{name: numeric}, {name: exact, weight: 0.5}]\n")
    config = from_words("--config", str(recipe), "--config", str(other))
    assert (config.sampling.max_tokens, config.sampling.temperature) == (32, 0.7)
    assert [reward.name for reward in config.rewards] == ["numeric", "exact"]


def test_python_callers_give_files_and_nested_values(recipe: Path) -> None:
    config = load_config(TrainConfig, [recipe], {"seed": 5, "model": {"path": "somewhere"}})
    assert (config.seed, config.name, config.model.path) == (5, "sums", "somewhere")


def test_the_printed_config_gives_the_same_config_again(recipe: Path, tmp_path: Path) -> None:
    config = from_words("--config", str(recipe), "--evaluation.data.source", "rows.jsonl", "--learner.lora.rank", "4")
    printed = tmp_path / "printed.yaml"
    printed.write_text(config_yaml(config))
    assert from_words("--config", str(printed)) == config


@pytest.mark.parametrize(
    ("words", "value"),
    [(["--resume"], True), (["--resume", "true"], True), (["--resume", "false"], False), ([], False)],
)
def test_a_switch_works_with_and_without_its_value(words: list[str], value: bool) -> None:
    assert from_words(*words, *REWARDS).resume is value


def test_null_empties_an_optional_section_and_numbers_choose_a_stage(recipe: Path) -> None:
    config = from_words(
        *["--config", str(recipe), "--learner.lora", "null", "--learner.zero_stage", "2", "--data.reference", "null"]
    )
    assert config.learner.lora is None
    assert config.learner.zero_stage == 2
    assert config.data.reference is None


def test_the_default_algorithm_need_not_be_named_to_set_its_keys() -> None:
    assert from_words("--algorithm.clip_high", "0.3", *REWARDS).algorithm.clip_high == 0.3


def test_the_run_folder_takes_name_and_seed() -> None:
    config = from_words("--name", "x", "--seed", "4", "--folder", "out/{name}-{seed}", *REWARDS)
    assert config.folder == Path("out/x-4")
    assert from_words(*REWARDS).folder == Path("runs/run")


def test_every_shipped_recipe_is_valid() -> None:
    names = shipped_recipes()
    assert names
    for name in names:
        config = config_of_recipe(name)
        assert config.experiment_name if name.startswith("synthetic_rl") else config.name


def test_reasoning_puts_its_system_message_and_needs_the_format_reward() -> None:
    with pytest.raises(ConfigError, match=r"data.reasoning is true and rewards lack format"):
        from_words("--data.reasoning", *REWARDS)
    both = '[{"name": "bleu"}, {"name": "format"}]'
    config = from_words("--data.reasoning", "--rewards", both)
    assert config.data.system is not None and "<think>" in config.data.system and "<answer>" in config.data.system
    assert load_config(TrainConfig, [], config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="give it or `system`"):
        from_words("--data.reasoning", "--data.system", "be brief", "--rewards", both)


def configs_within(config_class: type[BaseModel]) -> set[type[BaseModel]]:
    inside = [sub for info in config_class.model_fields.values() for sub in models_in(info.annotation)]
    return {config_class}.union(*(configs_within(sub) for sub in inside))


def all_config_classes() -> Sequence[type[BaseModel]]:
    roots = (TrainConfig, EvaluateConfig, InitModelConfig, QuickstartConfig, DoctorConfig)
    return sorted(set().union(*(configs_within(root) for root in roots)), key=lambda each: each.__name__)


@pytest.mark.parametrize("config_class", all_config_classes(), ids=lambda each: each.__name__)
def test_every_key_has_a_sentence_and_unknown_keys_fail(config_class: type[BaseModel]) -> None:
    assert config_class.model_config.get("extra") == "forbid"
    for name, info in config_class.model_fields.items():
        if name != "name" and (not models_in(info.annotation) or "list" in str(info.annotation)):
            assert info.description and len(info.description) > 8, f"{config_class.__name__}.{name} has no sentence"


# wrong input


def test_a_misspelt_key_in_a_recipe_names_file_line_and_the_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: 1\nsampling:\n  temprature: 0.5\nrewards: [{name: exact}]\n")
    assert problems_of("--config", str(file)) == [
        f"{file}:3: sampling.temprature: unknown key; did you mean sampling.temperature?"
    ]


def test_a_key_in_the_wrong_section_is_found_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rate: 1e-3\nrewards: [{name: exact}]\n")
    assert problems_of("--config", str(file)) == [
        f"{file}:1: learning_rate: unknown key; did you mean learner.learning_rate?"
    ]


def test_a_misspelt_key_of_a_reward_is_found_in_its_list_item(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("rewards:\n  - name: exact\n  - name: numeric\n    tolerence: 0.1\n")
    assert problems_of("--config", str(file)) == [
        f"{file}:4: rewards.1.tolerence: unknown key; did you mean rewards.1.tolerance?"
    ]


def test_an_unknown_reward_or_algorithm_is_answered_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("rewards:\n  - name: exat\nalgorithm:\n  name: gropo\n")
    reward, algorithm = sorted(problems_of("--config", str(file)), reverse=False)
    assert reward.startswith(f"{file}:2: rewards.0: unknown reward 'exat'; did you mean 'exact'?")
    assert algorithm.startswith(f"{file}:3: algorithm: unknown algorithm 'gropo'; did you mean 'grpo'?")


def test_a_misspelt_flag_is_answered_with_the_nearest() -> None:
    assert problems_of("--samplng.temperature", "1", "--temperature", "2") == [
        "--samplng.temperature: unknown option; did you mean --sampling.temperature?",
        "--temperature: unknown option; did you mean --sampling.temperature?",
    ]


def test_a_beginning_of_a_flag_is_not_taken_for_the_flag() -> None:
    assert problems_of("--see", "1")[0].startswith("--see: unknown option; did you mean --seed?")


def test_wrong_types_and_ranges_are_listed_together_with_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: -1\nrewards: [{name: exact}]\nlearner:\n  layout: dense\n")
    assert set(problems_of("--config", str(file), "--sampling.max_tokens", "many", "--learner.lora.rank", "0")) == {
        f"{file}:1: seed: -1 is not allowed, it should be greater than or equal to 0",
        f"{file}:4: learner.layout: 'dense' is not allowed, it should be 'auto', 'padded' or 'packed'",
        "--sampling.max_tokens: 'many' is not allowed, it should be a valid integer, unable to parse string as an "
        "integer",
        "--learner.lora.rank: '0' is not allowed, it should be greater than or equal to 1",
    }


@pytest.mark.parametrize(
    "words",
    [
        ("grpo", *REWARDS),
        ("sail", "--algorithm.dpp.share", "0.1", "--sampling.num_completions", "2", "--async.stale", "drop"),
        ("bdr_online", "--trusted_data.source", "rows.jsonl"),
    ],
)
def test_dropout_in_adapters_is_refused_where_answers_of_the_policy_are_learned_from(words: Sequence[str]) -> None:
    (problem,) = problems_of("--algorithm.name", *words, "--learner.lora.dropout", "0.1")
    assert "learner.lora.dropout is 0.1" in problem and "engines sample without dropout" in problem


@pytest.mark.parametrize("name", ["sft", "dpo", "ipo", "bonbon", "sail"])
def test_dropout_in_adapters_is_allowed_where_rows_are_learned_from(name: str) -> None:
    assert from_words("--algorithm.name", name, "--learner.lora.dropout", "0.1").learner.lora.dropout == 0.1


def test_a_value_that_fits_no_kind_of_a_union_gets_one_line() -> None:
    (problem,) = problems_of("--learner", '{"threads_per_rank": "few"}', *REWARDS)
    assert "integer" in problem and "'auto'" in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", "2: not valid YAML: "),
        ("seed: 1\nname: x\nseed: 2\n", "3: seed is given twice, first in "),
        ("- seed\n", " expected `key: value` lines, found list"),
    ],
)
def test_a_broken_recipe_names_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert problems_of("--config", str(file))[0].startswith(f"{file}:{said}")


def test_a_missing_recipe_is_answered_with_those_that_come_along() -> None:
    (problem,) = problems_of("--config", "grpo_arithmetics")
    assert problem.startswith("--config grpo_arithmetics: no such file; did you mean the recipe grpo_arithmetic?")


def test_a_list_that_is_no_json_says_so() -> None:
    (problem,) = problems_of("--rewards", '[{"name": "exact"')
    assert "JSON" in problem


def test_a_flag_without_value_says_so() -> None:
    assert problems_of("--seed") == ["--seed: expected one argument"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "rewards is empty: grpo needs at least one"),
        ([*REWARDS, "--sampling.temperature", "0"], "sampling.temperature is 0: training samples"),
        ([*REWARDS, "--sampling.num_completions", "1"], "sampling.num_completions is 1: advantages compare"),
        (
            [*REWARDS, "--sampling.max_tokens", "512"],
            "sampling.max_tokens is 512: with rollout.engine.max_model_len = ",
        ),
        ([*REWARDS, "--learner.micro_batch_tokens", "100"], "learner.micro_batch_tokens is 100: one sequence may have"),
        ([*REWARDS, "--learner.warmup_steps", "101"], "learner.warmup_steps is 101: more than num_steps = 100"),
        (
            [*REWARDS, "--algorithm.num_updates", "9", "--rollout.prompts_per_step", "1"],
            "algorithm.num_updates is 9: a step has only 8 completions",
        ),
        (
            [*REWARDS, "--evaluation.data.split", "test", "--evaluation.num_completions", "4"],
            "evaluation.num_completions is 4: with temperature 0 all completions are the same",
        ),
        (
            ["--algorithm.name", "sft", "--evaluation.data.split", "test"],
            "evaluation.rewards is empty: without training rewards",
        ),
        ([*REWARDS, "--folder", "runs/{nam}"], "folder is runs/{nam}: only {name} and {seed} can be filled in"),
    ],
)
def test_keys_that_contradict_each_other_are_named(words: list[str], said: str) -> None:
    (problem,) = problems_of(*words)
    assert problem.startswith(said)


def test_contradictions_are_listed_together() -> None:
    assert len(problems_of("--sampling.temperature", "0", "--sampling.max_tokens", "600")) == 3


def test_supervised_training_needs_no_rewards_and_no_groups() -> None:
    assert from_words("--algorithm.name", "sft", "--sampling.num_completions", "1").algorithm.name == "sft"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "rewards is empty: at least one must say what is measured"),
        ([*REWARDS, "--pass_at", "1,4"], "pass_at holds 4: allowed are 1 to sampling.num_completions = 1"),
        ([*REWARDS, "--sampling.num_completions", "2"], "sampling.num_completions is 2: with temperature 0"),
        ([*REWARDS, "--engine.max_model_len", "64"], "sampling.max_tokens is 64: with engine.max_model_len = 64"),
    ],
)
def test_an_evaluation_that_cannot_work_is_refused(words: list[str], said: str) -> None:
    (problem,) = problems_of(*words, config_class=EvaluateConfig)
    assert problem.startswith(said)


def test_an_evaluation_stays_greedy_when_another_sampling_key_is_set() -> None:
    config = from_words(*REWARDS, "--sampling.max_tokens", "16", config_class=EvaluateConfig)
    assert (config.sampling.temperature, config.sampling.num_completions) == (0.0, 1)


def test_dotted_keys_are_what_flags_may_set() -> None:
    keys = dotted_keys(TrainConfig)
    assert {"seed", "rollout.engine.max_model_len", "algorithm.clip_high", "learner.lora.rank", "rewards"} <= set(keys)
    assert not any(key.startswith("rewards.") for key in keys)


# asynchronous runs


def test_a_negative_bound_is_refused() -> None:
    assert problems_of("--async.max_staleness", "-1", *REWARDS) == [
        "--async.max_staleness: '-1' is not allowed, it should be greater than or equal to 0"
    ]


def test_a_deterministic_run_cannot_be_asynchronous() -> None:
    (problem,) = problems_of("--rollout.deterministic", "--async.max_staleness", "1", *REWARDS)
    assert "set async.max_staleness to 0" in problem
    assert from_words("--rollout.deterministic", "--async.max_staleness", "0", *REWARDS).asynchrony.max_staleness == 0


def test_an_algorithm_that_cannot_use_stale_samples_says_so() -> None:
    words = ("--algorithm.name", "rloo", "--algorithm.correction.kind", "none", *REWARDS)
    (problem,) = problems_of(*words, "--async.max_staleness", "2")
    assert problem.startswith("async.max_staleness is 2 and algorithm.correction.kind is none: rloo's gradient")
    from_words(*words, "--async.max_staleness", "0")


def test_a_byte_budget_smaller_than_one_group_is_refused() -> None:
    (problem,) = problems_of("--experience.max_unread_mib", "0.001", *REWARDS)
    assert problem.startswith("experience.max_unread_mib is 0.001: one group of 8 completions of 64 tokens may take")


def test_a_replay_needs_an_algorithm_that_learns_from_rollouts() -> None:
    (problem,) = problems_of("--algorithm.name", "sft", "--replay", "runs/old")
    assert problem == "replay is runs/old: sft learns from the rows themselves, not from rollouts"


def test_the_section_async_is_written_and_read_like_any_other() -> None:
    config = from_words("--async.max_staleness", "3", *REWARDS)
    assert "async:\n  max_staleness: 3\n" in config_yaml(config)
    assert "async.max_staleness" in dotted_keys(TrainConfig)
    assert config.model_dump()["async"] == {"max_staleness": 3, "stale": "mask"}  # as in config.yaml of run folders
    (problem,) = problems_of("--async.max_stalenes", "3", *REWARDS)
    assert problem == "--async.max_stalenes: unknown option; did you mean --async.max_staleness?"


def test_the_section_async_has_one_name_in_recipes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("rewards: [{name: exact}]\nasync: {max_stalenes: 3}\n")
    assert problems_of("--config", str(file)) == [
        f"{file}:2: async.max_stalenes: unknown key; did you mean async.max_staleness?"
    ]
    file.write_text("rewards: [{name: exact}]\nasynchrony: {max_staleness: 3}\n")
    (problem,) = problems_of("--config", str(file))
    assert problem.startswith(f"{file}:2: asynchrony: unknown key")


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../../tmp/x", "a\nb", "x" * 300, "{foo}", " ", " a", "a\x1bb"])
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    for config_class, recipe in ((TrainConfig, "grpo_arithmetic"), (EvaluateConfig, "evaluate_arithmetic")):
        with pytest.raises(ConfigError, match=r"name is .*; it names a folder"):
            load_config(config_class, [recipe], {"name": name})


def test_letters_of_every_script_and_spaces_inside_are_names() -> None:
    assert load_config(TrainConfig, ["grpo_arithmetic"], {"name": "größe 2\u65e5"}).folder == Path("runs/größe 2\u65e5")


def test_what_a_later_layer_replaces_is_blamed_on_that_layer(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower.yaml", tmp_path / "upper.yaml"
    lower.write_text("rewards:\n  - name: numeric\n    tolerance: 0.1\ndata:\n  source: a\n")
    upper.write_text("\nrewards:\n\n  - name: nonesuch\n")
    with pytest.raises(ConfigError, match=rf"^{upper}:4: rewards\.0.* 'nonesuch'"):
        load_config(TrainConfig, [lower, upper])
    flags = parse_words(TrainConfig, ["--config", str(lower), "--rewards", '[{"name":"nonesuch"}]'], "raylign train")
    with pytest.raises(ConfigError, match=r"^--rewards: rewards\.0"):
        resolve(TrainConfig, flags.layers)
    flags = parse_words(TrainConfig, ["--config", str(lower), "--data.rows", "x"], "raylign train")
    with pytest.raises(ConfigError, match=r"^--data|^data"):
        resolve(TrainConfig, flags.layers)


def test_keys_that_are_no_words_and_merged_sections_have_places_too(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("1: x\nlearner: &a\n  learning_rate: y\nmodel:\n  <<: *a\n")
    with pytest.raises(ConfigError, match=rf"{file}:3: learner.learning_rate: .y. is not allowed"):
        load_config(TrainConfig, [file])


def test_a_folder_in_the_place_of_a_recipe_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"a folder; name a file in it: mine\.yaml"):
        load_config(TrainConfig, [tmp_path])
