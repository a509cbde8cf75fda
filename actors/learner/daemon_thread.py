"""A blocking call in a thread that may be left behind.

Given the work; gives a future of its end for the running event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


def in_daemon_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Like `asyncio.to_thread`, but work that never returns (a rank hangs) does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def run() -> None:
        error = None
        try:
            work()
        except BaseException as raised:  # handed to whoever awaits
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody awaits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True, name="learner-group").start()
    return future
