"""What a user installs: the sdist, the wheel made from it, a git installation, and the command in each.

Given a copy of the working tree as git has it; builds without network, in under a minute for all tests together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.patience import HANGS_S

ROOT = Path(__file__).parents[2]
FOLDERS = ["actors", "jobs", "learners", "rewards", "rollout"]
INSTALL = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"} | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=HANGS_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as a commit of now would hold it; links stay links."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files belong to the project")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    target = tmp_path_factory.mktemp("tree") / "raylign"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    """A folder with the sdist and the wheel that was built from the sdist alone."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "dist", ".", cwd=tree)
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel_names(built: Path) -> set[str]:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_of_the_package(tree: Path) -> set[str]:
    found = {"raylign/__init__.py", "raylign/py.typed"}
    for folder in FOLDERS:
        found |= {f"raylign/{path.relative_to(tree)}" for path in (tree / folder).rglob("*") if path.is_file()}
    # the tables that `raylign from` reads are pages of the documentation, linked to
    pages = (tree / "docs" / "from_the_originals").iterdir()
    return found | {f"raylign/jobs/originals/pages/{page.name}" for page in pages}


def assert_runs(installed: Path) -> None:
    """`raylign` and `python -m raylign.jobs` answer from `installed`, not from the checkout."""
    elsewhere = installed.parent  # not the root of the checkout, where the five folders could be imported
    where = run(
        sys.executable, "-c", "import raylign; print(raylign.__file__)", cwd=elsewhere, PYTHONPATH=str(installed)
    )
    assert Path(where.strip()) == installed / "raylign" / "__init__.py"
    for command in ([sys.executable, "-m", "raylign.jobs"], [installed / "bin" / "raylign"]):
        assert "train" in run(*command, "--help", cwd=elsewhere, PYTHONPATH=str(installed))
    ours = run(*command, "from", "cdpo dpo -p DDP", cwd=elsewhere, PYTHONPATH=str(installed))
    assert ours == "raylign train --config sail_ddp\n"


def test_links_in_the_repository_are_relative_and_lead_to_the_five_folders() -> None:
    listed = run("git", "ls-files", "--stage", "src/raylign", cwd=ROOT)
    links = {line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")}
    assert links == {f"src/raylign/{folder}" for folder in FOLDERS}
    assert all(os.readlink(ROOT / "src/raylign" / folder) == f"../../{folder}" for folder in FOLDERS)


def test_sdist_holds_real_files_and_no_links(built: Path, tree: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.partition("/")[2] for member in members}
    assert {f"src/{name}" for name in files_of_the_package(tree)} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE"} <= names


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel_names: set[str], tree: Path) -> None:
    packed = {name for name in wheel_names if ".dist-info/" not in name}
    assert packed == files_of_the_package(tree)


def test_nothing_named_jobs_or_actors_lands_in_site_packages(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"raylign"}


def test_wheel_from_the_sdist_installs_and_runs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(*INSTALL, "--target", tmp_path / "site", wheel, cwd=tmp_path)
    assert_runs(tmp_path / "site")


def test_installation_from_git_runs(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(tree, copy, symlinks=True, ignore=shutil.ignore_patterns("dist", "*.egg-info", "build"))
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    run("git", "init", "--quiet", cwd=copy)
    run("git", "add", "--all", cwd=copy)
    run("git", *author, "commit", "--quiet", "--message", "all", cwd=copy)
    run(*INSTALL, "--target", tmp_path / "site", f"git+file://{copy}", cwd=tmp_path)
    assert_runs(tmp_path / "site")


def test_a_module_that_was_deleted_is_not_packed_from_a_leftover_build_folder(tree: Path, tmp_path: Path) -> None:
    leftover = tree / "build" / "lib" / "raylign" / "jobs" / "deleted.py"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ".", cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "raylign/jobs/deleted.py" not in archive.namelist()
