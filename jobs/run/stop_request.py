"""Ctrl-C, and the word of whoever ends jobs: the first asks the run to finish its step and save, the second ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequest:
    """Asked or not. Before the first step, and when asked again, the run's task is cancelled; checkpoints stay."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.is_asked = False
        self.is_stepping = False
        """Set with the first step: from then on there is something to finish and to save."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask, from here to the end of the block."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.ask, task)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def ask(self, task: asyncio.Task[None]) -> None:
        """Once: finish the step and save. Again, or before the first step: stop at once."""
        is_repeated, self.is_asked = self.is_asked, True
        if is_repeated or not self.is_stepping:
            task.cancel()
        else:
            self._say("stopping after this step and saving (Ctrl-C again: stop at once)")
