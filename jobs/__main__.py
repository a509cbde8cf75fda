"""`python -m raylign.jobs` and the `raylign` script.

Given the command line; ends the process with the command's exit code.
"""

from __future__ import annotations

import sys

from raylign.jobs.cli import run_command_line


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
