"""The metric keys: one list, the same for every algorithm.

Given scored groups; gives the metrics that the loop writes once for each step. `METRICS` says what each key
means; a key with `<name>` or `<k>` stands for a family. A key is absent where it has no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raylign.actors.feeder import FeederCounts
from raylign.jobs.run.reward_failures import num_failed
from raylign.jobs.run.statistics import clustered_interval, pass_at_k
from raylign.learners.algorithms.base import ExampleMaker
from raylign.rollout.sample import Group


@dataclass(frozen=True)
class Metric:
    """What one metric key means."""

    key: str
    unit: str
    meaning: str
    from_clock: bool = False
    """True where the value depends on the clock, so that two equal runs differ in it."""


METRICS: tuple[Metric, ...] = (
    Metric("step", "step", "Optimizer batches finished; 0 is before training."),
    Metric("seconds", "s", "Time since the run started, resumed time included.", from_clock=True),
    Metric("reward/mean", "reward", "Mean total reward over the scored completions of the step."),
    Metric("reward/std", "reward", "Standard deviation of the total reward over the same completions."),
    Metric("reward/<name>/mean", "reward", "Mean of one reward, unweighted, where it could be computed."),
    Metric("reward/<name>/not_applicable_share", "share", "Completions that the reward says it does not apply to."),
    Metric("reward/failure_share", "share", "Completions without a total reward because scoring failed."),
    Metric("reward/zero_variance_share", "share", "Groups whose rewards are all equal, or cancel: no signal in them."),
    Metric("rollout/accuracy", "share", "Sampled and scored completions whose first reward is 1."),
    Metric("rollout/completion_length_mean", "tokens", "Mean length of a completion."),
    Metric("rollout/completion_length_p90", "tokens", "Nine of ten completions are no longer."),
    Metric("rollout/completion_length_max", "tokens", "Longest completion."),
    Metric("rollout/truncated_share", "share", "Completions cut at the token limit."),
    Metric("rollout/failed_groups", "groups", "Prompts for which the engine gave no completion."),
    Metric("rollout/filtered_groups", "groups", "Groups without reward spread, replaced (dynamic sampling)."),
    Metric("rollout/reissued_prompts", "prompts", "Prompts generated again: their group failed or was dropped."),
    Metric("rollout/refused_groups", "groups", "Groups that failed in the engine, or whose output was refused."),
    Metric("rollout/aborted_groups", "groups", "Groups ended early, because they could not be used any more."),
    Metric(
        "idle/log_share",
        "share",
        "Groups that lay in the log when the step began, as a share of those that the bound allows.",
        from_clock=True,
    ),
    Metric("rollout/engines", "engines", "Engines, mean over the step; from when their number first changes."),
    Metric("rollout/given_up_prompts", "prompts", "Prompts recorded as failed after several attempts."),
    Metric("rollout/tokens", "tokens", "Tokens in the groups of the step."),
    Metric(
        "rollout/tokens_per_s", "tokens/s", "Generated tokens per second of rollout, since the start.", from_clock=True
    ),
    Metric("staleness/masked_tokens", "tokens", "Tokens beyond the staleness bound, left out of the loss."),
    Metric("staleness/dropped_groups", "groups", "Groups beyond the staleness bound, dropped and generated again."),
    Metric("learner/loss", "loss", "The loss that was minimised: nats where answers are imitated."),
    Metric("learner/grad_norm", "norm", "Global gradient norm before clipping."),
    Metric("learner/learning_rate", "rate", "Learning rate of the last optimizer step."),
    Metric("learner/kl", "nats", "KL from the policy to the reference, mean over tokens."),
    Metric("learner/entropy", "nats", "Entropy of the policy's next-token distribution, mean over tokens."),
    Metric("learner/clip_fraction_low", "share", "Tokens whose ratio was clipped from below."),
    Metric("learner/clip_fraction_high", "share", "Tokens whose ratio was clipped from above."),
    Metric("learner/num_tokens", "tokens", "Completion tokens in the loss."),
    Metric("learner/tokens_per_s", "tokens/s", "Tokens learned from per second of update.", from_clock=True),
    Metric("learner/padding_share", "share", "Padding in the micro-batches."),
    Metric("learner/skipped_share", "share", "Tokens of sequences with advantage 0, not run: no meter counts them."),
    Metric("mismatch/mean_abs_logp_difference", "nats", "Mean |learner log-prob - engine log-prob|."),
    Metric("mismatch/max_abs_logp_difference", "nats", "Largest |learner log-prob - engine log-prob|."),
    Metric("mismatch/effective_sample_size_share", "share", "(Σρ)² / (n Σρ²), ρ = π_learner / π_engine."),
    Metric(
        "mismatch/weighted_sample_size_share", "share", "(Σw)² / (n Σw²), w the correction's weights; see alarm_below."
    ),
    Metric("mismatch/mean_ratio", "ratio", "Mean of π_learner / π_engine over tokens, before any correction."),
    Metric("mismatch/max_ratio", "ratio", "Largest π_learner / π_engine of a token, before any correction."),
    Metric("mismatch/min_ratio", "ratio", "Smallest π_learner / π_engine of a token, before any correction."),
    Metric("mismatch/geometric_mean_ratio", "ratio", "Geometric mean of π_learner / π_engine of a sequence, averaged."),
    Metric("mismatch/logp_correlation", "correlation", "Pearson correlation of learner and engine log-probs."),
    Metric("mismatch/truncated_share", "share", "Tokens whose correction weight was cut to the cap."),
    Metric("mismatch/masked_share", "share", "Tokens that the correction left out of the policy loss."),
    Metric("preference/accuracy", "share", "Pairs whose chosen answer the model ranks first."),
    Metric(
        "preference/margin", "nats", "Mean implicit-reward difference of chosen and rejected (scores: as they are)."
    ),
    Metric("preference/chosen_logp", "nats", "Mean summed log-prob of chosen answers (reward_model: score)."),
    Metric("preference/rejected_logp", "nats", "Mean summed log-prob of rejected answers (reward_model: score)."),
    Metric("preference/chosen_reward", "nats", "Mean implicit reward of chosen answers: beta · log-ratio."),
    Metric("preference/rejected_reward", "nats", "Mean implicit reward of rejected answers."),
    Metric("bonbon/sft_loss", "nats", "Mean summed negative log-prob of the best answers."),
    Metric("bonbon/contrastive_loss", "nats²", "Mean squared distance of the log-ratio margin from 1/(2 beta)."),
    Metric("bonbon/log_ratio_margin", "nats", "Mean log-ratio margin between best and worst."),
    Metric("reward_model/confidence", "share", "Mean probability that the scorer gives to its own ranking."),
    Metric("reward_model/brier_score", "score", "Mean squared error of the probability that chosen is better."),
    Metric("reward_model/gap_<k>", "share", "Confidence minus accuracy in confidence bin k, times the bin's share."),
    Metric(
        "sail/<route>_share", "share", "Pairs on that route: data, ddp, dpp, dpr; or swapped, or reversed (F < -1/c)."
    ),
    Metric("sail/log_sigmoid", "nats", "Mean F = log σ(z) of the pairs, labels drawn."),
    Metric("sail/baseline", "nats", "Mean F that the response term is measured against."),
    Metric("staleness/mean", "versions", "Mean age of the trained tokens in weight versions."),
    Metric("staleness/max", "versions", "Largest age of a trained token; never over the bound."),
    Metric("staleness/share_<k>", "share", "Trained tokens that are k versions old."),
    Metric("selection/upper_share", "share", "λ: weight of the trusted rows' loss."),
    Metric("selection/upper_loss", "nats", "U: loss on the trusted rows of the step."),
    Metric("selection/lower_loss", "nats", "Mean loss of the weighed rows, without weights."),
    Metric("selection/weighted_lower_loss", "nats", "Mean loss of the weighed rows times their weights."),
    Metric("selection/batch_weight_mean", "weight", "Mean weight of the step's rows."),
    Metric("selection/batch_weight_std", "weight", "Standard deviation of the weights of the step's rows."),
    Metric("selection/weight_<quantile>", "weight", "Least, quartiles and largest of the weights of all rows."),
    Metric("selection/passed_share", "share", "Rows of the step that the gate lets into the model's loss."),
    Metric("selection/sampled_share", "share", "Rows of the step that are learned from by answers of the policy."),
    Metric("selection/max_ratio", "ratio", "Largest π_θ / π_old of a token of such answers, capped at 10; 1: fresh."),
    Metric("selection/min_ratio", "ratio", "Smallest of them."),
    Metric("refresh/rows", "rows", "Rows that the policy has answered anew, in use from this step on."),
    Metric("refresh/failed_rows", "rows", "Of those, rows that no engine could answer: they keep what they had."),
    Metric("refresh/unusable_share", "share", "Answers without text: left out."),
    Metric("refresh/tokens", "tokens", "Tokens generated for the refresh."),
    Metric("refresh/asked_at_step", "step", "Step before which the answers were asked for."),
    Metric("refresh/seconds", "s", "From there until all answers had come.", from_clock=True),
    Metric("time/rollout_s", "s", "Engines generating, mean over engines.", from_clock=True),
    Metric("time/reward_s", "s", "Scoring, in the reward server, while engines go on.", from_clock=True),
    Metric("time/wait_s", "s", "The learner waiting for the groups of the step.", from_clock=True),
    Metric("time/learner_s", "s", "Updating the model.", from_clock=True),
    Metric("time/weights_s", "s", "Sending weights to the engines.", from_clock=True),
    Metric("time/step_s", "s", "The whole step.", from_clock=True),
    Metric("idle/rollout_share", "share", "Share of the step in which the engines waited.", from_clock=True),
    Metric("idle/learner_share", "share", "Share of the step in which the learner waited.", from_clock=True),
    Metric("weights/version", "version", "Version of the weights that the engines serve after the step."),
    Metric("weights/bytes", "bytes", "Bytes sent in the weight update."),
    Metric("weights/export_s", "s", "How long the learner wrote its weights for the update.", from_clock=True),
    Metric("weights/pause_s", "s", "How long generation stood still for the update.", from_clock=True),
    Metric("weights/load_s", "s", "Of that pause, how long engines loaded.", from_clock=True),
    Metric("weights/travel_s", "s", "Weights on their way to other nodes; engines generate.", from_clock=True),
    Metric("weights/deliver_s", "s", "From the start of the delivery until engines went on.", from_clock=True),
    Metric("weights/replaced_engines", "engines", "Engines that failed in the update and were replaced."),
    Metric(
        "evaluation/accuracy", "share", "Held-out accuracy: mean share of right ones of a prompt's scored completions."
    ),
    Metric("evaluation/accuracy_low", "share", "Lower end of its 95 % interval, prompts as clusters."),
    Metric("evaluation/accuracy_high", "share", "Upper end of its 95 % interval, prompts as clusters."),
    Metric("evaluation/pass_at_<k>", "share", "Chance that one of k completions is right (unbiased)."),
    Metric("evaluation/num_rows", "rows", "Held-out trusted rows."),
    Metric("evaluation/unmeasured_prompts", "prompts", "Held-out prompts without one scored completion: left out."),
    Metric("evaluation/reward_mean", "reward", "Mean total reward on held-out prompts."),
    Metric("evaluation/num_prompts", "prompts", "Held-out prompts."),
    Metric("evaluation/completion_length_mean", "tokens", "Mean length of a held-out completion."),
    Metric("evaluation/truncated_share", "share", "Held-out completions cut at the token limit."),
    Metric("evaluation/failure_share", "share", "Held-out completions that could not be scored: left out."),
    Metric("evaluation/failed_groups", "prompts", "Held-out prompts that the engine gave no completion for: wrong."),
    Metric("evaluation/loss", "nats", "Loss on held-out pairs."),
    Metric("evaluation/reward_accuracy", "share", "Held-out pairs ranked right."),
    Metric("evaluation/reward_accuracy_low", "share", "Lower end of its 95 % interval."),
    Metric("evaluation/reward_accuracy_high", "share", "Upper end of its 95 % interval."),
    Metric("evaluation/reward_margin", "nats", "Mean margin of held-out pairs."),
    Metric("evaluation/calibration_error", "share", "Expected calibration error of a scorer, 5 bins."),
    Metric("evaluation/num_pairs", "pairs", "Held-out pairs."),
    Metric("evaluation/pairs/<source>/<number>", "", "The same of one of several sources (evaluation.more_pairs)."),
    Metric("evaluation/chosen_<what>", "nats", "As preference/chosen_…, on held-out pairs."),
    Metric("evaluation/rejected_<what>", "nats", "As preference/rejected_…, on held-out pairs."),
    Metric("evaluation/<part>_loss", "nats", "As bonbon/…, on held-out pairs."),
    Metric("evaluation/log_ratio_margin", "nats", "As bonbon/…, on held-out pairs."),
    Metric("evaluation/confidence", "share", "As reward_model/…, on held-out pairs."),
    Metric("evaluation/brier_score", "score", "As reward_model/…, on held-out pairs."),
    Metric("evaluation/seconds", "s", "Time that the evaluation took.", from_clock=True),
)

_PATTERNS = tuple((re.compile(re.sub(r"<\w+>", ".+", metric.key)), metric) for metric in METRICS)


def describe(key: str) -> Metric | None:
    """What a key means; None for a key that is not documented."""
    return next((metric for pattern, metric in _PATTERNS if pattern.fullmatch(key)), None)


def undocumented(keys: Iterable[str]) -> list[str]:
    """Keys that `METRICS` does not know."""
    return sorted(key for key in keys if describe(key) is None)


def deterministic_view(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """The metrics without those that depend on the clock: what two runs of one seed must agree on."""
    clocked = {key for key in metrics if (metric := describe(key)) is not None and metric.from_clock}
    return {key: value for key, value in metrics.items() if key not in clocked}


def rollout_metrics(groups: Sequence[Group], make: ExampleMaker | None = None) -> dict[str, float]:
    """Rewards, lengths and failures of one step's groups. `make`: whose rule says which of them have no spread; without
    it nothing is said of that."""
    completions = [completion for group in groups for completion in group.completions]
    metrics = {
        "rollout/tokens": float(sum(group.num_tokens for group in groups)),
        "rollout/failed_groups": float(sum(not group.completions for group in groups)),
    }
    if not completions:
        return metrics
    metrics["rollout/completion_length_mean"] = metrics["rollout/tokens"] / len(completions)
    lengths = [len(completion.token_ids) for completion in completions]
    metrics["rollout/completion_length_p90"] = float(np.quantile(lengths, 0.9, method="higher"))
    metrics["rollout/completion_length_max"] = float(max(lengths))
    metrics["rollout/truncated_share"] = _share([c.stop_reason == "length" for c in completions])
    scored = [group for group in groups if group.completions and group.total_rewards is not None]
    if not scored:
        return metrics
    compared = [group for group in scored if len(group.completions) > 1]
    if make is not None and compared:
        metrics["reward/zero_variance_share"] = _share([not differs for differs in make.has_spread(compared)])
    return metrics | _reward_metrics(scored)


def flow_metrics(counts: FeederCounts, step_s: float) -> dict[str, float]:
    """What the rollout side did during a step of `step_s` seconds."""
    busy_s = sum(counts.busy_s.values()) / counts.num_engines
    engines = {"rollout/engines": counts.num_engines} if counts.was_resized else {}
    return engines | {
        "idle/log_share": counts.log_fill,
        "rollout/reissued_prompts": float(counts.reissued),
        "rollout/refused_groups": float(counts.refused),
        "rollout/aborted_groups": float(counts.aborted),
        "rollout/given_up_prompts": float(counts.failed),
        "time/rollout_s": busy_s,
        "idle/rollout_share": max(0.0, 1.0 - busy_s / step_s),
    }


def evaluation_metrics(
    groups: Sequence[Group], correct_from: float = 1.0, pass_at: Sequence[int] = (1,)
) -> dict[str, float]:
    """Accuracy with its interval, and pass@k, of held-out groups.

    A completion is right when its total reward is at least `correct_from`. A prompt that the engine could not answer
    counts as wrong. What could not be scored is unknown: it is left out and counted beside; where that is all of them,
    no accuracy is measured.
    """
    if not groups:
        raise ValueError("evaluation over no prompts: check `rows` and `num_prompts` of the evaluation data")
    metrics = {"evaluation/num_prompts": float(len(groups))}
    # of each measured prompt: completions that were scored, and right ones; none of either where none came
    counts = [(_num_scored(group), _num_correct(group, correct_from)) for group in groups if _is_measured(group)]
    if any(samples for samples, _ in counts):
        shares = [right / max(1, samples) for samples, right in counts]
        accuracy, low, high = clustered_interval(shares, max(samples for samples, _ in counts))
        metrics = {
            "evaluation/accuracy": accuracy,
            "evaluation/accuracy_low": low,
            "evaluation/accuracy_high": high,
            **metrics,
        }
        for k in pass_at:
            chances = [
                pass_at_k(samples, right, k) if samples else 0.0
                for samples, right in counts
                if samples >= k or not samples
            ]
            if chances:
                metrics[f"evaluation/pass_at_{k}"] = float(np.mean(chances))
        if unmeasured := len(groups) - len(counts):
            metrics["evaluation/unmeasured_prompts"] = float(unmeasured)
    rollout = rollout_metrics(groups)
    for evaluation_key, rollout_key in (
        ("evaluation/reward_mean", "reward/mean"),
        ("evaluation/completion_length_mean", "rollout/completion_length_mean"),
        ("evaluation/truncated_share", "rollout/truncated_share"),
        ("evaluation/failed_groups", "rollout/failed_groups"),
        ("evaluation/failure_share", "reward/failure_share"),
    ):
        if rollout_key in rollout:
            metrics[evaluation_key] = rollout[rollout_key]
    return metrics


def is_measured(groups: Sequence[Group]) -> bool:
    """Whether any completion could be scored: an accuracy over nothing is none."""
    return any(_num_scored(group) for group in groups)


def _is_measured(group: Group) -> bool:
    """Whether it says anything about the model: a completion was scored, or none came."""
    return not group.completions or _num_scored(group) > 0


def _num_scored(group: Group) -> int:
    return 0 if group.total_rewards is None else int(np.isfinite(group.total_rewards).sum())


def _num_correct(group: Group, correct_from: float) -> int:
    if group.total_rewards is None:
        return 0
    # rewards are float32: 0.1 + 0.9 may fall a rounding error short; NaN compares false
    return int((group.total_rewards >= correct_from - 1e-6).sum())


def _first_reward_is_one(group: Group) -> np.ndarray:
    """Of a scored group's completions that the first reward has a score for."""
    first_reward_G = next(iter(group.rewards.values()))
    return np.isclose(first_reward_G[np.isfinite(first_reward_G)], 1.0, rtol=0.0, atol=1e-6)


