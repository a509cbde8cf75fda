"""The configuration of a training run and of an evaluation, composed of the configs of the parts.

Given the config classes that stand beside the parts; gives `TrainConfig` and `EvaluateConfig`, checked across
fields. Imports no heavy library, so a wrong key is reported in well under a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from raylign.actors.cluster import ClusterConfig
from raylign.actors.weights.config import WeightsConfig
from raylign.jobs.config.trackers import TrackersConfig
from raylign.learners.algorithms.bilevel.two_levels import TwoLevelConfig
from raylign.learners.algorithms.policy_gradient.grpo import GrpoConfig
from raylign.learners.algorithms.policy_gradient.policy import PolicyConfig
from raylign.learners.algorithms.preference.sail import SailConfig
from raylign.learners.algorithms.registry import AlgorithmConfig
from raylign.learners.algorithms.rows import RowConfig
from raylign.learners.engines.config import LearnerConfig
from raylign.rewards.registry import RewardConfig
from raylign.rollout.data.config import DataConfig
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.experience.types import ExperienceConfig
from raylign.rollout.sampling import SamplingConfig

BYTES_PER_TOKEN = 8
"""Of a completion in the experience log: its id and its log-prob."""


class Section(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Base of all sections: unknown keys fail, and every field has a sentence."""


class ModelConfig(Section):
    """Which model is trained."""

    path: str = "models/tiny"
    """Folder or Hugging Face id of the model to start from."""


class RolloutConfig(Section):
    """How many engines generate, and how much for one step."""

    num_engines: int = Field(1, ge=1)
    """vLLM engines, each an actor of its own."""
    prompts_per_step: int = Field(32, ge=1)
    """Prompts of one step; for algorithms that learn from rows, rows of one step (bdr: of each of its two sets)."""
    deterministic: bool = False
    """A seed for every completion and a fixed schedule: two runs with one seed give the same numbers."""
    answer_deadline_s: float = Field(1800, gt=0)
    """How long one prompt may take from its start to its last completion and reward."""
    engine: EngineConfig = EngineConfig()


class AsyncConfig(Section):
    """How far rollouts may run ahead of the learner."""

    max_staleness: int = Field(2, ge=0)
    """η: a token may be trained at most so many weight versions after the one it was sampled from; 0: rollouts and
    learner take turns, strictly on-policy."""
    stale: Literal["mask", "drop"] = "mask"
    """What happens to a token beyond the bound: mask leaves it out of the loss and keeps the rest of its completion;
    drop drops its whole group and generates the prompt again. Both are counted."""


class EvaluationConfig(Section):
    """Measuring the policy on held-out rows during a training run."""

    data: DataConfig | None = None
    """Prompts that the run never trains on, to be answered; empty: none."""
    pairs: DataConfig | None = None
    """Preference pairs that the run never trains on (dpo, ipo, bonbon, sail, reward_model); empty: none."""
    trusted: DataConfig | None = None
    """Trusted rows that the run never trains on (bdr, bdr_online); empty: none."""
    num_prompts: int = Field(200, ge=1)
    """Prompts, pairs and trusted rows to evaluate on, so many of each; all of them where there are fewer."""
    num_completions: int = Field(1, ge=1)
    """Completions for each prompt."""
    temperature: float = Field(0.0, ge=0.0)
    """Sampling temperature; 0 is greedy."""
    every_steps: int = Field(0, ge=0)
    """Evaluate every so many steps; 0: only before the first and after the last."""
    rewards: list[RewardConfig] = []
    """What is measured; empty: the rewards of training."""
    correct_from: float = 1.0
    """A completion counts as correct when its total reward is at least this."""


class CheckpointConfig(Section):
    """When the policy is saved."""

    every_steps: int = Field(50, ge=0)
    """Save every so many steps; 0: only after the last."""
    keep_last: int = Field(2, ge=1)
    """Older checkpoints are removed."""


class TrainConfig(Section, serialize_by_alias=True):
    """One training run."""

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
    trusted_data: DataConfig | None = None
    """Rows known to be good, which decide the weights of those of `data` (bdr, bdr_online)."""
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    asynchrony: AsyncConfig = Field(AsyncConfig(), alias="async")  # `async` is a word of Python
    experience: ExperienceConfig = ExperienceConfig()
    rewards: list[RewardConfig] = []
    """What is rewarded; the total is the weighted sum."""
    algorithm: AlgorithmConfig = GrpoConfig()
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


