"""The manifests of deploy/kuberay say what KubeRay understands, and the image installs as `make` does.

Given the folder with KubeRay's schemas in RAYLIGN_KUBERAY (`rayclusters.v1.schema.json.gz`, …); without it only what
the manifests say of us is checked.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from raylign.jobs.config.loading import parse_words, read_recipe, resolve
from raylign.jobs.config.train import TrainConfig

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
SCHEMAS = {"raycluster.yaml": "rayclusters", "rayjob.yaml": "rayjobs"}


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


def closed(schema: Any) -> Any:
    """Misspelt keys fail: what names its properties has no others, unless it says so."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: closed(value) for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        kept.setdefault("additionalProperties", False)
    return kept


@pytest.mark.parametrize("name", SCHEMAS)
def test_kuberay_accepts_it_and_would_refuse_a_misspelt_key(name: str) -> None:
    folder = os.environ.get("RAYLIGN_KUBERAY")
    if not folder:
        pytest.skip("RAYLIGN_KUBERAY does not name the folder with KubeRay's schemas")
    schema = closed(json.loads(gzip.decompress((Path(folder) / f"{SCHEMAS[name]}.v1.schema.json.gz").read_bytes())))
    found = manifest(name)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(found, schema)
    wrong = copy.deepcopy(found)
    (wrong["spec"].get("rayClusterSpec") or wrong["spec"])["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(wrong, schema)


def test_the_job_runs_on_the_cluster_of_the_other_file() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    assert spec["rayClusterSpec"] == manifest("raycluster.yaml")["spec"]
    assert spec["backoffLimit"] > 0


def test_the_job_is_a_command_line_of_ours_that_resumes_and_whose_labels_exist() -> None:
    spec = manifest("rayjob.yaml")["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["python", "-m", "raylign.jobs", "train"]
    assert words[4:6] == ["--config", "raylign/jobs/recipes/grpo_arithmetic.yaml"]
    flags = parse_words(TrainConfig, words[6:], "raylign train").layers
    config = resolve(TrainConfig, [read_recipe(ROOT / "src" / words[5]), *flags])
    assert config.resume
    assert config.cluster.gpus == "always"
    labels = [group["labels"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
    assert config.cluster.labels.learner in labels
    assert config.cluster.labels.rollout in labels
    assert spec["rayClusterSpec"]["rayVersion"] == locked("ray")


def locked(package: str) -> str:
    """Its version in the CUDA lock."""
    found = re.search(rf"^{package}(?:\[.*?\])?==(\S+)", (ROOT / "requirements" / "cuda.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_image_installs_as_make_does() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    (run,) = (line.removeprefix("RUN ") for line in lines if line.startswith("RUN "))
    assert f"@{run.replace('${FLAVOUR}', '$(FLAVOUR)')}" in (ROOT / "Makefile").read_text()
