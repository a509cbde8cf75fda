"""A Ray node may become known late, unless one of its processes has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray._private import node, services

from raylign.actors.node_start import patient_node_start


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


def start(dead: list[str]) -> None:
    """A node with these processes dead."""
    start_processes: Any = node.Node.start_ray_processes
    start_processes(SimpleNamespace(dead_processes=lambda: dead))


def test_a_node_is_asked_for_until_it_is_known(unknown_three_times: list[str]) -> None:
    rays_own = services.get_node
    with patient_node_start():
        start(dead=[])
        assert services.get_node("here:1", "7") == "node 7"
    assert unknown_three_times == ["here:1"] * 4
    assert services.get_node is rays_own


@pytest.mark.parametrize(("dead", "node_start_s"), [(["raylet"], 600.0), ([], 0.0)])
def test_nobody_waits_for_a_dead_one_or_for_ever(
    unknown_three_times: list[str], dead: list[str], node_start_s: float
) -> None:
    with patient_node_start(node_start_s), pytest.raises(RuntimeError, match="no node 7"):
        start(dead)
        services.get_node("here:1", "7")
    assert len(unknown_three_times) == 1
