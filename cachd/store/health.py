"""Is the disk well? What failed lately, what an operator should know of it, and whether it is over.

A fault is noted where it shows: in the store's own calls, or by a worker that wrote. Each look at
the volume (``look``) tells whether it is read-only, without writing; after a fault a small file is
written and synced as well, so that a disk that has come back is noticed without a restart.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING
from weakref import WeakSet

from cachd.errors import CachdError, DiskError, DiskFull, StoreError
from cachd.store.fsio import to_disk_error

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.store.context import Context

log = logging.getLogger("cachd.store")

CLASSES = {
    "ENOSPC": "enospc",
    "EDQUOT": "edquot",
    "EIO": "eio",
    "EROFS": "erofs",
}
"""The label of a metric by the name of the errno; anything else is ``other``."""

REASONS = (
    "read_only",
    "io_error",
    "disk_full",
    "below_floor",
    "eviction_paused",
    "trash_stuck",
)
"""All that ``cachd_store_degraded`` may say."""

_UNREADY = ("read_only", "io_error")
"""With these nothing can be fetched; what is cached is served all the same."""

_PROBE = "health-probe"
_PROBE_SIZE = 64 * 1024


def errno_class(error: CachdError) -> str:
    """The bounded label of a disk error."""
    return CLASSES.get(str(error.detail.get("errno", "")), "other")


class Health:
    """The faults that are not over, by reason, each with a sentence."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._faults: dict[str, str] = {}
        self._noted: WeakSet[CachdError] = WeakSet()

    def note(self, error: CachdError) -> None:
        """A call failed with ``error``; said twice it counts once."""
        if not isinstance(error, (DiskError, StoreError)) or error in self._noted:
            return
        if "errno" not in error.detail:
            return
        self._noted.add(error)
        kind = errno_class(error)
        self._context.metrics.disk_failed(kind)
        if isinstance(error, DiskFull):
            self._raise("disk_full", error.message)
        elif kind == "erofs":
            self._raise("read_only", error.message)
        elif isinstance(error, DiskError):
            self._raise("io_error", error.message)

    def _raise(self, reason: str, sentence: str) -> None:
        if reason not in self._faults:
            log.error("the disk fails (%s): %s", reason, sentence)
        self._faults[reason] = sentence

    def _clear(self, reason: str) -> None:
        if self._faults.pop(reason, None) is not None:
            log.warning("the disk is well again (%s is over)", reason)

    @property
    def may_write(self) -> bool:
        """False while nothing can be renamed or unlinked, so that evicting would be vain."""
        return not any(reason in self._faults for reason in _UNREADY)

    def unready(self) -> list[str]:
        """Why nothing can be fetched now, in sentences."""
        return [f"{self._faults[reason]}" for reason in _UNREADY if reason in self._faults]

    def faults(self) -> dict[str, str]:
        """Sentences by reason."""
        return dict(self._faults)

    async def look(self) -> None:
        """See how the volume is now. Never raises OSError."""
        context = self._context
        mount = context.capabilities.mount_point
        try:
            volume = await context.refresh_volume()
        except OSError as error:
            self.note(to_disk_error(error, "looking at it", mount))
            return
        if volume.is_read_only:
            self._raise("read_only", f"the volume mounted at {mount} is read-only")
            return
        if not self._faults:
            return
        try:
            await context.threads.run(_write_probe, context.layout.state)
        except OSError as error:
            failed = to_disk_error(error, "writing a probe", mount)
            # What was reported already isn't counted anew at every look.
            self._noted.add(failed)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._clear("io_error")
                self._clear("read_only")
                self._raise("disk_full", failed.message)
            return
        for reason in list(self._faults):
            self._clear(reason)


def _write_probe(directory: Path) -> None:
    """Blocking. A file's blocks, its durability and its name: all that an ingest needs."""
    path = directory / _PROBE
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"\0" * _PROBE_SIZE)
        os.fsync(fd)
    finally:
        os.close(fd)
        path.unlink()
