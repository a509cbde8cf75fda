"""An actor that hangs, be it stopped or stuck, is ended, and Ray starts it again: a death that nobody sees is made one.

Given an actor that Ray restarts, and a verb of it that answers at once; gives nothing back. It waits for each answer,
at most `SILENCE_S`; where the process is new, for as long as its start may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from raylign.actors.waiting import DeadlineError, wait_for

ASK_EVERY_S = 10.0
SILENCE_S = 40.0
"""Without an answer for so long an actor is taken for dead."""


async def keep_answering(
    what: str, ask: Callable[[], Awaitable[object]], start_again: Callable[[], None], start_s: float
) -> None:
    """Until cancelled, or until the actor is gone for good, which those who use it see by themselves."""
    patience_s = start_s
    while True:
        try:
            await wait_for(ask(), what, patience_s, report_s=patience_s)
            patience_s = SILENCE_S
        except DeadlineError:
            print(f"{what} has not answered for {patience_s:.0f} s; starting its process again", flush=True)
            start_again()
            patience_s = start_s
        except Exception:  # it may be on its way back, or will never be
            patience_s = start_s
        await asyncio.sleep(ASK_EVERY_S)
