"""A Ray node may become known late, unless one of its processes has ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import node, services

from raylign.actors.node_start import NodeStartError, patient_node_start


@pytest.fixture
def unknown_three_times(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ray's own question for a node; gives the addresses that were asked."""
    asked: list[str] = []

    def get_node(gcs_address: str, node_id: str) -> str:
        asked.append(gcs_address)
        if len(asked) <= 3:
            raise RuntimeError(f"no node {node_id}")
        return f"node {node_id}"

    monkeypatch.setattr(services, "get_node", get_node)
    monkeypatch.setattr(node.Node, "start_ray_processes", lambda self: None)
    return asked


def start(dead: Mapping[str, int], logs: Path | None = None) -> None:
    """A node whose processes of these kinds have ended with these codes."""

    def dead_processes() -> list[tuple[str, Any]]:
        return [(kind, SimpleNamespace(poll=lambda code=code: code)) for kind, code in dead.items()]

    start_processes: Any = node.Node.start_ray_processes
    start_processes(SimpleNamespace(dead_processes=dead_processes, get_logs_dir_path=lambda: str(logs)))


def test_a_node_is_asked_for_until_it_is_known(unknown_three_times: list[str]) -> None:
    rays_own = services.get_node
    with patient_node_start():
        start({})
        assert services.get_node("here:1", "7") == "node 7"
    assert unknown_three_times == ["here:1"] * 4
    assert services.get_node is rays_own


def test_nobody_waits_for_ever(unknown_three_times: list[str]) -> None:
    with patient_node_start(0.0), pytest.raises(RuntimeError, match="no node 7"):
        start({})
        services.get_node("here:1", "7")
    assert len(unknown_three_times) == 1


def test_a_dead_process_is_named_with_its_last_words(unknown_three_times: list[str], tmp_path: Path) -> None:
    (tmp_path / "raylet.err").write_text("first\n" * 9 + "no room for its store\n")
    with patient_node_start(), pytest.raises(NodeStartError) as found:
        start({"raylet": -9}, tmp_path)
        services.get_node("here:1", "7")
    said = str(found.value).splitlines()
    assert said[0] == f"Ray's node did not start: raylet (exit code -9) ended; logs in {tmp_path}"
    assert said[-1] == "  raylet.err: no room for its store" and len(said) == 6
    assert len(unknown_three_times) == 1


def test_the_error_that_a_stack_comes_after_is_what_is_shown(unknown_three_times: list[str], tmp_path: Path) -> None:
    stack = "".join(f"/lib/raylet(+0x{number:x}) [0x5] main\n" for number in range(20))
    check = "[2026-11-28 01:47:31,805 C 22553 22553] (raylet) node.cc:9:  Check failed: the port is taken\n"
    (tmp_path / "raylet.err").write_text("[2026-11-28 01:47:31,1 I 22553 22553] (raylet) started\n" + check + stack)
    with patient_node_start(), pytest.raises(NodeStartError, match="the port is taken"):
        start({"raylet": 1}, tmp_path)
        services.get_node("here:1", "7")
