"""Actors and engines that hang, be they stopped or stuck, are ended and replaced: a death that nobody sees is made one.

Given an actor that Ray restarts, and a verb of it that answers at once; gives nothing back. It waits for each answer,
at first `SILENCE_S`; where the process is new, for as long as its start may take. Engines are the fleet's to replace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from raylign.actors.fleet import Engine, EngineState, Fleet
from raylign.actors.waiting import DeadlineError, wait_for

ASK_EVERY_S = 2.0
SILENCE_S = 20.0
"""Without an answer for so long an actor is taken for dead; twice as long after each time, so that one that was only
busy gets done."""


async def keep_answering(
    what: str, ask: Callable[[], Awaitable[object]], start_again: Callable[[], None], start_s: float
) -> None:
    """Until cancelled, or until the actor is gone for good, which those who use it see by themselves."""
    patience_s, silence_s = start_s, SILENCE_S
    while True:
        try:
            await wait_for(ask(), what, patience_s, report_s=patience_s)
            patience_s = silence_s
        except DeadlineError:
            print(f"{what} has not answered for {patience_s:.0f} s; starting its process again", flush=True)
            start_again()
            patience_s = start_s
            silence_s *= 2
        except Exception:  # it may be on its way back, or will never be
            patience_s = start_s
        await asyncio.sleep(ASK_EVERY_S)


async def watch_engines(fleet: Fleet, silence_s: float) -> None:
    """Until cancelled. An engine that is being updated is left to the deadline of the update."""
    while True:
        await asyncio.gather(*(_watch(fleet, engine, silence_s) for engine in fleet.serving))
        await asyncio.sleep(ASK_EVERY_S)


async def _watch(fleet: Fleet, engine: Engine, silence_s: float) -> None:
    name = f"rollout worker {engine.number}"
    try:
        await wait_for(engine.handle.ping.remote(), name, silence_s, report_s=silence_s)
    except DeadlineError:
        if engine.state is EngineState.CURRENT:
            words = f"{name} has given no sign of life for {silence_s:g} s (rollout.engine.silence_deadline_s)"
            fleet.mark_lost(engine, words)
    except Exception:  # it is dead or ending: whoever uses it sees that by itself
        return
