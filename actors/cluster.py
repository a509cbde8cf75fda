"""Connecting to Ray: a private cluster on this machine, or the one that we were submitted to.

Given a `ClusterConfig`; gives a context in which Ray is up, and takes down what it started.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, Field

from raylign.actors.node_start import PATIENT_ENVIRONMENT, patient_node_start


class ClusterConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Where the actors run."""

    address: str = "auto"
    """auto: the cluster this job was submitted to, else a private one on this machine; local: always private; or
    an address."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a private cluster; all of the machine's where empty."""
    object_store_mib: int = Field(512, ge=80)
    """Shared memory for objects of a private cluster, in MiB."""
    placement_deadline_s: float = Field(600, gt=0)
    """How long to wait for the resources of all roles (autoscaling included)."""


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
    for key, value in (QUIET_ENVIRONMENT | PATIENT_ENVIRONMENT).items():
        os.environ.setdefault(key, value)
    address = config.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    common: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True, "configure_logging": True}
    if address != "local":
        ray.init(address=address, **common)
        try:
            yield ray.cluster_resources()
        finally:
            ray.shutdown()
        return
    # A short path: Ray's sockets live below it and may not exceed 107 characters.
    temporary = tempfile.mkdtemp(prefix="raylign-", dir="/tmp")
    # Ray tells at every start that it asks for a token, as it should; nobody has to do anything about it.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    with patient_node_start():
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_mib << 20,
            include_dashboard=False,
            _temp_dir=temporary,
            **common,
        )
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
