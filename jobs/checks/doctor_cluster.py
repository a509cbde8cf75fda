"""What is wrong with a Ray cluster, and what to do about it: `raylign doctor --cluster ADDRESS`.

Given the address of its dashboard, runs itself there as a job; within the cluster, asks every node that is up and moves
1 MB between them as weights will travel. Gives diagnoses; exit code 1 if any is bad.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylign.actors.cluster import ClusterConfig, is_private, ray_cluster
from raylign.actors.placement import described
from raylign.actors.waiting import cause_of, wait_for
from raylign.actors.weights.node_copies import NodeCopies, start_courier
from raylign.actors.weights.transport import choose_transport
from raylign.jobs.checks.diagnosis import Diagnosis, Status, enough_memory
from raylign.jobs.checks.doctor_environment import TESTED_VERSIONS
from raylign.jobs.checks.node_probe import GREETING, NodeProbe, NodeReport
from raylign.jobs.submit.code_job import run_code_job

ANSWER_DEADLINE_S = 90.0
"""Of a node, the start of a process on it included."""
PREFLIGHT_DEADLINE_S = 60.0
NUM_CLOCK_LOOKS = 5
MOST_CLOCK_DIFFERENCE_S = 2.0
SAME_INSTALLATION = (
    "install one lock on all nodes (cluster.yaml and deploy/Dockerfile do), then start the odd ones again"
)


@dataclass(frozen=True)
class Node:
    """One node that is up, as Ray has it."""

    node_id: str
    address: str
    resources: Mapping[str, float]

    @property
    def name(self) -> str:
        """Short, and unique also where nodes share an address."""
        return f"{self.address} ({self.node_id[:6]})"

    @property
    def num_gpus(self) -> int:
        """That Ray gives out."""
        return int(self.resources.get("GPU", 0))


@dataclass(frozen=True)
class NodeAnswer:
    """What a node said; `report` is None where it said nothing."""

    node: Node
    report: NodeReport | None
    clock_ahead_s: tuple[float, float] | None
    """By how much its clock is ahead of the driver's, and how far that may be wrong."""
    problem: str = ""


def diagnose_cluster(address: str, folder: Path) -> list[Diagnosis] | int:
    """Diagnoses; from outside the cluster the exit code of the job that printed them."""
    if address.startswith(("http://", "https://")):
        words = ["doctor", "--cluster", "auto"] + (["--folder", str(folder)] if folder.is_absolute() else [])
        return run_code_job(address, "doctor", words, {"COLUMNS": str(shutil.get_terminal_size((140, 24)).columns)})
    cluster = ClusterConfig(address=address)
    if is_private(cluster):
        raise ValueError(
            f"--cluster {address}: no cluster is known here (RAY_ADDRESS is not set); give the address of its "
            "dashboard, such as http://127.0.0.1:8265"
        )
    with ray_cluster(cluster):
        return asyncio.run(_diagnose(folder))


async def _diagnose(folder: Path) -> list[Diagnosis]:
    import ray

    alive = [each for each in ray.nodes() if each["Alive"]]
    nodes = [Node(each["NodeID"], each["NodeManagerAddress"], each["Resources"]) for each in alive]
    greeting = secrets.token_hex(16)
    place, problem = open_place(folder, greeting)
    try:
        answers = await asyncio.gather(*(_ask(node, place, greeting) for node in nodes))
        shared = problem or check_folder(folder, place, answers, greeting)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return [check_nodes(nodes), *check_versions(answers), *check_each_node(answers), shared, await check_travel(nodes)]


