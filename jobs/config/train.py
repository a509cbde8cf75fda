"""The configuration of a training run, composed of the configs of the parts.

Given the config classes that stand beside the parts; gives `TrainConfig`, checked across fields. Imports no heavy
library, so a wrong key is reported in well under a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.actors.weights.config import WeightsConfig
from raylign.jobs.config.sections import (
    AsyncConfig,
    CheckpointConfig,
    EvaluationConfig,
    ModelConfig,
    RolloutConfig,
    Section,
)
from raylign.jobs.config.shared_checks import all_the_same, filled_folder, no_room_words, raise_together
from raylign.jobs.config.trackers import TrackersConfig
from raylign.learners.algorithms.facts import RunFacts
from raylign.learners.algorithms.registry import AlgorithmConfig, default_algorithm, names_with
from raylign.learners.engines.config import LearnerConfig
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig, MoreDataConfig
from raylign.rollout.data.shares import shares_problem
from raylign.rollout.experience.types import ExperienceConfig
from raylign.rollout.sampling import SamplingConfig, why_untrainable

BYTES_PER_TOKEN = 8
"""Of a completion in the experience log: its id and its log-prob."""


class TrainConfig(Section, serialize_by_alias=True):
    """One training run."""

    first_keys: ClassVar[tuple[str, ...]] = (
        "name", "resume", "seed", "model.path", "data.source", "data.prompt", "data.rows", "algorithm.name", "rewards",
        "num_steps", "num_epochs", "rollout.prompts_per_step", "sampling.num_completions", "sampling.max_tokens",
        "rollout.engine.max_model_len", "learner.learning_rate", "learner.lora.rank", "rollout.num_engines",
        "learner.num_ranks", "async.max_staleness", "evaluation.every_steps", "checkpoints.every_steps",
    )  # fmt: skip
    """What `--help` begins with."""

    name: str = Field("run", min_length=1)
    """Name of the run, for its folder and the trackers."""
    folder: Path = Path("runs/{name}")
    """Run folder; `{name}` and `{seed}` are filled in."""
    resume: bool = False
    """Go on from the last checkpoint in the run folder."""
    replay: Path | None = None
    """Folder of a run whose recorded experience is trained on, in its order, without any engine; empty: generate."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides the order of prompts, the sampling and the initial adapters."""
    num_steps: int = Field(100, ge=1)
    """Steps of the run: one batch of prompts or rows each."""
    num_epochs: float | None = Field(None, gt=0)
    """Passes over the data, in place of num_steps; for sail, over the rows that keep the data's answers and label."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    more_data: list[MoreDataConfig] = Field([])
    """Further sources of preference pairs beside `data` (dpo, ipo, bonbon, sail, reward_model), each with its keys and
    its `share`."""
    trusted_data: DataConfig | None = None
    """Rows known to be good, which decide the weights of those of `data` (bdr, bdr_online)."""
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    asynchrony: AsyncConfig = Field(AsyncConfig(), alias="async")  # `async` is a word of Python
    experience: ExperienceConfig = ExperienceConfig()
    rewards: list[RewardConfig] = Field([])
    """What is rewarded; the total is the weighted sum."""
    algorithm: AlgorithmConfig = default_algorithm()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    trackers: TrackersConfig = TrackersConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(_train_problems(self))
        return self


def _train_problems(config: TrainConfig) -> Iterator[str]:
    engine, sampling, learner, algorithm = config.rollout.engine, config.sampling, config.learner, config.algorithm
    yield from algorithm.problems(facts_of(config))
    yield from _trusted_problems(config)
    if config.more_data and algorithm.curriculum != "pairs":
        yield f"more_data is set: {algorithm.name} does not learn from preference pairs, and has one source"
    if why := shares_problem([each.share for each in config.more_data]):
        yield why
    if why := why_untrainable(sampling):
        yield why
    if algorithm.needs_rollouts:
        yield from _rollout_problems(config)
    elif config.replay:
        yield f"replay is {config.replay}: {algorithm.name} learns from the rows themselves, not from rollouts"
    if learner.lora is not None and learner.lora.dropout and generates_for_training(config):
        yield (
            f"learner.lora.dropout is {learner.lora.dropout:g}: {algorithm.name} learns here from answers that "
            "the policy sampled, and engines sample without dropout, so the learner's log-probs would not be theirs; "
            "set it to 0"
        )
    if sampling.max_tokens >= engine.max_model_len:
        yield no_room_words(sampling.max_tokens, "rollout.engine.max_model_len", engine.max_model_len)
    if learner.micro_batch_tokens != "auto" and learner.micro_batch_tokens < engine.max_model_len:
        yield (
            f"learner.micro_batch_tokens is {learner.micro_batch_tokens}: one sequence may have "
            f"rollout.engine.max_model_len = {engine.max_model_len} tokens and must fit"
        )
    if config.num_epochs is None and learner.warmup_steps > config.num_steps:
        yield f"learner.warmup_steps is {learner.warmup_steps}: more than num_steps = {config.num_steps}"
    yield from _autoscale_problems(config)
    yield from _evaluation_problems(config)


def _autoscale_problems(config: TrainConfig) -> Iterator[str]:
    policy, num_engines = config.rollout.autoscale, config.rollout.num_engines
    if policy is None:
        return
    if not config.algorithm.needs_rollouts or config.replay or config.asynchrony.max_staleness == 0:
        yield (
            "rollout.autoscale is set: it goes by who waits for whom, which says something only where engines generate "
            "while the learner trains (async.max_staleness above 0)"
        )
    if not policy.min_engines <= num_engines <= policy.max_engines:
        yield (
            f"rollout.num_engines is {num_engines}: the run begins with it, so it must lie within rollout.autoscale's "
            f"{policy.min_engines} and {policy.max_engines}"
        )


def facts_of(config: TrainConfig) -> RunFacts:
    """What an algorithm's config checks itself against."""
    return RunFacts(
        sampling=config.sampling,
        prompts_per_step=config.rollout.prompts_per_step,
        max_staleness=config.asynchrony.max_staleness,
        drops_stale=config.asynchrony.stale == "drop",
        replay=str(config.replay) if config.replay else None,
    )