class GreedySamplingConfig(SamplingConfig):
    """How completions are sampled in an evaluation: one greedy answer unless asked for more."""

    temperature: float = Field(0.0, ge=0.0)
    """Logits are divided by this before the softmax; 0 means greedy."""
    num_completions: int = Field(1, ge=1)
    """Completions for each prompt; as many as the largest k of pass@k, with a temperature above 0."""


class EvaluateConfig(Section):
    """One evaluation of one model on one data source."""

    name: str = Field("evaluation", min_length=1)
    """Name of the evaluation, for its folder."""
    folder: Path = Path("runs/{name}")
    """Folder for the results; `{name}` and `{seed}` are filled in."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Decides which rows are taken and the sampling."""
    model: str = "models/tiny"
    """Model folder, checkpoint folder, run folder (its last checkpoint) or Hugging Face id."""
    data: DataConfig = DataConfig()
    num_prompts: int | None = Field(None, ge=1)
    """Rows to evaluate on; empty: all."""
    sampling: GreedySamplingConfig = GreedySamplingConfig()
    rewards: list[RewardConfig] = []
    """What is measured; the total is the weighted sum."""
    correct_from: float = 1.0
    """A completion counts as correct when its total reward is at least this."""
    pass_at: list[int] = [1]
    """The k of pass@k; none may exceed `sampling.num_completions`."""
    num_engines: int = Field(1, ge=1)
    """vLLM engines that share the rows."""
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        self.folder = filled_folder(self.folder, self.name, self.seed)
        raise_together(_evaluate_problems(self))
        return self


