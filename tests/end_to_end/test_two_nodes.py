"""A run over two nodes: the learner's ranks on one, the engines on the other, weights between them by gloo.

Given two raylets on this machine; checks each sampled token against the checkpoint of the version that labels it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from raylign.jobs.run.folder import read_metrics
from raylign.rollout.experience.schema import batch_to_groups
from raylign.rollout.sample import Completion, Group
from tests.end_to_end.conftest import small_config, write_recipe
from tests.end_to_end.nodes import Nodes, nodes
from tests.end_to_end.processes import WatchedProcess
from tests.end_to_end.trained import check_trained_once

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MAX_STALENESS = 2


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Of two CPUs each: two ranks fill the first, two engines go to the second."""
    with nodes(tmp_path, [["--num-cpus=2"], ["--num-cpus=2"]]) as cluster:
        yield cluster


def start_run(
    cluster: Nodes, model: Path, tmp_path: Path, num_steps: int, every_steps: int, *more: str
) -> WatchedProcess:
    """Two ZeRO-3 ranks and two engines, η = 2."""
    values = small_config(model, tmp_path / "run", num_steps=num_steps)
    values["async"] = {"max_staleness": MAX_STALENESS}
    values["sampling"] |= {"temperature": 1.0, "max_tokens": 8}
    values["learner"] |= {"num_ranks": 2, "zero_stage": 3}
    values["rollout"] |= {"num_engines": 2}
    values["checkpoints"] = {"every_steps": every_steps, "keep_last": num_steps}
    values["weights"] = {"deadline_s": 30}
    recipe = write_recipe(values, tmp_path / "recipe.yaml")
    words = [sys.executable, "-m", "raylign.jobs", "train", "--config", str(recipe), *more]
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    return WatchedProcess(words, tmp_path / "log", environment, cluster.pids)


def test_each_token_is_of_the_version_that_labels_it(two_nodes: Nodes, start_model: Path, tmp_path: Path) -> None:
    process = start_run(two_nodes, start_model, tmp_path, num_steps=20, every_steps=1)
    try:
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert all(line["weights/travel_s"] > 0 for line in lines[2:])
    extra_s = [line["weights/pause_s"] - line["weights/load_s"] for line in lines[2:]]
    groups = groups_of(tmp_path / "run" / "experience")
    worst, versions = worst_difference(groups, tmp_path / "run", start_model)
    print(
        f"\n{sum(len(group.completions) for group in groups)} completions of versions {sorted(versions)}: at most",
        end=" ",
    )
    print(f"{worst:.1e} from the learner; engines paused {max(extra_s) * 1e3:.0f} ms beyond the load at most")
    assert len(versions) > 10
    assert worst <= 1e-5


def groups_of(folder: Path) -> list[Group]:
    import pyarrow as pa

    groups: list[Group] = []
    for segment in sorted(folder.glob("segment-*.arrows")):
        for batch in pa.ipc.open_stream(segment):
            groups += batch_to_groups(batch)
    return groups


def worst_difference(groups: list[Group], run: Path, start_model: Path) -> tuple[float, set[int]]:
    """Of any token's log-prob from a plain forward pass of the labelled version's checkpoint; the versions seen."""
    from transformers import AutoModelForCausalLM

    folders = {0: start_model} | {int(path.name.split("-")[-1]): path for path in (run / "checkpoints").iterdir()}
    by_version: dict[int, list[tuple[Group, Completion, slice]]] = {}
    for group in groups:
        for completion in group.completions:
            for span in completion.version_spans:
                by_version.setdefault(span.version, []).append((group, completion, slice(span.start, span.end)))
    worst = 0.0
    for version, spans in by_version.items():
        model = AutoModelForCausalLM.from_pretrained(folders[version], dtype=torch.float32).eval()
        for group, completion, tokens in spans:
            prompt = group.prompt.token_ids
            row = torch.tensor(np.concatenate([prompt, completion.token_ids]).astype(np.int64))[None]
            with torch.no_grad():
                logps = model(row).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            expected = logps.gather(-1, row[0, len(prompt) :, None])[:, 0].numpy()
            worst = max(worst, float(np.abs(expected[tokens] - completion.logps[tokens]).max()))
    return worst, set(by_version)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_outlives_its_engines_and_couriers(
    two_nodes: Nodes, start_model: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    """Each kind of process once, at random moments between steps 5 and 60."""
    num_steps = 80
    process = start_run(two_nodes, start_model, tmp_path, num_steps, every_steps=0)
    draw, said = random.Random(sign), []
    try:
        for number, title in enumerate(("ray::Courier", "VLLM::EngineCore", "ray::Courier", "ray::RolloutWorker")):
            after = 5 + 15 * number
            process.wait_for(lambda after=after: len(read_metrics(tmp_path / "run")) >= after, f"step {after}")  # type: ignore[misc]
            time.sleep(draw.uniform(0, 1))
            victim = draw.choice(running(two_nodes, title))
            said.append(f"{title} {victim.pid}")
            os.kill(victim.pid, sign)
        assert process.wait() == 0, process.output()
    finally:
        process.end()
    check_trained_once(tmp_path / "run", num_steps, MAX_STALENESS)
    print(f"\n{sign.name} of {', '.join(said)}: all {num_steps} steps")


def running(cluster: Nodes, title: str) -> list[psutil.Process]:
    """Processes of the cluster's nodes with this title."""
    found = []
    for node in cluster.processes:
        for process in node.alive():
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
    return found


def test_a_run_waits_for_nodes_that_come_later(start_model: Path, tmp_path: Path) -> None:
    with nodes(tmp_path, [["--num-cpus=0"]]) as cluster:
        process = start_run(cluster, start_model, tmp_path, num_steps=2, every_steps=0)
        try:
            process.wait_for(lambda: "starting the learner" in process.output(), "the start")
            time.sleep(60)
            for _ in range(2):
                cluster.join("--num-cpus=2")
            assert process.wait() == 0, process.output()
        finally:
            process.end()
    assert len(read_metrics(tmp_path / "run")) == 2


def test_a_run_without_room_ends_at_the_deadline_with_what_is_missing(start_model: Path, tmp_path: Path) -> None:
    deadline_s = 20.0
    with nodes(tmp_path, [["--num-cpus=0"]]) as cluster:
        process = start_run(cluster, start_model, tmp_path, 2, 0, f"--cluster.placement_deadline_s={deadline_s}")
        try:
            process.wait_for(lambda: "starting the learner" in process.output(), "the start")
            started_at = time.monotonic()
            process.wait_for(lambda: "no room for" in process.output(), "the error")
            over_s = time.monotonic() - started_at - deadline_s
            print(f"\nthe error came {over_s:.1f} s after the deadline")
            assert over_s < 5
            process.wait()
        finally:
            process.end()
    assert "no room for 2 learner ranks in time (cluster.placement_deadline_s): it needs CPU" in process.output()
    assert "Nodes that are there: 1 x nothing" in process.output()
