"""What a cluster may grow to, from the file that it is started with: Ray's cluster.yaml, or a RayCluster of KubeRay.

Given the file; gives its node types with resources, labels and how many there may be. GPU memory stands in neither: it
is known from the accelerator's or the instance's name, or given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.jobs.checks.machine import GIB
from raylign.rollout.data.yaml_text import read_yaml

GPU_GIB = {
    "L4": 22, "A10G": 22, "L40S": 44, "A100": 39, "A100-40G": 39, "A100-80G": 79, "H100": 79, "H200": 139, "B200": 178,
}  # fmt: skip
"""Memory of a GPU, by Ray's name of it, less what the driver keeps."""
INSTANCE_GPUS = {
    "g5": "A10G", "g6": "L4", "g6e": "L40S", "p4d": "A100-40G", "p4de": "A100-80G", "p5": "H100", "p5e": "H200",
    "p5en": "H200", "p6-b200": "B200",
}  # fmt: skip
"""Of AWS's families of instances."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class NodeType:
    """Nodes of one kind."""

    name: str
    most: int
    """How many there may be."""
    num_cpus: float
    num_gpus: int
    labels: Mapping[str, str]
    gpu_bytes: int | None
    """Memory of one GPU; None where it is not known, or there is none."""
    memory_bytes: int | None
    """Of the host; None where the file does not say."""

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether a role that asks for these labels may lie there."""
        return all(self.labels.get(key) == value for key, value in labels.items())


def read_cluster_file(path: Path, gpu_gib: float | None) -> list[NodeType]:
    """In the order of the file, the head first. `gpu_gib`: of each GPU, above what its name says."""
    try:
        values, _ = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ValueError(f"--cluster {path}: no such file; give the cluster.yaml that `ray up` takes") from None
    try:
        if isinstance(values, dict) and "available_node_types" in values:
            return [_of_ray(name, each, values, gpu_gib) for name, each in values["available_node_types"].items()]
        if isinstance(values, dict) and values.get("kind") in ("RayCluster", "RayJob"):
            spec = values["spec"].get("rayClusterSpec", values["spec"])
            groups = [{"groupName": "head", "maxReplicas": 1, **spec["headGroupSpec"]}, *spec["workerGroupSpecs"]]
            return [_of_kuberay(each, gpu_gib) for each in groups]
    except (KeyError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"--cluster {path}: cannot be read: {type(error).__name__} {error}") from None
    raise ValueError(f"--cluster {path}: neither a cluster.yaml (available_node_types) nor a RayCluster or RayJob")


def _of_ray(name: str, each: Mapping[str, Any], values: Mapping[str, Any], gpu_gib: float | None) -> NodeType:
    resources = each.get("resources") or {}
    is_head = name == values.get("head_node_type")
    most = 1 if is_head else each.get("max_workers", values.get("max_workers", 0))
    kinds = [key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")]
    instance = str((each.get("node_config") or {}).get("InstanceType", ""))
    kind = kinds[0] if kinds else INSTANCE_GPUS.get(instance.partition(".")[0])
    num_gpus = int(resources.get("GPU", 0))
    memory = resources.get("memory")
    return NodeType(
        name, int(most), float(resources.get("CPU", 0)), num_gpus, each.get("labels") or {},
        _gpu_bytes(kind, gpu_gib) if num_gpus else None, None if memory is None else int(memory),
    )  # fmt: skip


def _of_kuberay(group: Mapping[str, Any], gpu_gib: float | None) -> NodeType:
    (container, *_) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    selector = group["template"]["spec"].get("nodeSelector") or {}
    kinds = [str(value) for key, value in selector.items() if "gpu" in key or "accelerator" in key]
    num_gpus = int(limits.get("nvidia.com/gpu", 0))
    cpus = (group.get("rayStartParams") or {}).get("num-cpus", limits.get("cpu", 0))
    memory = limits.get("memory")
    return NodeType(
        group["groupName"], int(group["maxReplicas"]), float(_quantity(str(cpus))), num_gpus, group.get("labels") or {},
        _gpu_bytes(kinds[0] if kinds else None, gpu_gib) if num_gpus else None,
        None if memory is None else int(_quantity(str(memory))),
    )  # fmt: skip


def _gpu_bytes(kind: str | None, gpu_gib: float | None) -> int | None:
    if gpu_gib is not None:
        return int(gpu_gib * GIB)
    found = next((GPU_GIB[name] for name in sorted(GPU_GIB, key=len, reverse=True) if name in (kind or "")), None)
    return None if found is None else found * GIB


def _quantity(text: str) -> float:
    """As Kubernetes writes it: 48, 500m, 384Gi."""
    found = re.fullmatch(r"([\d.]+)(m|[KMGT]i?)?", text)
    if found is None:
        raise LookupError(f"{text!r} is no quantity")
    return float(found[1]) / 1000 if found[2] == "m" else float(found[1]) * UNITS[found[2] or ""]
