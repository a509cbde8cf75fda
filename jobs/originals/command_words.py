"""The words of a published program's command line.

Given `python -u train.py loss=dpo loss.beta=0.1` or `cdpo dpo -p DDP --beta 0.1`; gives the program, the words after it
and the options with their values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

LAUNCHERS = {
    "python",
    "python3",
    "bash",
    "sh",
    "deepspeed",
    "accelerate",
    "torchrun",
    "launch",
    "uv",
    "run",
    "sudo",
    "nohup",
}
VALUE_OF_LAUNCHER = re.compile(r"--?(num_gpus|num_nodes|nproc_per_node|include|master_port|hostfile|config_file)")
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?")


@dataclass(frozen=True)
class Option:
    """`--beta 0.1`, `-p DDP`, `loss.beta=0.1`, `--adam_betas 0.9 0.95`."""

    word: str
    """Without dashes."""
    values: tuple[str, ...] = ()
    as_typed: str = ""

    @property
    def dashes(self) -> str:
        """Those that it was typed with."""
        return self.as_typed[: len(self.as_typed) - len(self.as_typed.lstrip("-"))]

    @property
    def value(self) -> str | None:
        return " ".join(self.values) if self.values else None


@dataclass(frozen=True)
class OriginalCommand:
    """Taken apart."""

    program: str
    """The file's or tool's bare name: `train.py`, `cdpo`, `bipost.cli.train_selector`."""
    arguments: tuple[str, ...] = ()
    """Words before the first option."""
    options: tuple[Option, ...] = field(default=())


def take_apart(words: Sequence[str]) -> OriginalCommand:
    """Launchers (`python -u`, `deepspeed --num_gpus 4 --module`) and settings of the environment are passed over."""
    rest = [word for word in words if word not in ("\\", "…", "...", "&&")]
    while rest and (rest[0] in LAUNCHERS or _ASSIGNMENT.fullmatch(rest[0]) or rest[0].startswith("-")):
        skipped = rest.pop(0)
        if VALUE_OF_LAUNCHER.fullmatch(skipped) and rest:
            rest.pop(0)
    if not rest:
        return OriginalCommand("")
    program = PurePath(rest.pop(0)).name
    arguments = []
    while rest and not rest[0].startswith("-") and not _ASSIGNMENT.fullmatch(rest[0]):
        arguments.append(rest.pop(0))
    return OriginalCommand(program, tuple(arguments), tuple(options_of(rest)))


def options_of(words: Sequence[str]) -> list[Option]:
    """Options with the words up to the next one as their values."""
    found: list[Option] = []
    for word in words:
        assigned = _ASSIGNMENT.fullmatch(word.lstrip("-"))
        is_option = word.startswith("-") and not _NUMBER.fullmatch(word)
        if assigned and (is_option or not word.startswith("-")):
            found.append(Option(assigned[1], (assigned[2],), word))
        elif is_option:
            found.append(Option(word.lstrip("-"), (), word))
        elif found:
            last = found[-1]
            found[-1] = Option(last.word, (*last.values, word), f"{last.as_typed} {word}")
        else:
            found.append(Option(word, (), word))
    return found
