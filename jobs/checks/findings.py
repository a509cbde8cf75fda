"""What the checks before a start found, and how it is shown.

Given facts, memory, warnings and problems, added by the checks; gives tables to read, or one error with all problems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from raylign.jobs.checks.machine import GIB
from raylign.jobs.checks.unused_rows import SectionRead

T = TypeVar("T")
LONGEST_VALUE = 600


class PlanError(ValueError):
    """The run cannot work; the message has one line for each problem."""


@dataclass
class Findings:
    """In the order of the table."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    memory: list[tuple[str, str, int]] = field(default_factory=list)
    """(role, part, bytes)"""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Nothing is wrong with them; said by the plan and at the start."""
    read: list[SectionRead] = field(default_factory=list)
    """Data sections whose rows were read."""
    num_embeddings: int | None = None
    """Of the model that rows are read for; filled by the check of its folder, None where it is not known."""

    def fact(self, name: str, value: object) -> None:
        """One row of the table."""
        self.facts.append((name, str(value)))

    def attempt(self, key: str, check: Callable[[], T]) -> T | None:
        """What `check` gives. A ValueError of it is a problem; the checks after it still run."""
        try:
            return check()
        except ValueError as error:
            self.problems += [f"{key}: {line}" for line in str(error).split("\n")]
            return None

    def raise_problems(self) -> None:
        """One error with all problems, if there are any."""
        if self.problems:
            raise PlanError("\n".join(self.problems))


def print_findings(findings: Findings, all_well: str = "ready to start") -> None:
    """To the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    facts = Table("what", "value", title="Plan", title_justify="left")
    for name, value in findings.facts:
        facts.add_row(escape(name), escape(value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + " …"))
    console.print(facts)
    if findings.memory:
        memory = Table("role", "part", "GiB", title="Memory (estimate)", title_justify="left")
        for role, part, num_bytes in findings.memory:
            memory.add_row(role, part, f"{num_bytes / GIB:.2f}")
        console.print(memory)
    for note in findings.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True, highlight=False)
    for warning in findings.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    for problem in findings.problems:
        console.print(f"[red]problem:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if not findings.problems:
        console.print(f"[green]{all_well}[/]")
