"""`plan --cluster`: who lies where on a cluster that is not there, and what is short. Numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raylign.jobs.checks.cluster_file import NodeType, read_cluster_file
from raylign.jobs.checks.cluster_layout import lay_out, roles_of
from raylign.jobs.checks.cluster_plan import examine_cluster, parts_on
from raylign.jobs.checks.findings import Findings
from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.memory_estimate import ModelSize
from raylign.jobs.cli import run_command_line
from raylign.jobs.config.train import TrainConfig

ROOT = Path(__file__).parents[3]
BILLION = ModelSize(1_000_000_000, (), 16, 2048, 8192, 128_000, 8, 64, None, 2048, False)
LABELS = {"learner": {"raylign-node": "learner"}, "rollout": {"raylign-node": "rollout"}}


def training(**sections: Any) -> TrainConfig:
    return TrainConfig.model_validate({"rewards": [{"name": "numeric"}], "cluster": {"gpus": "always"}} | sections)


def kind(name: str, most: int, num_gpus: int, gib: int = 80, label: str | None = None) -> NodeType:
    labels = {"raylign-node": label} if label else {}
    return NodeType(name, most, 8.0, num_gpus, labels, gib * GIB if num_gpus else None, None)


def test_cluster_yaml_and_the_manifests_are_read() -> None:
    head, learner, rollout = read_cluster_file(ROOT / "cluster.yaml", None)
    assert (head.name, head.most, head.num_cpus, head.num_gpus, head.gpu_bytes) == ("head", 1, 8, 0, None)
    assert (learner.most, learner.num_gpus, learner.gpu_bytes) == (1, 4, 44 * GIB)  # L40S, by the instance's name
    assert (rollout.most, dict(rollout.labels)) == (3, {"raylign-node": "rollout"})
    for file in ("raycluster.yaml", "rayjob.yaml"):
        head, learner, rollout = read_cluster_file(ROOT / "deploy" / "kuberay" / file, 80)
        assert (head.most, head.num_cpus) == (1, 0)
        assert (rollout.most, rollout.num_gpus, rollout.gpu_bytes) == (8, 8, 80 * GIB)
        assert rollout.memory_bytes == 384 * GIB


def test_ranks_are_packed_and_an_engine_of_several_gpus_lies_on_one_node() -> None:
    config = training(
        learner={"num_ranks": 6}, rollout={"num_engines": 3, "engine": {"tensor_parallel_size": 2}}
    )  # 8 GPUs a node: 6 ranks and one engine fill the first, two engines lie on the second
    layout = lay_out(roles_of(config, [kind("gpu", 2, 8)]), [kind("gpu", 2, 8)])
    where = {(role, device.node.number) for device in layout.devices for role in device.roles}
    assert {node for role, node in where if role.startswith("learner")} == {0}
    assert {role: node for role, node in where if role.startswith("engine")} == {
        "engine 0": 0, "engine 1": 1, "engine 2": 1,
    }  # fmt: skip
    assert layout.missing == []


def test_labels_choose_the_node_and_a_role_without_gpu_leaves_gpus_alone() -> None:
    kinds = [kind("head", 1, 0), *(kind(name, 1, 4, label=name) for name in ("learner", "rollout"))]
    config = training(
        learner={"num_ranks": 2}, rollout={"num_engines": 2}, cluster={"gpus": "always", "labels": LABELS}
    )
    layout = lay_out(roles_of(config, kinds), kinds)
    assert {(role, device.node.kind.name) for device in layout.devices for role in device.roles} == {
        ("learner rank 0", "learner"), ("learner rank 1", "learner"), ("engine 0", "rollout"), ("engine 1", "rollout"),
    }  # fmt: skip
    on_cpus = training(cluster={"gpus": "never"})
    layout = lay_out(roles_of(on_cpus, kinds), kinds)
    assert {(device.node.kind.name, device.gpu) for device in layout.devices} == {("head", None)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learner": {"num_ranks": 9}}, "learner rank 8: no room: it needs CPU 1, GPU 1 on one node; short of GPU"),
        ({"rollout": {"engine": {"tensor_parallel_size": 8}}}, "engine 0: no room: it needs CPU 1, GPU 8 on one node"),
        ({"cluster": {"gpus": "never"}, "learner": {"num_ranks": 2}}, ""),
        ({"cluster": {"gpus": "always", "labels": LABELS}}, "no node type has these labels"),
    ],
)
def test_who_has_no_room_is_named_with_the_resource_that_is_short(changes: dict[str, Any], words: str) -> None:
    kinds = [kind("gpu", 2, 4)]
    findings = Findings()
    examine_cluster(training(**changes), BILLION, kinds, findings)
    assert bool(findings.problems) == bool(words)
    assert not words or words in findings.problems[0], findings.problems


def test_bytes_of_a_rank_and_an_engine_on_their_gpus() -> None:
    """bfloat16 at stage 1 over 4 ranks: 2 GB of weights, 6 of gradients (float32 sums and bfloat16), 12 / 4 of
    masters and moments."""
    config = training(learner={"num_ranks": 4, "zero_stage": 1}, rollout={"engine": {"gpu_memory_utilization": 0.5}})
    findings = Findings()
    devices, shared = examine_cluster(config, BILLION, [kind("gpu", 2, 4)], findings)
    rank, engine = parts_on(devices[0], BILLION, config, shared), parts_on(devices[4], BILLION, config, shared)
    assert not shared and not findings.problems
    assert (rank["weights"], rank["gradients"], rank["optimizer"]) == (2e9, 6e9, 3e9)
    assert engine["weights"] == 2e9 and engine["cache"] == 40 * GIB - 2e9 - engine["other"]


def test_too_little_gpu_memory_says_by_how_much_and_ends_with_2(
    tmp_path: Path, make_tiny_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = Findings()
    examine_cluster(training(), BILLION, [kind("gpu", 1, 2, gib=10)], findings)
    assert "learner rank 0 on gpu 0, GPU 0" in findings.problems[0]
    assert "GPU memory is short by" in findings.problems[0] and "learner.zero_stage" in findings.problems[0]

    file = tmp_path / "cluster.yaml"
    types = {"box": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 1}}
    file.write_text(yaml.safe_dump({"available_node_types": types, "head_node_type": "box"}))
    words = ["plan", "--cluster", str(file), "--rewards", '[{"name": "numeric"}]', "--cluster.gpus", "always"]
    words += ["--model.path", str(make_tiny_model("llama", True)), "--gpu_gib", "24"]
    assert run_command_line(words) == 0
    assert "it fits" in capsys.readouterr().out  # one GPU: engine and learner take turns
    assert run_command_line([*words, "--rollout.num_engines", "2"]) == 2
    assert "short of GPU" in capsys.readouterr().out
    assert run_command_line(["plan", "--cluster", str(tmp_path / "none.yaml"), *words[3:]]) == 2
    assert "no such file; give the cluster.yaml" in capsys.readouterr().err
