"""The experience host: the Ray host of a run's experience log.

Given groups by `append` from any number of producers, gives them to the learner by `lease`: where they lie, and no
bytes of them. `lease` waits for enough groups (`append`, and leases that expire, unblock it) and never longer than its
deadline.

    await host.append.remote(batch_to_message(groups_to_batch(groups)))
    lease = await host.lease.remote(64, 600.0, step, 30.0)
    groups = lease.rows.groups()
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylign.actors.waiting import happens
from raylign.rollout.experience.types import (
    Appended,
    Arrivals,
    ExperienceConfig,
    Held,
    Lease,
    LogCounters,
    LogPosition,
    Opened,
)

MIB = 2**20
HOLD_S = 600.0
"""Of the leases beside those that are settled: the next call for one comes long before."""


class ExperienceHost:
    """One log. An actor that Ray restarts opens it as it stands: nothing that was decided is undone. Ray repeats the
    calls that it died in, so each may come twice: a group that is there is refused, a decision that stands is left.
    `held` tells the new process which leases the learner still has."""

    def __init__(self, folder: Path, config: ExperienceConfig, seed: int = 0) -> None:
        self._folder = folder
        self._config = config
        self._seed = seed
        self._opened: Any = None
        self._changed = asyncio.Event()
        self._arrived: list[int] = []
        self._num_bytes = self._num_groups = 0
        self._news = asyncio.Event()
        self._is_closing = False

    async def start(self, position: LogPosition | None) -> Opened:
        """Open the log at a checkpoint's position (`START` where there is none)."""
        if self._opened is not None:
            self._opened.close()
        self._opened = self._open(position)
        ledger = self._opened.ledger
        return Opened(tuple(self._opened.damage), tuple(ledger.missing_ordinals()), ledger.next_ordinal)

    def _open(self, position: LogPosition | None) -> Any:
        from raylign.rollout.experience.log import ExperienceLog

        return ExperienceLog.open(self._folder, self._config, position, self._seed)

    @property
    def _log(self) -> Any:
        if self._opened is None:
            self._opened = self._open(None)
            self._arrived = self._opened.ledger.live_ordinals()  # the process before may have told nobody
            self._news.set()
            print(f"the experience log's process was started again, on what lies in {self._folder}", flush=True)
        return self._opened

    async def append(self, message: Any) -> Appended:
        """Log the groups of `experience_schema.batch_to_message`; safe from kill -9 when it returns."""
        from raylign.rollout.experience.schema import message_to_batch

        appended: Appended = self._log.append(message)
        self._num_bytes += len(message)
        self._num_groups += len(appended.offsets) + len(appended.refused)
        self._arrived += message_to_batch(message).column("ordinal").to_pylist()
        self._changed.set()
        self._news.set()
        return appended

    async def arrivals(self, deadline_s: float) -> Arrivals:
        """What has come since the last call, for the one who issues prompts; returns at once when groups came or were
        decided about, and at the latest after the deadline."""
        log = self._log  # a new process has news as soon as it has opened it
        await happens(self._news, deadline_s)
        if self._is_closing:
            return Arrivals((), 0, None)
        self._news.clear()
        ordinals, self._arrived = self._arrived, []
        counters: LogCounters = log.counters
        return Arrivals(tuple(ordinals), counters.unread_groups + counters.leased_groups, self._num_room(counters))

    def _num_room(self, counters: LogCounters) -> int | None:
        if not self._num_groups:
            return None
        free_bytes = self._config.max_unread_mib * MIB - counters.unread_bytes
        fitting = int(free_bytes // (self._num_bytes / self._num_groups))
        return max(fitting, int(self._log.has_room), self._log.num_lacking)  # a lease that waits makes room

    async def lease(
        self, count: int, lease_s: float, step: int, deadline_s: float, held: Sequence[Held] = ()
    ) -> Lease | None:
        """The next `count` groups; None if there were not enough within the deadline. `held`: all leases that the
        caller has."""
        deadline = time.monotonic() + deadline_s
        self._log.hold(held, lease_s)
        while True:
            self._changed.clear()
            lease: Lease | None = self._log.lease(count, lease_s, step)
            self._news.set()  # there may be room now, be it for what this lease lacks
            if lease is not None:
                return lease
            left_s = deadline - time.monotonic()
            expiry_s = self._log.expire()
            if left_s <= 0:
                return None
            # append unblocks it, or the end of a lease
            await happens(self._changed, min(left_s, expiry_s if expiry_s is not None else left_s))
            if self._is_closing:
                return None

    async def settle(self, lease_ids: Sequence[str], step: int, held: Sequence[Held] = ()) -> LogPosition:
        """What these leases still hold was trained in `step`; gives where the log stands after it."""
        self._log.hold(held, HOLD_S)
        for lease_id in lease_ids:
            self._log.settle(lease_id, step)
        self._news.set()
        return await self.position(step)

    async def mark_filtered(self, offsets: Sequence[int], step: int) -> None:
        self._log.mark_filtered(offsets, step)
        self._news.set()

    async def mark_dropped(self, offsets: Sequence[int], reason: str, step: int) -> list[int]:
        """The ordinals to be issued again."""
        ordinals: list[int] = self._log.mark_dropped(offsets, reason, step)
        self._changed.set()
        self._news.set()
        return ordinals

    async def position(self, step: int) -> LogPosition:
        position: LogPosition = self._log.position(step)
        return position

    async def commit(self, position: LogPosition) -> None:
        """Returns once the log is on the disk; meanwhile other verbs go on."""
        from raylign.rollout.experience.segments import sync_files

        await asyncio.to_thread(sync_files, self._log.begin_commit(position))

    async def state(self) -> tuple[LogCounters, bool]:
        """Counters, and whether new groups may be started."""
        return self._log.counters, self._log.has_room

    async def close(self) -> None:
        """Everything is on the disk after it. Who still waits gets nothing: Ray would repeat a call without answer."""
        self._is_closing = True
        self._news.set()
        self._changed.set()
        await asyncio.sleep(0)
        if self._opened is not None:
            self._opened.close()
            self._opened = None
