"""Connecting to Ray: a private cluster on this machine, or the one that we were submitted to.

Given a `ClusterConfig`; gives a context in which Ray is up, and takes down what it started.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from raylign.actors.cluster_token import check_token
from raylign.actors.node_start import PATIENT_ENVIRONMENT, patient_node_start
from raylign.actors.placement import RoleLabels
from raylign.actors.warm.process import cool_down, warm_up
from raylign.actors.warm.worker_command import settings_of_node
from raylign.rollout.owned_folders import OwnedFolder, clear_orphans


class ClusterConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Where the actors run."""

    address: str = "auto"
    """auto: the cluster this job was submitted to, else a private one on this machine; local: always private; or
    an address."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a private cluster; all of the machine's where empty."""
    object_store_mib: int = Field(512, ge=80)
    """Shared memory for objects of a private cluster, in MiB."""
    gpus: Literal["auto", "always", "never"] = "auto"
    """Whether engines and ranks ask for GPUs. auto: where the cluster has some when the run starts; always: also where
    the nodes that have them are still to come."""
    labels: RoleLabels = RoleLabels()
    placement_deadline_s: float = Field(600, gt=0)
    """How long to wait for the resources of all roles together (nodes that are still to come included)."""


CONNECT_DEADLINE_S = 10.0
LOOPBACK = "127.0.0.1"
"""Where all of a private cluster listens: nobody on the network has business with it."""
QUIET_ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without a GPU keep CUDA_VISIBLE_DEVICES as it is
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints each line of a rank twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[dict[str, float]]:
    """Ray, connected; gives the cluster's resources. Nested calls share the outer connection."""
    import ray

    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    _set_environment()
    address = _address(config)
    common: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True, "configure_logging": True}
    if address != "local":
        if check_address(config):
            check_token(address)
        ray.init(address=address, **common)
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()
        return
    if problem := interpreter_problem():
        raise ValueError(problem)
    warm_up_for(config)
    clear_orphans()
    # A short path: Ray's sockets live below it and may not exceed 107 characters. Ray opens its own folder to
    # everybody, so it lies inside one that is the user's alone.
    temporary = OwnedFolder("raylign-", "/tmp")
    # Ray tells at every start that it asks for a token, as it should; nobody has to do anything about it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    with _private_node(), patient_node_start(), _token_of_the_user():
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_mib << 20,
            include_dashboard=False,
            _temp_dir=str(temporary.path / "ray"),
            **common,
        )
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        temporary.remove()
        cool_down()


def check_address(config: ClusterConfig) -> bool:
    """Raise where nobody answers: Ray itself would wait for minutes, and names nothing. Whether a head was asked."""
    address = _address(config)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return False  # `auto`, or a name that Ray looks up itself
    key = "cluster.address" if config.address != "auto" else "RAY_ADDRESS"
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_DEADLINE_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"{key} is {address}: no Ray answers there ({error}); give the address that `ray start` printed, or leave "
            "it out to start a private one"
        ) from None
    return not address.startswith("ray://")  # else it is a proxy of the head's


def interpreter_problem() -> str | None:
    """Why Ray cannot start processes with this Python: it writes the path into a line for a shell without quotes."""
    if re.fullmatch(r"[^\s'\"\\$`&|;<>()*?!#~{}\[\]]+", sys.executable):
        return None
    return (
        f"Python is {sys.executable!r}: Ray starts its processes through a shell, which cuts that path apart; use an "
        "environment whose path has no spaces, quotes or brackets"
    )


@contextmanager
def _private_node() -> Iterator[None]:
    """A node that is started meanwhile listens on loopback alone (`ray.init` would replace that address by one that
    others reach) and has no process that a private cluster has no use for: none that looks after an autoscaler, none
    that would serve the dashboard and reports usage, for which Ray's start would wait."""
    from ray._private import parameter, services

    rays_parameters: Any = parameter
    rays_services: Any = services
    of_ray = rays_parameters.RayParams, rays_services.start_api_server
    settings = {"no_monitor": True, "node_ip_address": LOOPBACK, **settings_of_node()}
    rays_parameters.RayParams = lambda **named: of_ray[0](**{**named, **settings})
    rays_services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        rays_parameters.RayParams, rays_services.start_api_server = of_ray


@contextmanager
def _token_of_the_user() -> Iterator[None]:
    """A token that Ray makes meanwhile, the key to the user's clusters, is the user's alone from its first byte."""
    from ray._private.authentication import authentication_token_setup as setup

    rays_setup: Any = setup
    of_ray = rays_setup.generate_and_save_token

    def generate_and_save() -> None:
        path: Path = rays_setup._get_default_token_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
        of_ray()

    rays_setup.generate_and_save_token = generate_and_save
    try:
        yield
    finally:
        rays_setup.generate_and_save_token = of_ray


def is_private(config: ClusterConfig) -> bool:
    """Whether the cluster is one node, started by us and for us alone."""
    return _address(config) == "local"


def warm_up_for(config: ClusterConfig) -> bool:
    """Begin what takes longest, importing, where the cluster will be a private one; `ray_cluster` ends it. Whether it
    was begun here: within another cluster of this process it is there already."""
    if not is_private(config):
        return False
    _set_environment()
    return warm_up()


def _set_environment() -> None:
    for key, value in (QUIET_ENVIRONMENT | PATIENT_ENVIRONMENT).items():
        os.environ.setdefault(key, value)


def _address(config: ClusterConfig) -> str:
    return os.environ.get("RAY_ADDRESS", "local") if config.address == "auto" else config.address
