"""What can be known before `raylign data grpo` answers anything: model, context, engines, scorer, places to write.

Given the config, the pool (None where it could not be read) and the machine; adds to the findings.
"""

from __future__ import annotations

from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import Machine
from raylign.jobs.checks.plan import examine_answering
from raylign.jobs.data.grpo_config import GrpoDataConfig
from raylign.jobs.data.pool import Pool
from raylign.jobs.data.pool_answers import pool_prompts, read_answers
from raylign.jobs.data.pool_scores import scorer_of
from raylign.jobs.run.checkpoints import model_folder
from raylign.jobs.run.output_folder import check_can_write
from raylign.rewards.base import Item
from raylign.rewards.scoring import Scorer
from raylign.rollout.hub import hub_is_reachable
from raylign.rollout.model_folder import find_model_folder


def examine_grpo_data(config: GrpoDataConfig, pool: Pool | None, machine: Machine, findings: Findings) -> None:
    """All problems together."""
    findings.attempt("output_dir", lambda: check_can_write(config.output_dir / "data_grpo"))
    if pool is not None:
        findings.fact("data", f"{config.data.source}: {len(pool.rows)} usable rows of {pool.num_read}")
        if config.num_examples is not None and config.num_examples > len(pool.rows):
            findings.warnings.append(
                f"num_examples is {config.num_examples}: there are {len(pool.rows)} usable rows, all are taken"
            )
    if config.selection_mode == "random":
        return
    findings.attempt("metric", lambda: _try_scorer(config))
    if config.answers_csv is not None:
        if pool is not None:
            findings.attempt("answers_csv", lambda: read_answers(config, pool))
        return
    assert config.model is not None
    num_problems = len(findings.problems)
    examine_answering(config.model, config.engine, config.num_engines, config.cluster, machine, findings)
    if pool is not None and len(findings.problems) == num_problems:
        path = model_folder(config.model)
        findings.attempt("data", lambda: pool_prompts(config, pool, path))


def _try_scorer(config: GrpoDataConfig) -> None:
    """A library or a model that is missing shows before answers are drawn."""
    rewards = scorer_of(config)[1]
    for reward in rewards:
        if isinstance(model := getattr(reward, "model", None), str):
            _check_known(reward.name, model)
    scorer = Scorer(rewards)
    try:
        item = Item("a prompt", ("an answer",), ("a reference",), num_tokens=(2,), finished=(True,))
        if failures := scorer.score([item])[0].failures:
            name, failure = failures[0]
            if failure.kind == "unreachable":
                raise ValueError(f"{name}: {failure.message}")
    finally:
        scorer.close()


def _check_known(name: str, model: str) -> None:
    """Raise at once where a model cannot be had; the hub's own client would retry for a minute."""
    from transformers import AutoConfig

    if find_model_folder(model) is not None or hub_is_reachable():
        return
    try:
        AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        raise ValueError(
            f"{name}: the model {model!r} is neither a folder here nor in the cache, and the Hugging Face hub does not "
            "answer; give a folder by rewards"
        ) from None
