"""Checks before anything starts: data, model, rewards, run folder, resources, memory.

Given a config; `check_before_start` raises one error with all problems, `plan` prints them with a table of what the
run will do. Takes seconds: no Ray, no engine, no learner.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from raylign.actors.cluster import ClusterConfig, check_address
from raylign.jobs.checks.data import Samples, check_data, may_share_rows
from raylign.jobs.checks.findings import Findings, print_findings
from raylign.jobs.checks.idle_settings import idle_settings
from raylign.jobs.checks.learner_memory import learner_bytes, sure_bytes
from raylign.jobs.checks.levels import check_levels
from raylign.jobs.checks.lora_targets import check_lora_targets
from raylign.jobs.checks.machine import GIB, Machine, disk_space, this_machine
from raylign.jobs.checks.memory_estimate import (
    ModelSize,
    cached_snapshot,
    checkpoint_bytes,
    engine_bytes,
    kv_cache_tokens,
    model_size_of,
)
from raylign.jobs.checks.more_data import check_held_out_pairs, check_more_data
from raylign.jobs.checks.private_cluster import check_private_cluster
from raylign.jobs.checks.unused_rows import unused_rows
from raylign.jobs.config.evaluate import EvaluateConfig
from raylign.jobs.config.loading import completed, config_yaml
from raylign.jobs.config.references import compare_with_references
from raylign.jobs.config.train import (
    TrainConfig,
    generates_anything,
    generates_for_training,
)
from raylign.jobs.run.copying import check_copy
from raylign.jobs.run.folder import check_run_folder
from raylign.jobs.run.output_folder import check_can_write
from raylign.jobs.run.roles import beside_a_learner, gpus_of_rewards, leaves_the_gpu, shares_gpu
from raylign.jobs.simulation.config import PlanConfig
from raylign.rollout.data.text_checks import tokens_without_embedding
from raylign.rollout.engine.config import EngineConfig
from raylign.rollout.model_folder import check_model_folder, find_model_folder, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plan(config: TrainConfig) -> int:
    """Print what the run will do; 2 if it cannot."""
    if isinstance(config, PlanConfig) and config.simulate:
        from raylign.jobs.simulation.simulate import simulate_plan

        return simulate_plan(config)
    if isinstance(config, PlanConfig) and config.cluster_file is not None:
        from raylign.jobs.checks.cluster_plan import plan_cluster

        return plan_cluster(config)
    findings = examine_training(config, this_machine())
    print_findings(findings)
    return 2 if findings.problems else 0


def check_before_start(config: TrainConfig) -> None:
    """Raise with all problems of a training run; warnings are said and do not hold it up."""
    print("checking model, data and rewards", flush=True)
    findings = examine_training(config, this_machine())
    for note in findings.notes:
        print(f"note: {note}", file=sys.stderr)
    for warning in findings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    findings.raise_problems()


def check_before_evaluation(config: EvaluateConfig) -> None:
    """Raise with all problems of an evaluation."""
    examine_evaluation(config, this_machine()).raise_problems()


def examine_training(config: TrainConfig, machine: Machine) -> Findings:
    """All checks of a training run."""
    findings = Findings()
    engine, evaluation = config.rollout.engine, config.evaluation
    learns_from_samples = config.algorithm.needs_rollouts
    num_engines = config.rollout.num_engines if generates_anything(config) else 0
    room = engine.max_model_len - config.sampling.max_tokens
    length = f"{config.num_steps} steps" if config.num_epochs is None else f"{config.num_epochs:g} epochs"
    findings.fact("run", f"{config.name}: {config.algorithm.name}, {length}, seed {config.seed}")
    if learns_from_samples:
        eta = config.asynchrony.max_staleness
        ahead = f"engines run at most {eta} weight versions ahead" if eta else "engines and learner take turns"
        findings.fact("staleness", f"{ahead} (async.max_staleness {eta})")
    num_problems = len(findings.problems)
    findings.attempt("folder", lambda: _check_folder(config.folder, config, config.resume, findings))
    can_write = len(findings.problems) == num_problems
    if config.checkpoints.copy_to is not None and can_write:
        findings.fact("copy", findings.attempt("checkpoints.copy_to", lambda: check_copy(config)) or "none")
    if config.replay is not None:
        findings.attempt("replay", lambda: _check_recording(config, findings))
    size, tokenizer = _check_model("model.path", config.model.path, findings)
    if config.learner.reference_path is not None:
        _check_model("learner.reference_path", config.learner.reference_path, findings)
    _check_resources(config, num_engines, machine, findings)
    _check_lora(config, findings)
    if size is not None:
        if can_write:
            _check_disk(config, size, machine, findings)
        _check_memory(config, size, num_engines, machine, findings)
        if num_engines:
            _check_context(size, engine, "rollout.engine", machine, findings)
    if tokenizer is None:
        return findings
    rewards = config.rewards if learns_from_samples else []
    rows, trusted_kind = config.algorithm.curriculum, config.algorithm.trusted_kind
    longest = engine.max_model_len if config.algorithm.learns_from_rows else None
    room_of_rows = room if generates_for_training(config) else engine.max_model_len
    samples = Samples("data", config.data, rewards, room_of_rows, longest, rows)
    if rows == "pairs" and config.algorithm.needs_rewards:
        samples = replace(samples, needs_references=compare_with_references(config.rewards))
    num_rows = check_data(samples, tokenizer, config.seed, findings)
    if config.more_data:
        num_rows = check_more_data(config, samples, num_rows, tokenizer, findings)
    if num_rows is not None:
        from raylign.jobs.curricula.registry import num_steps_of

        findings.warnings += idle_settings(config, num_steps_of(config, num_rows))
    if trusted_kind is not None and config.trusted_data is not None:
        samples = Samples("trusted_data", config.trusted_data, [], engine.max_model_len, longest, trusted_kind)
        check_data(samples, tokenizer, config.seed + 1, findings)
        if not findings.problems:
            warnings = findings.attempt("trusted_data", lambda: check_levels(config, tokenizer))
            findings.warnings += warnings or []
    if evaluation.data is not None:
        # rewards that were tried on the training rows need no second trial
        rewards = evaluation.rewards or ([] if learns_from_samples else config.rewards)
        held_out = Samples("evaluation.data", evaluation.data, rewards, room)
        held_out = replace(held_out, needs_references=compare_with_references(evaluation.rewards or config.rewards))
        check_data(held_out, tokenizer, config.seed, findings)
        if may_share_rows(config.data, evaluation.data):
            findings.warnings.append(
                f"evaluation.data.rows {evaluation.data.rows} and data.rows {config.data.rows} of "
                f"{config.data.source} overlap: the run is evaluated on rows that it trains on"
            )
    if evaluation.trusted is not None:
        context = engine.max_model_len
        held_out = Samples("evaluation.trusted", evaluation.trusted, [], context, context, trusted_kind)
        check_data(held_out, tokenizer, config.seed, findings)
        if config.trusted_data and may_share_rows(config.trusted_data, evaluation.trusted):
            findings.warnings.append("evaluation.trusted and trusted_data overlap: rows are trained on and held out")
    check_held_out_pairs(config, engine.max_model_len, tokenizer, findings)
    findings.notes += unused_rows(findings.read)
    return findings


def examine_evaluation(config: EvaluateConfig, machine: Machine) -> Findings:
    """All checks of an evaluation."""
    findings = Findings()
    findings.attempt("folder", lambda: _check_folder(config.folder, config, False, findings))
    tokenizer = examine_answering(config.model, config.engine, config.num_engines, config.cluster, machine, findings)
    if tokenizer is not None:
        room = config.engine.max_model_len - config.sampling.max_tokens
        check_data(Samples("data", config.data, config.rewards, room), tokenizer, config.seed, findings)
    return findings


def examine_answering(
    model: str, engine: EngineConfig, num_engines: int, cluster: ClusterConfig, machine: Machine, findings: Findings
) -> PreTrainedTokenizerBase | None:
    """Engines, model and context of a job that answers prompts; gives the tokenizer where it loads."""
    from raylign.jobs.run.checkpoints import model_folder

    if _runs_here(cluster.address):
        check_private_cluster(cluster, machine, findings)
        _check_count("num_engines", num_engines, engine.tensor_parallel_size, machine, findings)
    path = findings.attempt("model", lambda: model_folder(model))
    if path is None:
        return None
    size, tokenizer = _check_model("model", path, findings)
    if size is not None:
        _check_context(size, engine, "engine", machine, findings)
    return tokenizer


def _check_folder(folder: Path, config: BaseModel, resume: bool, findings: Findings) -> None:
    findings.fact("run folder", f"{folder}" + (" (resumed)" if resume else ""))
    if any(part.startswith("_ray_pkg_") for part in folder.absolute().parts):
        raise ValueError(
            f"{folder} lies in the copy of the code that Ray made for this job and deletes after it: "
            "give an absolute path that stays, on several nodes on a shared disk (--folder /…)"
        )
    check_run_folder(folder, config_yaml(config) if resume else "", resume, partial(completed, type(config)))
    check_can_write(folder)


def _check_lora(config: TrainConfig, findings: Findings) -> None:
    lora = config.learner.lora
    folder = None
    if lora is not None and lora.target_modules != "all-linear" and not findings.problems:
        folder = find_model_folder(config.model.path) or cached_snapshot(config.model.path)
    if lora is not None and folder is not None:
        findings.attempt("learner.lora.target_modules", lambda: check_lora_targets(str(folder), lora.target_modules))


def _check_disk(config: TrainConfig, size: ModelSize, machine: Machine, findings: Findings) -> None:
    """A new checkpoint is whole before the oldest goes."""
    every = config.checkpoints.every_steps
    num_saves = 1 + (config.num_steps - 1) // every if every and config.num_epochs is None else 1 if not every else None
    most = config.checkpoints.keep_last + 1
    count = most if num_saves is None else min(most, num_saves)
    one = checkpoint_bytes(size, config, on_gpu=bool(machine.gpus))
    free_bytes, _ = disk_space(config.folder)
    findings.fact("checkpoints", f"at most {count} at a time, each of about {one >> 20:,} MiB")
    if count * one > free_bytes:
        findings.problems.append(
            f"folder is {config.folder}: its disk has {free_bytes >> 20:,} MiB free, and {count} checkpoints of "
            f"{one >> 20:,} MiB take {count * one >> 20:,}; make room, choose another folder, or lower "
            f"checkpoints.keep_last = {config.checkpoints.keep_last}"
        )


def _check_recording(config: TrainConfig, findings: Findings) -> None:
    from raylign.rollout.experience.replay import ReplayLog

    assert config.replay is not None
    steps = ReplayLog.open(config.replay).steps
    findings.fact("replay", f"{config.replay}, {len(steps)} recorded steps; no engine, no evaluation")
    if len(steps) < config.num_steps:
        raise ValueError(
            f"{config.replay} holds {len(steps)} steps and num_steps is {config.num_steps}: lower num_steps, or give "
            "the folder of a longer run"
        )


def _check_model(key: str, path: str, findings: Findings) -> tuple[ModelSize | None, PreTrainedTokenizerBase | None]:
    """Size and tokenizer; None where it cannot be known or does not load."""
    num_problems = len(findings.problems)
    findings.attempt(key, lambda: check_model_folder(path))
    if len(findings.problems) > num_problems:
        return None, None
    tokenizer = findings.attempt(key, lambda: load_tokenizer(path))
    if tokenizer is None:
        return None, None
    size = model_size_of(path)
    known = f"{size.num_parameters / 1e6:,.1f}M parameters" if size else "size unknown, so memory is not estimated"
    findings.fact(key, f"{path} ({known})")
    if size is not None:
        findings.num_embeddings = findings.num_embeddings or size.vocabulary_size
        if beyond := tokens_without_embedding(tokenizer, size.vocabulary_size):
            findings.warnings.append(
                f"{key}: {len(beyond)} tokens of its tokenizer have no embedding ({', '.join(list(beyond)[:3])}): the "
                f"model has {size.vocabulary_size}; a text that needs one cannot be learned or answered"
            )
    return size, tokenizer


def _check_context(size: ModelSize, engine: EngineConfig, key: str, machine: Machine, findings: Findings) -> None:
    if size.max_positions is not None and engine.max_model_len > size.max_positions:
        findings.problems.append(
            f"{key}.max_model_len is {engine.max_model_len}: the model has {size.max_positions} positions; set "
            f"it to {size.max_positions} or less"
        )
    if not machine.gpus and (capacity := kv_cache_tokens(size, engine)) < engine.max_model_len:
        findings.problems.append(
            f"{key}.kv_cache_gib is {engine.kv_cache_gib}: it holds {capacity} tokens, and one sequence may have "
            f"{key}.max_model_len = {engine.max_model_len}"
        )


def _check_resources(config: TrainConfig, num_engines: int, machine: Machine, findings: Findings) -> None:
    ranks, engine = config.learner.num_ranks, config.rollout.engine
    roles = f"{ranks} learner rank(s), {num_engines} engine(s)"
    if not _runs_here(config.cluster.address):
        findings.fact("roles", f"{roles}, on the cluster {config.cluster.address}")
        try:  # a plan may be made where the cluster is not seen; a start looks again
            check_address(config.cluster)
        except ValueError as error:
            findings.warnings.append(str(error))
        return
    check_private_cluster(config.cluster, machine, findings)
    findings.fact("roles", f"{roles}, on {machine.num_cores} cores and {len(machine.gpus)} GPUs")
    if config.cluster.num_cpus is not None and config.cluster.num_cpus > machine.num_cores:
        findings.warnings.append(
            f"cluster.num_cpus is {config.cluster.num_cpus}: this machine has {machine.num_cores} cores"
        )
    _check_count("learner.num_ranks", ranks, 1, machine, findings)
    _check_count("rollout.num_engines", num_engines, engine.tensor_parallel_size, machine, findings)
    _check_gpus(config, num_engines, len(machine.gpus), findings)


def _check_gpus(config: TrainConfig, num_engines: int, num_gpus: int, findings: Findings) -> None:
    """All roles together, and the transport between them."""
    engine = config.rollout.engine
    if num_gpus == 0:
        if config.weights.transport == "nccl":
            findings.problems.append("weights.transport is nccl: it needs GPUs, and this machine has none; use auto")
        return
    of_rewards = gpus_of_rewards(config.rewards)
    num_wanted = config.learner.num_ranks + num_engines * engine.tensor_parallel_size + math.ceil(of_rewards)
    if shares_gpu(num_gpus, config.learner.num_ranks, num_engines, engine.tensor_parallel_size):
        share = beside_a_learner(engine).gpu_memory_utilization
        findings.fact("GPU", f"the engine (at most {share:.0%} of its memory) and the learner rank take turns on it")
    elif num_wanted > num_gpus and not findings.problems:
        findings.problems.append(
            f"learner.num_ranks and rollout.num_engines{' and rewards' if of_rewards else ''} take {num_wanted} GPUs "
            f"together: this machine has {num_gpus}"
        )


def _check_count(key: str, count: int, gpus_each: int, machine: Machine, findings: Findings) -> None:
    if machine.gpus and count * gpus_each > len(machine.gpus):
        each = f" of {gpus_each} GPUs each" if gpus_each > 1 else ""
        findings.problems.append(f"{key} is {count}{each}: this machine has {len(machine.gpus)} GPUs")
    if not machine.gpus and count > machine.num_cores:
        findings.problems.append(f"{key} is {count}: this machine has {machine.num_cores} cores")


def _runs_here(address: str) -> bool:
    return address == "local" or (address == "auto" and "RAY_ADDRESS" not in os.environ)


def _check_memory(config: TrainConfig, size: ModelSize, num_engines: int, machine: Machine, findings: Findings) -> None:
    on_gpu = bool(machine.gpus)
    gpus_per_engine = config.rollout.engine.tensor_parallel_size
    share_gpu = shares_gpu(len(machine.gpus), config.learner.num_ranks, num_engines, gpus_per_engine)
    if share_gpu and config.algorithm.needs_rollouts:
        config = config.model_copy(update={"learner": leaves_the_gpu(config.learner)})
    rank = learner_bytes(size, config, on_gpu)
    engine_config = beside_a_learner(config.rollout.engine) if share_gpu else config.rollout.engine
    engine = engine_bytes(size, engine_config, machine) if num_engines else {}
    findings.memory += [("one learner rank", part, num_bytes) for part, num_bytes in rank.items()]
    findings.memory += [("one engine", part, num_bytes) for part, num_bytes in engine.items()]
    if not _runs_here(config.cluster.address):
        return
    rough = sum(rank.values()) - sure_bytes(size, config, on_gpu)
    if machine.gpus:
        needed = sum(rank.values()) + (sum(engine.values()) if share_gpu else 0)
        _check_fits(needed, rough, min(gpu.memory_bytes for gpu in machine.gpus), "a GPU", findings)
        return
    needed = config.learner.num_ranks * sum(rank.values()) + num_engines * sum(engine.values())
    needed += config.cluster.object_store_mib << 20
    findings.memory.append(("all roles and Ray's objects", "on this machine", needed))
    _check_fits(needed, config.learner.num_ranks * rough, machine.free_memory_bytes, "this machine", findings)


def _check_fits(num_bytes: int, rough_bytes: int, free_bytes: int, what: str, findings: Findings) -> None:
    """More than there is: a problem if that is sure, a warning if a rule of thumb says so."""
    if num_bytes <= free_bytes:
        return
    message = (
        f"memory: about {num_bytes / GIB:.1f} GiB needed, and {what} has {free_bytes / GIB:.1f} free; lower "
        "learner.micro_batch_tokens or rollout.engine.kv_cache_gib, raise learner.zero_stage, or use LoRA"
    )
    (findings.warnings if num_bytes - rough_bytes <= free_bytes else findings.problems).append(message)
