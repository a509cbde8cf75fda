"""Temporary folders that are found and removed after their owner was killed.

Given a prefix and a place; gives a folder that only its user may enter, with a file that its owner holds locked while
it lives, children that still hold it included. A lock ends with its process, whatever ends that, in containers too:
what can be locked is nobody's any more. Children that a killed owner left are found by what they have open (`in_use`).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "raylign-"
OWNER = ".owner"


class OwnedFolder:
    """Made now; gone with `remove`, when it is collected, or by `clear_orphans` of a later process."""

    def __init__(self, prefix: str, place: Path | str | None = None) -> None:
        assert prefix.startswith(PREFIX), "else nobody finds it"
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        draft = self.path / f"{OWNER}-draft"
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        draft.rename(self.path / OWNER)  # nobody sees it without its lock
        self.remove = weakref.finalize(self, _remove, self.path, file, os.getpid())


def _remove(path: Path, file: int, owner_pid: int) -> None:
    if os.getpid() == owner_pid:  # a forked child leaves its parent's folder alone
        shutil.rmtree(path, ignore_errors=True)
        os.close(file)


def temporary_places() -> list[Path]:
    """Where such folders lie."""
    places = [Path("/dev/shm"), Path("/tmp"), Path(tempfile.gettempdir())]
    return list(dict.fromkeys(place for place in places if place.is_dir()))


def clear_orphans(places: Iterable[Path] | None = None) -> list[Path]:
    """Remove this user's folders whose owner is dead and whose files no process uses; gives them."""
    folders = [f for place in places or temporary_places() for f in place.glob(f"{PREFIX}*") if is_own_folder(f)]
    dead = [folder for folder in folders if (folder / OWNER).is_file() and _is_unlocked(folder)]
    used = in_use(dead)
    removed = []
    for folder in dead:
        with _owned(folder) as is_ours:
            if is_ours and folder not in used:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def is_own_folder(path: Path) -> bool:
    """No link, and this user's."""
    return _is_own(path, stat.S_ISDIR)


def is_own_file(path: Path) -> bool:
    """No link, and this user's."""
    return _is_own(path, stat.S_ISREG)


def is_held(folder: Path) -> bool:
    """Whether its owner lives."""
    return (folder / OWNER).is_file() and not _is_unlocked(folder)


def in_use(paths: Iterable[Path]) -> set[Path]:
    """Those that a process names, has open, or has mapped, themselves or something below them. All of them where a
    Python process of this user keeps to itself what it uses."""
    wanted = set(paths)
    if not wanted:
        return set()
    used: set[Path] = set()
    for process in [Path("/proc/net/unix"), *Path("/proc").glob("[0-9]*")]:
        try:
            told = "\n".join(_named_by(process))
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        except PermissionError:
            if _may_be_ours(process):
                return wanted
            continue
        used |= {path for path in wanted if str(path) in told}
    return used


def _may_be_ours(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes()
        return process.stat().st_uid == os.geteuid() and bool(re.search(rb"python|\Aray|\AVLLM", words, re.IGNORECASE))
    except OSError:  # it has ended, or is somebody else's
        return False


def _named_by(process: Path) -> Iterator[str]:
    """Its words, folder, open files and mapped files; a file is taken as its own text."""
    if process.is_file():
        yield process.read_text(errors="replace")
        return
    yield (process / "cmdline").read_text(errors="replace").replace("\0", "\n")
    yield (process / "maps").read_text(errors="replace")
    for link in (process / "cwd", *(process / "fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(link)


def _is_own(path: Path, is_kind: object) -> bool:
    assert callable(is_kind)
    try:
        found = path.lstat()
    except OSError:
        return False
    return bool(is_kind(found.st_mode)) and found.st_uid == os.geteuid()


def _is_unlocked(folder: Path) -> bool:
    with _owned(folder) as is_ours:
        return is_ours


@contextmanager
def _owned(folder: Path) -> Iterator[bool]:
    """Inside, whether the folder's lock is this process's."""
    try:
        file = os.open(folder / OWNER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(file)
