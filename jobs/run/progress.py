"""Progress of a run: a bar on a terminal, plain lines in a log.

Given the metrics of each step; shows reward (or loss, or accuracy), tokens per second and the time left.
The same object serves training, supervised steps and evaluation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SHOWN: tuple[tuple[str, str, str], ...] = (
    ("reward/mean", "reward", "{:.3f}"),
    ("rollout/accuracy", "accuracy", "{:.1%}"),
    ("learner/loss", "loss", "{:.4f}"),
    ("evaluation/accuracy", "accuracy", "{:.1%}"),
    ("rollout/tokens_per_s", "tokens/s", "{:,.0f}"),
    ("learner/tokens_per_s", "tokens/s", "{:,.0f}"),
)
"""Metric, label and format. The first metric of a label wins; a loss is shown only without a reward."""

REMINDER_S = 30.0
BAR_WIDTH = 12


class Progress:
    """`with Progress("grpo", total=100, unit="steps") as progress: progress.advance(done, metrics)`.

    `done` counts from the start of the run; a resumed run passes `start`, so that time left is right.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "steps",
        start: int = 0,
        console: Console | None = None,
        every_s: float = 5.0,
    ) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.title, self.total, self.unit = title, total, unit
        self._console = console or Console(stderr=True)
        self._start, self._every_s = start, every_s
        self._began = self._last_line = time.monotonic()
        self._done = start
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[facts]}}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, facts="")

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        self._last_line = self._began - self._every_s
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, done: int, metrics: Mapping[str, float | None] | None = None) -> None:
        """`done` of `total` are finished, the last with these metrics."""
        self._done = done
        facts, time_left = shown(metrics or {}), self._time_left()
        if self._console.is_terminal:
            fixed = f"{self.title}  {self.total}/{self.total} {self.unit}  "
            elapsed = f"after {duration(time.monotonic() - self._began)}"
            room = self._console.width - BAR_WIDTH - len(fixed) - 1
            self._bar.update(self._task, completed=done, facts=fitting([time_left, *facts.split("  "), elapsed], room))
        elif done >= self.total or time.monotonic() - self._last_line >= self._every_s:
            self._last_line = time.monotonic()
            parts = (f"{self.title}: {done}/{self.total} {self.unit}", facts, time_left)
            self.say("  ".join(part for part in parts if part))

    def say(self, message: str) -> None:
        """A line above the bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what is waited for, and every 30 s that it still is."""
        over = threading.Event()

        def remind() -> None:
            began = time.monotonic()
            while not over.wait(REMINDER_S):
                self.say(f"still {what} ({duration(time.monotonic() - began)})")

        self.say(what)
        reminder = threading.Thread(target=remind, daemon=True)
        reminder.start()
        try:
            yield
        finally:
            over.set()
            reminder.join()

    def _time_left(self) -> str:
        steps = self._done - self._start
        if steps <= 0 or self._done >= self.total:
            return ""
        elapsed_s = time.monotonic() - self._began
        return f"{duration(elapsed_s / steps * (self.total - self._done))} left"


def shown(metrics: Mapping[str, float | None]) -> str:
    """`reward 0.512  accuracy 48.0%  tokens/s 9,000`."""
    facts: dict[str, str] = {}
    for key, label, form in SHOWN:
        value = metrics.get(key)
        if value is not None and label not in facts and not (label == "loss" and "reward" in facts):
            facts[label] = f"{label} {form.format(value)}"
    return "  ".join(facts.values())


def fitting(parts: Sequence[str], room: int) -> str:
    """As many of the parts, in their order, as a line has room for: nothing is cut."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line and part else line or part
        if len(longer) > room:
            break
        line = longer
    return line


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `2h05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
