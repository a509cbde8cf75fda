"""Folders whose owner was killed go at the next start; those of the living, of others and behind links stay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raylign.rollout.owned_folders import OWNER, OwnedFolder, clear_orphans, in_use, is_held
from tests.patience import wait_until

PROGRAM = """
import sys
from raylign.rollout.owned_folders import OwnedFolder
folder = OwnedFolder("raylign-test-", sys.argv[1])
(folder.path / "inside").write_text("kept while I live")
print(folder.path, flush=True)
sys.stdin.read()
"""


@contextmanager
def owner_of_a_folder(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_a_folder_is_its_users_alone_and_goes_with_its_owner(tmp_path: Path) -> None:
    folder = OwnedFolder("raylign-test-", tmp_path)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert is_held(folder.path)
    assert clear_orphans([tmp_path]) == []
    folder.remove()
    assert list(tmp_path.iterdir()) == []
    open_files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        OwnedFolder("raylign-test-", tmp_path)  # collected at once
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_what_a_killed_owner_left_goes_with_the_next_start(tmp_path: Path) -> None:
    with owner_of_a_folder(tmp_path) as (owner, left):
        assert clear_orphans([tmp_path]) == []
        owner.kill()
        owner.wait()
        assert (left / "inside").exists()
        assert clear_orphans([tmp_path]) == [left]
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_child_of_a_killed_owner_uses_stays(tmp_path: Path) -> None:
    with owner_of_a_folder(tmp_path) as (owner, left):
        with (left / "inside").open() as held:
            owner.kill()
            owner.wait()
            assert clear_orphans([tmp_path]) == []
            assert held.read()
        assert clear_orphans([tmp_path]) == [left]


def test_links_and_folders_that_others_named_so_stay(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / OWNER).touch()
    place = tmp_path / "place"
    place.mkdir()
    (place / "raylign-link").symlink_to(outside)
    (place / "raylign-my-results").mkdir()
    (place / "raylign-file").touch()
    assert clear_orphans([place]) == []
    assert len(list(place.iterdir())) == 3
    (place / "raylign-with-a-link").mkdir()
    (place / "raylign-with-a-link" / OWNER).touch()
    (place / "raylign-with-a-link" / "link").symlink_to(outside)
    assert clear_orphans([place]) == [place / "raylign-with-a-link"]
    assert (outside / OWNER).exists()


def test_a_file_is_in_use_while_a_process_names_opens_or_maps_it(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("named", "opened", "mapped", "free")]
    for path in paths:
        path.write_bytes(bytes(4096))
    program = (
        "import mmap, sys\nheld = open(sys.argv[2])\n"
        "with open(sys.argv[2].replace('opened', 'mapped'), 'r+b') as file: memory = mmap.mmap(file.fileno(), 4096)\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(paths[0]), str(paths[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        assert in_use(paths) == set(paths[:3])
    finally:
        process.communicate()
    wait_until(lambda: in_use(paths) == set(), "end of the process")


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    folder = OwnedFolder("raylign-test-", tmp_path)
    shutil.rmtree(folder.path)
    folder.remove()
    assert not is_held(folder.path)