async def _ask(node: Node, place: Path, greeting: str) -> NodeAnswer:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    probe: Any = ray.remote(NodeProbe).options(num_cpus=0, scheduling_strategy=strategy).remote()
    try:
        asked = probe.report.remote(str(place), greeting, node.node_id)
        report: NodeReport = await wait_for(asked, f"node {node.name}", ANSWER_DEADLINE_S)
        looks = []
        for _ in range(NUM_CLOCK_LOOKS):
            before_s = time.time()
            theirs_s: float = await wait_for(probe.clock_s.remote(), f"clock of {node.name}", ANSWER_DEADLINE_S)
            after_s = time.time()
            looks.append((theirs_s - (before_s + after_s) / 2, (after_s - before_s) / 2))
        return NodeAnswer(node, report, min(looks, key=lambda look: look[1]))
    except Exception as error:  # whatever it is, the other nodes are looked at too
        return NodeAnswer(node, None, None, f"{type(cause_of(error)).__name__}: {cause_of(error)}".splitlines()[0])
    finally:
        ray.kill(probe)


def open_place(folder: Path, greeting: str) -> tuple[Path, Diagnosis | None]:
    """A folder of our own below the shared one, with the driver's file; and why there is none."""
    topic = "shared folder"
    above = folder if folder.is_dir() else folder.parent
    place = above / f".raylign-doctor-{secrets.token_hex(6)}"
    if not folder.is_absolute():
        advice = "--folder /mnt/shared/runs: an absolute path on the disk that all nodes share is looked at from each"
        return place, Diagnosis(topic, "warn", f"{folder} is relative: not looked at", advice)
    if not above.is_dir():
        advice = "mount the disk that all nodes share at the same path on every node, the head included"
        return place, Diagnosis(topic, "bad", f"{above} is not there on the driver's node", advice)
    try:
        place.mkdir()
        (place / GREETING).write_text(greeting)
    except OSError as error:
        advice = "make it writable for the user that Ray runs as, or name another by --folder"
        return place, Diagnosis(topic, "bad", f"{above}: {error.strerror or error} on the driver's node", advice)
    return place, None


def check_nodes(nodes: Sequence[Node]) -> Diagnosis:
    """How many there are."""
    advice = "" if len(nodes) > 1 else "an autoscaler's nodes are looked at only while they are up (min_workers)"
    return Diagnosis("nodes", "ok", f"{len(nodes)} up", advice)


def check_versions(answers: Sequence[NodeAnswer]) -> Iterator[Diagnosis]:
    """The same on all nodes: what one pickles another must read, and Ray refuses another Ray."""
    reports = [(answer.node, answer.report) for answer in answers if answer.report is not None]
    for name in ("Python", *TESTED_VERSIONS):
        found: dict[str, list[str]] = {}
        for node, report in reports:
            # builds of torch for CPU nodes and GPU nodes may stand side by side
            version = report.versions.get(name, "not installed").split("+")[0]
            found.setdefault(version, []).append(node.name)
        if len(found) > 1:
            words = "; ".join(f"{version} on {', '.join(names)}" for version, names in sorted(found.items()))
            yield Diagnosis(f"{name} of all nodes", "bad", words, SAME_INSTALLATION)
        elif found:
            (version,) = found
            tested = TESTED_VERSIONS.get(name)
            status: Status = "bad" if version == "not installed" else "warn" if tested not in (None, version) else "ok"
            advice = "" if status == "ok" else f"tested is {tested}: {SAME_INSTALLATION}"
            yield Diagnosis(f"{name} of all nodes", status, version, advice)


def check_each_node(answers: Sequence[NodeAnswer]) -> Iterator[Diagnosis]:
    """GPUs, shared memory and the clock of each; or that it does not answer."""
    for answer in answers:
        node, report = answer.node, answer.report
        if report is None or answer.clock_ahead_s is None:
            advice = "look at its raylet.out; a node that cannot start a process can take no role: restart or remove it"
            yield Diagnosis(f"node {node.name}", "bad", f"no answer: {answer.problem}", advice)
            continue
        yield check_gpus(node, report)
        yield enough_memory(
            f"/dev/shm of {node.name}", report.shared_memory_bytes, 0.6, 2, "free",
            "weights and Ray's objects lie there: Docker --shm-size=8g, KubeRay emptyDir {medium: Memory}",
        )  # fmt: skip
        yield check_clock(node, *answer.clock_ahead_s)


