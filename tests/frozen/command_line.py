"""The seam that frozen outputs are made through: the command line and the files of a run folder, no module of ours.

Given the words of a command; gives what it prints, or its end as a process of its own. Files and interfaces may move
behind it as they like. The tree that is run is the one that this file belongs to, whatever else is installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
from pathlib import Path

from tests.end_to_end.processes import WatchedProcess

ROOT = Path(__file__).resolve().parents[2]
FROZEN = Path(__file__).resolve().parent
PROGRAM = "raylign.jobs"


def recipe_names() -> list[str]:
    """Recipes that come with raylign."""
    return sorted(path.stem for path in (ROOT / "src" / "raylign" / "jobs" / "recipes").glob("*.yaml"))


def printed_by(words: list[str]) -> str:
    """What `raylign <words>` prints, run in this process: starting Python 40 times takes half a minute."""
    import raylign

    assert Path(str(raylign.__file__)).resolve().is_relative_to(ROOT), (
        f"raylign is imported from {raylign.__file__}, not from this tree: set PYTHONPATH to {ROOT / 'src'}"
    )
    output, before = io.StringIO(), sys.argv
    sys.argv = ["raylign", *words]
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_module(PROGRAM, run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"raylign {' '.join(words)} ended with {end.code}"
    finally:
        sys.argv = before
    return output.getvalue()


def run_in(folder: Path, *words: str) -> None:
    """`raylign <words>` in that folder, so that no path in its files names this machine; nothing of it is left."""
    own_tree = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    log = folder / f"{words[0]}-{len(list(folder.glob('*.log')))}.log"
    with contextlib.chdir(folder):
        process = WatchedProcess([sys.executable, "-m", PROGRAM, *words], log, os.environ | {"PYTHONPATH": own_tree})
    try:
        assert process.wait() == 0, process.output()
    finally:
        process.end()
