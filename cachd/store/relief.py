"""What becomes of an ingest when the disk refuses: make room and go on, or say why not.

ENOSPC comes though bytes were reserved, for others write to the same volume, or a quota of the
file system (EDQUOT, a btrfs qgroup) is smaller than what statvfs tells. Where statvfs shows the
shortage, the usual rules decide who goes. Where it doesn't, idle models go one step at a time, and
no more than the ingest still needs: a refusal that evicting doesn't end must not empty the cache.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cachd.errors import DiskFull
from cachd.store import eviction

if TYPE_CHECKING:
    from cachd.errors import DiskError
    from cachd.model import Plan, Ref
    from cachd.store.startup import Opened

log = logging.getLogger("cachd.store")

STEP = 8 * 1024 * 1024
"""Bytes that are made free at least, where nobody knows how much is missing."""
_AGAIN = 2.0
"""Seconds after a step in which a refusal may be older than it, so that nothing more goes …"""
_PAUSE = 0.5
"""… and the ingest tries again after this long."""


class Relief:
    """One for each ingest, over all its tries."""

    def __init__(self, opened: Opened, ref: Ref, plan: Plan) -> None:
        self._opened = opened
        self._identity = (ref.key, plan.revision)
        self._size = plan.size or 0
        self._forced = 0
        self._forced_at = float("-inf")
        self._lock = asyncio.Lock()

    async def __call__(self, error: DiskError) -> None:
        """Returns when it is worth trying again. Raises NoSpace, or ``error`` with what an operator
        needs to know."""
        context, room = self._opened.context, self._opened.room
        context.health.note(error)
        if not isinstance(error, DiskFull):
            raise room.describe(error)
        async with self._lock:
            row = context.index.ingests.get(self._identity)
            for ingest in list(self._opened.ingests):
                if ingest.is_of(row):
                    with context.disk_errors("measuring an ingest"):
                        await ingest.measure()
            is_begun = row is not None and row.is_active
            needed = row.reserved if row is not None and is_begun else self._size
            await room.look()
            if room.is_short(0 if is_begun else needed):
                await room.settle(row, needed, promised=is_begun)
                return
            if context.clock.monotonic() - self._forced_at < _AGAIN:
                await asyncio.sleep(_PAUSE)
                return
            await self._force(max(needed, STEP), error)

    async def _force(self, needed: int, error: DiskFull) -> None:
        context, room = self._opened.context, self._opened.room
        row = context.index.ingests.get(self._identity)
        rows = eviction.by_force(context.index, needed, without=row)
        if not rows or self._forced > max(self._size, needed):
            raise room.describe(error, needed=needed, row=row)
        victims = await room.evict(rows)
        freed = sum(victim.bytes for victim in victims)
        self._forced += max(freed, 1)
        self._forced_at = context.clock.monotonic()
        await room.sync()
        log.warning(
            "the volume refuses bytes though it says that it has %d free; %d bytes were let go",
            context.volume.free,
            freed,
        )
