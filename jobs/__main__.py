"""`python -m raylign.jobs` and the `raylign` script.

Given the command line; ends the process with the command's exit code. Before anything is imported that takes time,
Ctrl-C gets an answer of one word, and a terminal that cannot show a character shows another in its place.
"""

from __future__ import annotations

import os
import signal
import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script."""
    of_python = signal.signal(signal.SIGINT, _stop)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's stand-in has not
            stream.reconfigure(errors="replace")
    from raylign.jobs.cli import run_command_line

    signal.signal(signal.SIGINT, of_python)
    sys.exit(run_command_line(sys.argv[1:]))


def _stop(*_: object) -> None:
    """Imports are under way: nothing is there to be put away."""
    os.write(2, b"stopped\n")
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