def check_gpus(node: Node, report: NodeReport) -> Diagnosis:
    """Those that Ray gives out against those that the driver shows."""
    topic, num_shown = f"GPUs of {node.name}", len(report.gpus)
    finding = f"Ray has {node.num_gpus}, the driver shows {num_shown}" + (f" ({report.gpus[0]})" if report.gpus else "")
    if node.num_gpus > num_shown:
        advice = "roles placed there will find none: start Ray without --num-gpus, or mend the driver (nvidia-smi)"
        return Diagnosis(topic, "bad", finding, advice)
    if num_shown and report.versions.get("torch", "").endswith("+cpu"):
        return Diagnosis(topic, "bad", f"{finding}; torch is a CPU build", "install the CUDA lock on this node")
    if num_shown > node.num_gpus:
        advice = (
            "Ray gives out fewer than there are: start its node without --num-gpus, or look at CUDA_VISIBLE_DEVICES"
        )
        return Diagnosis(topic, "warn", finding, advice)
    return Diagnosis(
        topic, "ok", f"{num_shown}" + (f" ({report.gpus[0]})" if report.gpus else f"; {described(node.resources)}")
    )


def check_clock(node: Node, ahead_s: float, uncertain_s: float) -> Diagnosis:
    """Against the driver's: files and log lines of all nodes are put in order by their times."""
    off = abs(ahead_s) - uncertain_s > MOST_CLOCK_DIFFERENCE_S
    finding = f"{abs(ahead_s):.3f} s {'ahead of' if ahead_s > 0 else 'behind'} the driver's, ± {uncertain_s:.3f}"
    return Diagnosis(
        f"clock of {node.name}",
        "warn" if off else "ok",
        finding,
        "start chrony or systemd-timesyncd there" if off else "",
    )


def check_folder(folder: Path, place: Path, answers: Sequence[NodeAnswer], greeting: str) -> Diagnosis:
    """Written and read by the driver and by every node, each what the other wrote."""
    topic, bad, num_asked = "shared folder", [], 0
    for answer in answers:
        if answer.report is None:
            continue
        num_asked += 1
        problem = answer.report.folder_problem
        if not problem and not _holds(place / answer.node.node_id, greeting):
            problem = "what it wrote is not seen by the driver: another disk is mounted there"
        if problem:
            bad.append(f"{answer.node.name}: {problem}")
    if bad:
        advice = "mount one disk at this path on every node, writable for the user that Ray runs as"
        return Diagnosis(topic, "bad", f"{folder} from {'; '.join(bad)}", advice)
    return Diagnosis(topic, "ok", f"{folder}: written and read from {num_asked} node(s)")


def _holds(file: Path, text: str) -> bool:
    try:
        return file.read_text() == text
    except OSError:
        return False


async def check_travel(nodes: Sequence[Node]) -> Diagnosis:
    """1 MB between all nodes that roles may lie on, by the way that `weights.transport: auto` takes."""
    able = [node for node in nodes if node.num_gpus or node.resources.get("CPU", 0)]
    topic = "weights between nodes"
    if len(able) < 2:
        return Diagnosis(topic, "ok", "one node takes roles: weights stay in its shared memory")
    first, *others = [node.node_id for node in able]
    way = choose_transport(first, others, {node.node_id: node.num_gpus for node in able})
    assert way != "shared_memory", "there are several nodes"
    copies = NodeCopies(way, first, start_courier, PREFLIGHT_DEADLINE_S)
    began_s = time.monotonic()
    try:
        await copies.preflight(others)
    except Exception as error:  # the reason is the finding
        advice = "open all TCP ports between the nodes (a security group that allows itself), then ask again"
        return Diagnosis(topic, "bad", str(cause_of(error)).splitlines()[0], advice)
    finally:
        await copies.close()
    return Diagnosis(
        topic,
        "ok",
        f"{way}: 1 MB reached {len(others)} other node(s), {time.monotonic() - began_s:.1f} s with the start",
    )
