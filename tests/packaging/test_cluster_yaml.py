"""cluster.yaml is one that `ray up` accepts, by Ray's own reading of it; no cloud is asked.

Given cluster.yaml; what a cloud would say (an image that is gone, a quota) it cannot tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file with Ray's defaults filled in, as `ray up` sees it before it asks the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    return config


def test_ray_accepts_it_and_its_resources_need_no_guess(cluster: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    types = AutoscalingConfig(cluster).get_node_type_configs()
    assert {name: node.resources for name, node in types.items()} == {
        "head": {"CPU": 8},
        "learner": {"CPU": 48, "GPU": 4},
        "rollout": {"CPU": 48, "GPU": 4},
    }
    assert (types["learner"].min_worker_nodes, types["learner"].max_worker_nodes) == (0, 1)
    assert (types["rollout"].min_worker_nodes, types["rollout"].max_worker_nodes) == (0, 3)
    assert {name: node.labels for name, node in types.items()} == {
        name: {"raylign-node": name} for name in ("head", "learner", "rollout")
    }


def test_a_misspelt_key_would_not_pass(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(Exception, match="idle_timeout_minuets"):
        validate_config(cluster | {"idle_timeout_minuets": 10})


def test_every_start_of_ray_says_its_token_mode(cluster: dict[str, Any]) -> None:
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        (start,) = [command for command in commands if "ray start" in command]
        assert "RAY_AUTH_MODE=token" in start
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_nodes_install_the_cuda_lock(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["~/raylign/requirements"] == "requirements"
    assert any(command.endswith("environment.py packages cuda") for command in cluster["setup_commands"])
