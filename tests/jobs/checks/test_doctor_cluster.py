"""What `doctor --cluster` makes of what nodes say of themselves; test_job_submit.py asks real ones."""

from __future__ import annotations

from pathlib import Path

from raylign.jobs.checks.doctor_cluster import (
    Node,
    NodeAnswer,
    check_clock,
    check_each_node,
    check_folder,
    check_gpus,
    check_versions,
    open_place,
)
from raylign.jobs.checks.doctor_environment import TESTED_VERSIONS
from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.node_probe import NodeProbe, NodeReport

GOOD = {"Python": "3.11.7", **TESTED_VERSIONS}


def node(name: str, num_gpus: int = 0) -> Node:
    return Node(name, f"10.0.0.{name[-1]}", {"CPU": 4.0, "GPU": float(num_gpus)})


def report(versions: dict[str, str] | None = None, gpus: tuple[str, ...] = (), problem: str = "") -> NodeReport:
    return NodeReport(versions or GOOD, gpus, 8 * GIB, problem)


def answer(name: str, said: NodeReport | None, problem: str = "") -> NodeAnswer:
    return NodeAnswer(node(name), said, (0.0, 0.001) if said else None, problem)


def test_versions_that_differ_between_nodes_are_named_with_their_nodes() -> None:
    answers = [answer("n1", report()), answer("n2", report(GOOD | {"vllm": "0.31.0"}))]
    by_topic = {each.topic: each for each in check_versions(answers)}
    odd = by_topic["vllm of all nodes"]
    assert (odd.status, odd.finding) == ("bad", "0.31.0 on 10.0.0.2 (n2); 0.32.0 on 10.0.0.1 (n1)")
    assert "install one lock on all nodes" in odd.advice
    assert by_topic["ray of all nodes"].status == "ok"
    builds = [answer("n1", report(GOOD | {"torch": "2.13.0+cpu"})), answer("n2", report())]
    assert {each.status for each in check_versions(builds)} == {"ok"}  # CPU nodes beside GPU nodes


def test_gpus_that_ray_and_the_driver_do_not_agree_on() -> None:
    cuda, cpu = GOOD, GOOD | {"torch": "2.13.0+cpu"}
    assert check_gpus(node("n1", 2), report(cuda, ("L40S", "L40S"))).status == "ok"
    assert check_gpus(node("n1", 2), report(cuda, ("L40S",))).status == "bad"
    assert check_gpus(node("n1", 1), report(cuda, ("L40S", "L40S"))).status == "warn"
    assert "CUDA lock" in check_gpus(node("n1", 1), report(cpu, ("L40S",))).advice


def test_a_node_that_says_nothing_and_a_clock_that_is_off() -> None:
    (silent,) = check_each_node([answer("n1", None, "DeadlineError: 90 s")])
    assert (silent.status, silent.finding) == (
        "bad",
        "no answer: DeadlineError: 90 s",
    ) and "raylet.out" in silent.advice
    assert check_clock(node("n1"), 2.5, 0.1).status == "warn" and "chrony" in check_clock(node("n1"), 2.5, 0.1).advice
    assert check_clock(node("n1"), -2.5, 1.0).status == "ok"  # nobody knows it that well


def test_a_folder_is_shared_where_each_reads_what_the_other_wrote(tmp_path: Path) -> None:
    place, problem = open_place(tmp_path / "runs", "hello")
    assert problem is None
    here = NodeProbe().report(str(place), "hello", "n1")
    assert here.folder_problem == ""
    assert check_folder(tmp_path, place, [answer("n1", here)], "hello").status == "ok"
    elsewhere = NodeProbe().report(str(tmp_path / "not mounted"), "hello", "n2")
    found = check_folder(tmp_path, place, [answer("n1", here), answer("n2", elsewhere)], "hello")
    assert found.status == "bad" and "10.0.0.2 (n2): what the driver wrote is not there" in found.finding
    unseen = check_folder(tmp_path, place, [answer("n3", report())], "hello")
    assert unseen.status == "bad" and "not seen by the driver" in unseen.finding


def test_a_folder_that_cannot_be_shared_says_why(tmp_path: Path) -> None:
    for folder, status, words in (
        (Path("runs"), "warn", "relative"),
        (tmp_path / "none" / "runs", "bad", "is not there on the driver's node"),
    ):
        place, problem = open_place(folder, "hello")
        assert problem is not None and not place.exists()
        assert problem.status == status and words in problem.finding and problem.advice
