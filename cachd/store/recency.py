"""Last use, kept over a restart as the modification time of the revision's directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import DiskError, StoreError
from cachd.store.fsio import touch_times

if TYPE_CHECKING:
    from cachd.store.context import Context
    from cachd.store.rows import Row

FLUSH_INTERVAL = 60.0
"""Seconds of recency that a kill may lose."""


class Recency:
    """The order of use is a hybrid clock in memory (wall time, but always later than the last), so
    it survives a wall clock that is set back."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dirty: set[Row] = set()

    def touch(self, row: Row) -> None:
        clock = self._context.clock
        self._context.index.touch(row, clock.time_ns(), clock.monotonic())
        self._dirty.add(row)

    async def flush(self) -> None:
        """Write what was touched. Raises DiskError."""
        rows, self._dirty = self._dirty, set()
        changes = [
            (self._context.layout.snapshot(row.key, row.revision), row.last_used)
            for row in rows
            if row.state == "snapshot"
        ]
        if changes:
            try:
                with self._context.disk_errors("keeping last uses"):
                    await self._context.threads.run(touch_times, changes)
            except (DiskError, StoreError):
                self._dirty |= rows
                raise
