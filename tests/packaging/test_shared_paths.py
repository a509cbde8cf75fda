"""No two packages of a lock own one path: the one that is installed later would overwrite the other's file.

Given what is installed here, and requirements/cuda-paths.json, which requirements/shared_paths.py wrote from the lists
of files of the CUDA lock's wheels (`make lock` calls it); needs no network.
"""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace

import pytest

from tests.packaging.scripts import REQUIREMENTS, load_script

HARMLESS = {
    # one package cut in two by its makers: both carry the same two empty files
    "opencensus, opencensus-context": {"opencensus/__init__.py": "same", "opencensus/common/__init__.py": "same"},
    # packed by mistake beside the packages: it built the wheel, and nobody imports it
    "flashinfer-python, torch-c-dlpack-ext": {"build_backend.py": "different"},
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("shared_paths")


def test_of_the_cuda_lock_no_two_packages_own_one_path() -> None:
    facts = json.loads((REQUIREMENTS / "cuda-paths.json").read_text())
    lock = (REQUIREMENTS / "cuda.txt").read_text().split()
    assert facts["packages"] == lock, "the lock has changed: run requirements/shared_paths.py"
    assert facts["shared"] == HARMLESS


def test_of_what_is_installed_no_two_packages_own_one_path(script: ModuleType) -> None:
    pins = script.pins(REQUIREMENTS / "cpu.txt") | script.pins(REQUIREMENTS / "cuda.txt")
    packages = {name: found for name, version in pins.items() if (found := script.installed(name, version))}
    assert len(packages) > 100
    different = {
        owners: paths for owners, paths in script.shared_paths(packages).items() if HARMLESS.get(owners) != paths
    }
    assert not different


def test_a_path_of_two_owners_is_found_with_whether_they_agree(script: ModuleType) -> None:
    def package(**digests: str) -> SimpleNamespace:
        names = {name.replace("__", "/"): digest for name, digest in digests.items()}
        return SimpleNamespace(names=frozenset(names), digest_of=names.__getitem__)

    packages = {"a": package(x__y="1", x__z="2", own="3"), "b": package(x__y="1", x__z="9")}
    assert script.shared_paths(packages) == {"a, b": {"x/y": "same", "x/z": "different"}}
    written_by_installers = ["../../bin/x", "a-1.dist-info/RECORD", "a/__pycache__/b.pyc", "a-1.data/scripts/x", "a/"]
    assert list(script.own_paths([*written_by_installers, "a/b.py"])) == ["a/b.py"]
