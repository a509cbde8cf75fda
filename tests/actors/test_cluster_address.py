"""A cluster that is not there, and a Python that Ray cannot start, are said before Ray waits for them."""

from __future__ import annotations

import socket
import sys

import pytest

from raylign.actors.cluster import ClusterConfig, check_address, interpreter_problem, ray_cluster


@pytest.fixture(autouse=True)
def not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests before this one may have left a connection, which a nested call would share."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def test_an_address_where_nobody_answers_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(ClusterConfig(address=f"127.0.0.1:{port}"))
        check_address(ClusterConfig(address=f"ray://127.0.0.1:{port}"))
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        with (
            pytest.raises(ValueError, match=rf"cluster\.address is {address}: no Ray answers there"),
            ray_cluster(ClusterConfig(address=address)),
        ):
            pass
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match=r"RAY_ADDRESS is 127\.0\.0\.1"):
        check_address(ClusterConfig())
    check_address(ClusterConfig(address="local"))


@pytest.mark.parametrize(
    ("path", "works"),
    [
        ("/usr/bin/python3.11", True),
        ("/home/ünï-x_1/.venv/bin/python", True),
        ("/my clone/python", False),
        ("/a'b/python", False),
        ("/a(b)/python", False),
        ("/$HOME/python", False),
    ],
)
def test_a_path_that_a_shell_cuts_apart_is_refused(path: str, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", path)
    problem = interpreter_problem()
    assert works == (problem is None)
    if problem is not None:
        assert repr(path)[1:-1] in problem
        with pytest.raises(ValueError, match="no spaces, quotes or brackets"), ray_cluster(ClusterConfig()):
            pass
