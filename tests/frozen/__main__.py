"""`python -m tests.frozen compare|write [PART …]`: what must stay equal while the code is rearranged.

Given parts (all where none is named: print_config, report and the curves grpo, sail_dpr, bdr, bdr_online); `compare`
prints for each `equal` or its first difference, and ends with 1 where one differs; `write` freezes what there is now.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.frozen import curves, printed_configs, recorded_report
from tests.frozen.command_line import ROOT, recipe_names

PARTS = ("print_config", "report", *curves.CURVES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("compare", "write"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--folder", type=Path, help="keep the runs there: a new folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    parts = [part for part in PARTS if part in (arguments.parts or PARTS)]
    print(f"tree {ROOT}", flush=True)
    with _folder(arguments.folder) as folder:
        return (_compare if arguments.verb == "compare" else _write)(parts, folder)


def _compare(parts: list[str], folder: Path) -> int:
    compared: dict[str, Callable[[], str]] = {
        "print_config": _compare_configs,
        "report": lambda: recorded_report.compare(folder),
    }
    num_different = 0
    for part in _said(parts, folder):
        difference = compared[part]() if part in compared else curves.compare(part, folder)
        exactly = "" if part in compared or not curves.tolerance() else f" within {curves.ELSEWHERE:g}"
        print(difference or f"equal{exactly}", flush=True)
        num_different += bool(difference)
    return int(num_different > 0)


def _compare_configs() -> str:
    if printed_configs.frozen_recipes() != recipe_names():
        return f"recipes: frozen {printed_configs.frozen_recipes()}, now {recipe_names()}"
    return "\n".join(filter(None, map(printed_configs.compare, recipe_names())))


def _write(parts: list[str], folder: Path) -> int:
    made: dict[str, curves.Series] = {}
    for part in _said(parts, folder):
        if part == "print_config":
            printed_configs.write()
        elif part == "report":
            recorded_report.write(folder)
        else:
            made[part] = curves.run_curve(part, folder)
        print("written", flush=True)
    if made:
        curves.write(made)
    return 0


def _said(parts: list[str], folder: Path) -> Iterator[str]:
    """Each part by name with the seconds that it took."""
    if set(parts) & set(curves.CURVES):
        curves.make_inputs(folder)
    for part in parts:
        started = time.monotonic()
        print(f"{part}: ", end="", flush=True)
        yield part
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="frozen-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    raise SystemExit(main())