def _reward_metrics(scored: Sequence[Group]) -> dict[str, float]:
    totals = [group.total_rewards for group in scored if group.total_rewards is not None]
    all_totals = np.concatenate(totals).astype(np.float64)
    finite = all_totals[np.isfinite(all_totals)]
    metrics = {"reward/failure_share": sum(map(num_failed, scored)) / len(all_totals)}
    if scored[0].rewards and len(finite):
        first_is_one = np.concatenate([_first_reward_is_one(group) for group in scored])
        if len(first_is_one):
            metrics["rollout/accuracy"] = _share(first_is_one)
    if len(finite):
        metrics |= {"reward/mean": float(finite.mean()), "reward/std": float(finite.std())}
    for name in dict.fromkeys(name for group in scored for name in group.rewards):
        having = [group for group in scored if name in group.rewards]  # further numbers come as the reward gives them
        values = np.concatenate([group.rewards[name] for group in having]).astype(np.float64)
        if np.isfinite(values).any():
            metrics[f"reward/{name}/mean"] = float(values[np.isfinite(values)].mean())
        left_out = sum(_num_left_out(group, name) for group in having)
        if left_out and name in scored[0].rewards and "/" not in name:
            metrics[f"reward/{name}/not_applicable_share"] = left_out / len(all_totals)
    return metrics


def _num_left_out(group: Group, name: str) -> int:
    """Completions that the reward does not apply to: neither scored nor failed."""
    num_failed = sum(failure.where == name for failure in group.failures)
    return max(0, int((~np.isfinite(group.rewards[name])).sum()) - num_failed)


def _share(flags: Sequence[bool] | np.ndarray) -> float:
    return float(np.mean(np.asarray(flags, dtype=np.float64)))
