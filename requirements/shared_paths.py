"""Which paths two packages of requirements/cuda.txt would both install: the later one overwrites the earlier one's.

Given the lock and pip's own settings; reads RECORDs of what is installed here, and of other wheels only their lists of
files, by pip's own range requests (a few MB of many GB). Writes requirements/cuda-paths.json, which a test reads.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCK = HERE / "cuda.txt"
FACTS = HERE / "cuda-paths.json"
SCHEMES = re.compile(r"^[^/]+\.data/(purelib|platlib)/")
"""Folders of a wheel whose contents land beside the rest."""


def pins(lock: Path) -> dict[str, str]:
    """{"torch": "2.13.0"}"""
    return dict(line.split("==") for line in lock.read_text().splitlines() if line)


def digest(content: bytes) -> str:
    """As RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


class Installed:
    """A package that is installed here."""

    def __init__(self, found: importlib.metadata.Distribution) -> None:
        self.digests = {str(each): each.hash.value for each in found.files or [] if each.hash is not None}
        self.names = frozenset(self.digests)

    def digest_of(self, path: str) -> str:
        """Of the package's own file, whoever has overwritten it here."""
        return self.digests[path]


class Wheel:
    """A wheel somewhere else, of which only the list of files at its end is read, and single files."""

    def __init__(self, url: str) -> None:
        from pip._internal.network.lazy_wheel import LazyZipOverHTTP
        from pip._internal.network.session import PipSession
        from pip._internal.utils.urls import url_to_path

        local: Any = url_to_path(url) if url.startswith("file:") else LazyZipOverHTTP(url, PipSession())
        self._archive = zipfile.ZipFile(local)
        self._members = {SCHEMES.sub("", name): name for name in self._archive.namelist()}
        self.names = frozenset(self._members)

    def digest_of(self, path: str) -> str:
        """Reads that one file."""
        return digest(self._archive.read(self._members[path]))


Package = Installed | Wheel


def installed(name: str, version: str) -> Installed | None:
    """None where another version is, or none, or nobody knows which files are its own."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Installed(found) if found.version == version and found.files else None


def own_paths(names: Iterable[str]) -> Iterator[str]:
    """Files that land in site-packages; what an installer writes there itself is nobody's."""
    for path in names:
        outside = path.startswith("..") or ".data/" in path or path.endswith("/")
        if not outside and "__pycache__/" not in path and not re.match(r"[^/]+\.dist-info/", path):
            yield path


def wheel_urls(requirements: list[str]) -> dict[str, str]:
    """Where pip would get them, by name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:", "--quiet"]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, *words, "--report", str(report), *requirements], check=True)
        found = json.loads(report.read_text())["install"]
    return {canonical(each["metadata"]["name"]): each["download_info"]["url"] for each in found}


def canonical(name: str) -> str:
    """As a lock writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shared_paths(packages: Mapping[str, Package]) -> dict[str, dict[str, str]]:
    """{"a, b": {path that both own: "same" or "different"}}"""
    owners: dict[str, list[str]] = defaultdict(list)
    for name, package in sorted(packages.items()):
        for path in own_paths(package.names):
            owners[path].append(name)
    shared: dict[str, dict[str, str]] = defaultdict(dict)
    for path, names in sorted(owners.items()):
        if len(names) > 1:
            digests = {packages[name].digest_of(path) for name in names}
            shared[", ".join(names)][path] = "same" if len(digests) == 1 else "different"
    return dict(shared)


def main() -> None:
    versions = pins(LOCK)
    packages: dict[str, Package] = {
        name: found for name, version in versions.items() if (found := installed(name, version)) is not None
    }
    missing = [f"{name}=={version}" for name, version in versions.items() if name not in packages]
    print(f"{len(packages)} packages are installed here; asking for the lists of files of {len(missing)} others")
    for name, url in wheel_urls(missing).items():
        packages[name] = Wheel(url)
        print(f"    {name}: {len(packages[name].names)} files", flush=True)
    shared = shared_paths(packages)
    facts = {"packages": [f"{name}=={version}" for name, version in versions.items()], "shared": shared}
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(
        f"Wrote {FACTS.name}: {sum(map(len, shared.values()))} paths of two owners, of {'; '.join(shared) or 'nobody'}"
    )


if __name__ == "__main__":
    main()