def _train_problems(config: TrainConfig) -> Iterator[str]:
    engine, sampling, learner, evaluation = (
        config.rollout.engine,
        config.sampling,
        config.learner,
        config.evaluation,
    )
    if isinstance(config.algorithm, SailConfig):
        yield from _sail_problems(config, config.algorithm)
    yield from _level_problems(config)
    if config.algorithm.needs_rollouts:
        needs_rewards = not isinstance(config.algorithm, SailConfig) or config.algorithm.dpr.share > 0
        if needs_rewards and not config.rewards and not config.replay:
            yield f"rewards is empty: {config.algorithm.name} needs at least one"
        if sampling.temperature == 0:
            yield "sampling.temperature is 0: training samples its completions, so it must be above 0"
        if sampling.num_completions < config.algorithm.min_group_size:
            yield (
                f"sampling.num_completions is {sampling.num_completions}: advantages compare the completions "
                "of one prompt, so at least 2 are needed"
            )
        if problem := config.algorithm.staleness_problem(config.asynchrony.max_staleness):
            yield f"async.{problem}"
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
        num_samples = config.rollout.prompts_per_step * sampling.num_completions
        if isinstance(config.algorithm, PolicyConfig) and config.algorithm.num_updates > num_samples:
            yield f"algorithm.num_updates is {config.algorithm.num_updates}: a step has only {num_samples} completions"
        overlong = config.algorithm.overlong if isinstance(config.algorithm, PolicyConfig) else None
        start = overlong.max_tokens - overlong.buffer_tokens if overlong else 0
        if start >= sampling.max_tokens:
            yield (
                f"algorithm.overlong starts over {start} tokens: with sampling.max_tokens = {sampling.max_tokens} "
                "it never acts"
            )
    elif config.replay:
        yield f"replay is {config.replay}: {config.algorithm.name} learns from the rows themselves, not from rollouts"
    if learner.lora is not None and learner.lora.dropout and (config.algorithm.needs_rollouts or answers_rows(config)):
        yield (
            f"learner.lora.dropout is {learner.lora.dropout:g}: {config.algorithm.name} learns here from answers that "
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
    if evaluation.pairs is not None and row_kind(config) != "pairs":
        yield f"evaluation.pairs is set: {config.algorithm.name} does not learn from preference pairs"
    if evaluation.data is not None:
        if evaluation.temperature == 0 and evaluation.num_completions > 1:
            yield _all_the_same("evaluation", evaluation.num_completions)
        if not (evaluation.rewards or config.rewards):
            yield "evaluation.rewards is empty: without training rewards it must say what is measured"


def row_kind(config: TrainConfig) -> str | None:
    """What rows of the data are to the algorithm; None where they are only prompts."""
    return config.algorithm.row_kind if isinstance(config.algorithm, RowConfig) else None


def trusted_kind(config: TrainConfig) -> str | None:
    """What rows of `trusted_data` are to the algorithm; None where it reads none."""
    if not isinstance(config.algorithm, TwoLevelConfig):
        return None
    return "demonstrations" if config.algorithm.upper == "sft" else "pairs"


def answers_rows(config: TrainConfig) -> bool:
    """Whether engines answer questions of rows beside the training (bdr_online)."""
    return isinstance(config.algorithm, RowConfig) and config.algorithm.answers_rows


def generates_anything(config: TrainConfig) -> bool:
    """Whether a run needs engines: for training, or to answer held-out prompts."""
    return config.algorithm.needs_rollouts or answers_rows(config) or config.evaluation.data is not None


def _level_problems(config: TrainConfig) -> Iterator[str]:
    is_needed, name = row_kind(config) == "two_levels", config.algorithm.name
    if is_needed and config.trusted_data is None:
        yield (
            f"trusted_data is empty: {name} weighs the rows of `data` by those of `trusted_data`, the small, clean set"
        )
    for key, value in (("trusted_data", config.trusted_data), ("evaluation.trusted", config.evaluation.trusted)):
        if value is not None and not is_needed:
            yield f"{key} is set: {name} does not read it; only bdr and bdr_online do"
    if answers_rows(config) and config.sampling.temperature == 0:
        yield "sampling.temperature is 0: answers of the policy are sampled, so it must be above 0"


def _sail_problems(config: TrainConfig, algorithm: SailConfig) -> Iterator[str]:
    if not algorithm.needs_rollouts:
        return
    if config.sampling.num_completions != 2:
        yield f"sampling.num_completions is {config.sampling.num_completions}: sail makes a pair of 2 answers"
    if config.asynchrony.max_staleness > 0 and config.asynchrony.stale != "drop":
        yield "async.stale is mask: a pair cannot be learned from in part; set async.stale to drop"
    if algorithm.dpp.share and algorithm.relabel == "at_generation" and config.sampling.temperature != 1:
        yield (
            f"sampling.temperature is {config.sampling.temperature:g}: engines then report log-probs that are not "
            "the policy's own, and no label can be drawn from them; set algorithm.relabel to at_use, or the "
            "temperature to 1"
        )
    if config.replay:
        yield f"replay is {config.replay}: sail draws from rows and recorded answers together, which is not supported"


def _evaluate_problems(config: EvaluateConfig) -> Iterator[str]:
    sampling = config.sampling
    if not config.rewards:
        yield "rewards is empty: at least one must say what is measured"
    if sampling.max_tokens >= config.engine.max_model_len:
        yield no_room_words(sampling.max_tokens, "engine.max_model_len", config.engine.max_model_len)
    if sampling.temperature == 0 and sampling.num_completions > 1:
        yield _all_the_same("sampling", sampling.num_completions)
    for k in config.pass_at:
        if not 1 <= k <= sampling.num_completions:
            yield f"pass_at holds {k}: allowed are 1 to sampling.num_completions = {sampling.num_completions}"


def no_room_words(max_tokens: int, key: str, max_model_len: int) -> str:
    return f"sampling.max_tokens is {max_tokens}: with {key} = {max_model_len} no room is left for a prompt"


def _all_the_same(section: str, num_completions: int) -> str:
    return (
        f"{section}.num_completions is {num_completions}: with temperature 0 all completions are the same; "
        "use 1, or a temperature above 0"
    )


def filled_folder(folder: Path, name: str, seed: int) -> Path:
    try:
        return Path(str(folder).format(name=name, seed=seed))
    except (LookupError, ValueError):
        raise ValueError(f"folder is {folder}: only {{name}} and {{seed}} can be filled in") from None


def raise_together(problems: Iterator[str]) -> None:
    """All problems in one error, one on each line."""
    if lines := list(problems):
        raise ValueError("\n".join(lines))
