"""The viewer in a real browser: what `raylign view` serves is what a person sees, and its pictures for the docs.

`RAYLIGN_PICTURES=FOLDER RAYLIGN_PICTURES_OF=RUNS` writes pictures of these runs there; `docs/view/` holds such.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylign.jobs.view.view import LOOPBACK
from tests.jobs.view.browser import PROGRAM, Browser
from tests.jobs.view.made_folders import EVIL, make_data_job, make_sweep
from tests.patience import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no browser on this machine")]
SHOWN = {"Table": "Over seeds", "Parameters": "Across", "Curves": "Chart", "Samples": "Order", "Data": "Rows of"}
"""View, and what it says once it is there."""
HEIGHTS = {"Data": 1180, "Curves": 800}
"""Of the window, where a view needs more than most to be seen whole."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_sweep(folder / "study", [0.2, 0.4], [0.1, 0.3])
    make_data_job(folder / "rows")
    return folder


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    folder = Path(os.environ.get("RAYLIGN_PICTURES_OF", str(made)))
    words = [sys.executable, "-m", "raylign.jobs", "view", folder.name, "--port", str(port)]
    process = subprocess.Popen(words, cwd=folder.parent, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, port)) == 0

    try:
        wait_until(answers, "a page", [process])
        yield f"http://{LOOPBACK}:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(1280, 800) as found:
        yield found


@pytest.mark.parametrize("view", SHOWN)
def test_each_view_shows_itself_without_an_error(view: str, server: str, browser: Browser) -> None:
    browser.resize(1280, HEIGHTS.get(view, 700))
    browser.open(f"{server}/?view={view}", until=SHOWN[view])
    assert browser.value("document.querySelectorAll('[data-testid=stException]').length") == 0
    if "RAYLIGN_PICTURES" in os.environ:
        browser.picture(Path(os.environ["RAYLIGN_PICTURES"]) / f"{view.lower()}.png")


@pytest.mark.skipif("RAYLIGN_PICTURES_OF" in os.environ, reason="pictures of other runs are being taken")
def test_nothing_that_data_say_is_run_or_styled(server: str, browser: Browser) -> None:
    browser.open(f"{server}/?view=Data", until=EVIL)
    assert browser.value("document.querySelectorAll('.stMain pre script, .stMain pre b').length") == 0