def _rollout_problems(config: TrainConfig) -> Iterator[str]:
    sampling, algorithm = config.sampling, config.algorithm
    if algorithm.needs_rewards and not config.rewards and not config.replay:
        yield f"rewards is empty: {algorithm.name} needs at least one"
    if config.data.reasoning and algorithm.needs_rewards and all(reward.name != "format" for reward in config.rewards):
        yield (
            "data.reasoning is true and rewards lack format: nothing would hold the answers to the tags; add "
            '{"name": "format"} to rewards'
        )
    if sampling.temperature == 0:
        yield "sampling.temperature is 0: training samples its completions, so it must be above 0"
    if sampling.num_completions < algorithm.min_group_size:
        yield (
            f"sampling.num_completions is {sampling.num_completions}: advantages compare the completions "
            "of one prompt, so at least 2 are needed"
        )
    if config.rollout.deterministic and config.asynchrony.max_staleness > 0:
        yield (
            f"rollout.deterministic is true and async.max_staleness is {config.asynchrony.max_staleness}: what is "
            "sampled then depends on when weights arrive; set async.max_staleness to 0"
        )
    group_bytes = sampling.num_completions * sampling.max_tokens * BYTES_PER_TOKEN
    if group_bytes > config.experience.max_unread_mib * 2**20:
        yield (
            f"experience.max_unread_mib is {config.experience.max_unread_mib}: one group of "
            f"{sampling.num_completions} completions of {sampling.max_tokens} tokens may take "
            f"{group_bytes / 2**20:.2f} MiB"
        )


def _evaluation_problems(config: TrainConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.pairs is not None and config.algorithm.curriculum != "pairs":
        yield f"evaluation.pairs is set: {config.algorithm.name} does not learn from preference pairs"
    if evaluation.more_pairs and evaluation.pairs is None:
        yield "evaluation.more_pairs is set and evaluation.pairs is not: make the first of them evaluation.pairs"
    if evaluation.data is not None:
        if evaluation.temperature == 0 and evaluation.num_completions > 1:
            yield all_the_same("evaluation", evaluation.num_completions)
        if not (evaluation.rewards or config.rewards):
            yield "evaluation.rewards is empty: without training rewards it must say what is measured"


def answers_rows(config: TrainConfig) -> bool:
    """Whether engines answer questions of rows beside the training."""
    return config.algorithm.refresh is not None


def generates_for_training(config: TrainConfig) -> bool:
    """Whether steps learn from answers of the policy."""
    return config.algorithm.needs_rollouts or answers_rows(config)


def generates_anything(config: TrainConfig) -> bool:
    """Whether a run needs engines: for training, or to answer held-out prompts."""
    return generates_for_training(config) or config.evaluation.data is not None


def _trusted_problems(config: TrainConfig) -> Iterator[str]:
    is_needed, name = config.algorithm.trusted_kind is not None, config.algorithm.name
    if is_needed and config.trusted_data is None:
        yield (
            f"trusted_data is empty: {name} weighs the rows of `data` by those of `trusted_data`, the small, clean set"
        )
    for key, value in (("trusted_data", config.trusted_data), ("evaluation.trusted", config.evaluation.trusted)):
        if value is not None and not is_needed:
            yield f"{key} is set: {name} does not read it; only {' and '.join(names_with('two_levels'))} do"
    if answers_rows(config) and config.sampling.temperature == 0:
        yield "sampling.temperature is 0: answers of the policy are sampled, so it must be above 0"
