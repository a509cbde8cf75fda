"""Whether a run fits a cluster that is started from a file: `raylign plan --cluster cluster.yaml`.

Given the file and a `TrainConfig`; prints who will lie on each GPU of each node type with the GiB of its parts, and
says which resource is short. Starts nothing and asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raylign.jobs.checks.cluster_file import NodeType, read_cluster_file
from raylign.jobs.checks.cluster_layout import Device, lay_out, roles_of
from raylign.jobs.checks.findings import Findings, print_findings
from raylign.jobs.checks.learner_memory import ACTIVATIONS, learner_bytes, sure_bytes
from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.memory_estimate import (
    ModelSize,
    engine_bytes_on_host,
    engine_parts_on_gpu,
    kv_cache_tokens_in,
    model_size_of,
)
from raylign.jobs.config.train import TrainConfig
from raylign.jobs.run.roles import beside_a_learner, leaves_the_gpu
from raylign.jobs.simulation.config import PlanConfig

COLUMNS = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "other")


def plan_cluster(config: PlanConfig) -> int:
    """Print the table; 2 where the run does not fit."""
    assert config.cluster_file is not None
    kinds = read_cluster_file(config.cluster_file, config.gpu_gib)
    size = model_size_of(config.model.path)
    if size is None:
        raise ValueError(
            f"model.path is {config.model.path}: its size is not known here, so no memory can be planned; name a "
            "folder with *.safetensors on this machine, or download the model once"
        )
    findings = Findings()
    findings.fact("model", f"{config.model.path} ({size.num_parameters / 1e6:,.1f}M parameters)")
    for kind in kinds:
        memory = f" of {kind.gpu_bytes / GIB:.0f} GiB" if kind.gpu_bytes else ""
        findings.fact(f"{kind.name} nodes", f"at most {kind.most}: CPU {kind.num_cpus:g}, GPU {kind.num_gpus}{memory}")
    devices, shared = examine_cluster(config, size, kinds, findings)
    print_findings(findings, "it fits")
    print_devices(devices, size, config, shared)
    return 2 if findings.problems else 0


def parts_on(device: Device, size: ModelSize, config: TrainConfig, shared: bool) -> dict[str, int]:
    """Bytes there by column; roles that take turns are added up, as `plan` of one machine does."""
    total = dict.fromkeys(COLUMNS, 0)
    for name in device.roles:
        for column, num_bytes in _parts_of(name, device, size, config, shared):
            total[column] += num_bytes
    return total


def _parts_of(
    name: str, device: Device, size: ModelSize, config: TrainConfig, shared: bool
) -> Iterator[tuple[str, int]]:
    on_gpu = device.gpu is not None
    if name.startswith("learner rank"):
        held = learner_bytes(size, _as_it_learns(config, shared), on_gpu)
        yield from ((column_of(part), num_bytes) for part, num_bytes in held.items())
    elif name.startswith("engine"):
        engine = beside_a_learner(config.rollout.engine) if shared else config.rollout.engine
        if on_gpu:
            yield from engine_parts_on_gpu(size, engine, device.node.kind.gpu_bytes).items()
        else:
            held = engine_bytes_on_host(size, engine)
            yield from ((column_of(part), num_bytes) for part, num_bytes in held.items())


def _as_it_learns(config: TrainConfig, shared: bool) -> TrainConfig:
    learner = leaves_the_gpu(config.learner) if shared and config.algorithm.needs_rollouts else config.learner
    return config.model_copy(update={"learner": learner})


def _guessed(device: Device, size: ModelSize, config: TrainConfig, shared: bool) -> int:
    """Of what lies there, bytes that are a rule of thumb."""
    config, on_gpu = _as_it_learns(config, shared), device.gpu is not None
    ranks = sum(name.startswith("learner rank") for name in device.roles)
    return ranks * (sum(learner_bytes(size, config, on_gpu).values()) - sure_bytes(size, config, on_gpu))


def column_of(part: str) -> str:
    """Of a part of `learner_bytes` or of an engine."""
    if part == ACTIVATIONS:
        return "activations"
    words = {"reference model": "weights", "logits chunk": "logits", "KV cache": "cache", "libraries": "other"}
    return words.get(part, part.split(" ")[0])


def examine_cluster(
    config: TrainConfig, size: ModelSize, kinds: Sequence[NodeType], findings: Findings
) -> tuple[list[Device], bool]:
    """Where everybody lies, and whether roles share a GPU; problems where somebody has no room or too little memory."""
    layout = lay_out(roles_of(config, kinds), kinds)
    findings.problems += layout.missing
    shared = any(len(device.roles) > 1 for device in layout.devices if device.gpu is not None)
    hosts: dict[tuple[str, int], list[int]] = {}
    for device in layout.devices:
        kind, parts = device.node.kind, parts_on(device, size, config, shared)
        place = place_of(device)
        if device.gpu is None:
            hosts.setdefault((kind.name, device.node.number), []).append(sum(parts.values()))
            continue
        if kind.gpu_bytes is None:
            note = f"{kind.name}: how much memory its GPUs have is not known; give it by --gpu_gib"
            findings.warnings += [] if note in findings.warnings else [note]
        elif sum(parts.values()) > kind.gpu_bytes:
            sure = sum(parts.values()) - _guessed(device, size, config, shared)
            over = findings.warnings if sure <= kind.gpu_bytes else findings.problems
            over.append(_too_much(device, place, sum(parts.values()), kind.gpu_bytes))
        elif any(name.startswith("engine") for name in device.roles):
            engine = config.rollout.engine
            capacity = kv_cache_tokens_in(parts["cache"], size, engine)
            if capacity < engine.max_model_len:
                findings.problems.append(
                    f"{device.roles[0]} on {place}: {parts['cache'] / GIB:.1f} GiB are left for its cache, "
                    f"{capacity:,} tokens, and one sequence may have rollout.engine.max_model_len = "
                    f"{engine.max_model_len}; raise rollout.engine.tensor_parallel_size or gpu_memory_utilization"
                )
    for kind in kinds:
        for (name, number), sums in hosts.items():
            if name == kind.name and kind.memory_bytes is not None and sum(sums) > kind.memory_bytes:
                findings.problems.append(
                    f"{name} {number}: its roles take {sum(sums) / GIB:.1f} GiB, and it has "
                    f"{kind.memory_bytes / GIB:.1f}: memory is short by {(sum(sums) - kind.memory_bytes) / GIB:.1f} GiB"
                )
    if config.cluster.gpus == "auto" and any(device.gpu is not None for device in layout.devices):
        findings.warnings.append(
            "cluster.gpus is auto: a job that starts before a node with GPUs is up would run on CPUs; set it to always"
        )
    return layout.devices, shared


def place_of(device: Device) -> str:
    """`learner 0, GPU 3`"""
    where = "memory" if device.gpu is None else f"GPU {device.gpu}"
    return f"{device.node.kind.name} {device.node.number}, {where}"


def _too_much(device: Device, place: str, needed: int, there: int) -> str:
    what = " and ".join(device.roles)
    return (
        f"{what} on {place}: about {needed / GIB:.1f} GiB, and it has {there / GIB:.1f}: GPU memory is short by "
        f"{(needed - there) / GIB:.1f} GiB; raise learner.num_ranks with learner.zero_stage, lower "
        "learner.micro_batch_tokens, use learner.gradient_checkpointing or LoRA"
    )


def print_devices(devices: Sequence[Device], size: ModelSize, config: TrainConfig, shared: bool) -> None:
    """A line for each GPU or host."""
    from rich.console import Console
    from rich.table import Table

    table = Table("node", "where", "who", *COLUMNS, "together", "of", title="GiB (estimate)", title_justify="left")
    for device in devices:
        parts, kind = parts_on(device, size, config, shared), device.node.kind
        there = kind.memory_bytes if device.gpu is None else kind.gpu_bytes
        table.add_row(
            f"{kind.name} {device.node.number}",
            "memory" if device.gpu is None else f"GPU {device.gpu}",
            ", ".join(device.roles),
            *(f"{parts[column] / GIB:.2f}" if parts[column] else "-" for column in COLUMNS),
            f"{sum(parts.values()) / GIB:.2f}",
            "?" if there is None else f"{there / GIB:.0f}",
        )
    Console().print(table)
