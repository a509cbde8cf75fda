"""`raylign view`: a local page over run folders, evaluations, comparisons, sweeps and data jobs.

Given folders; becomes streamlit's server, which listens on this machine alone and reads files, those of runs that go on
too. Without the extra `viewer` it says how to install it.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import sys
from pathlib import Path

from pydantic import BaseModel, Field

LOOPBACK = "127.0.0.1"


class ViewConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """A page over finished and running work."""

    folders: list[Path] = Field([Path("runs")], min_length=1)
    """Folders to look at, with all below them; `raylign view FOLDER …` says the same."""
    port: int = Field(8501, ge=1024, le=65535)
    """Of the page, on this machine alone."""


def view(config: ViewConfig) -> None:
    """Serve the page until Ctrl-C."""
    words = server_words(config)
    print(
        f"http://{LOOPBACK}:{config.port} (from elsewhere: ssh -L {config.port}:localhost:{config.port} …)", flush=True
    )
    os.execv(sys.executable, words)  # no second process that could be left behind


def server_words(config: ViewConfig) -> list[str]:
    """The command of the server; a ValueError where it could not start."""
    if importlib.util.find_spec("streamlit") is None:
        raise ValueError(
            "the viewer needs streamlit, which is not installed: pip install 'raylign[viewer]'; without it "
            "`raylign report --folder RUN` writes the charts of a run as one HTML file"
        )
    for folder in config.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: give the folders of runs, or one that holds them (such as runs)")
    _check_port(config.port)
    page = Path(__file__).with_name("page.py")
    options = {
        "server.address": LOOPBACK,
        "server.port": str(config.port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "runner.magicEnabled": "false",  # it would show a file's own docstrings
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    folders = list(map(str, config.folders))
    return [sys.executable, "-m", "streamlit", "run", str(page), *words, "--", *folders]


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ValueError(f"port {port} is taken, maybe by another viewer: choose one with --port") from None
