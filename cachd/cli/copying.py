"""One file's bytes from the cache to the destination: shared, copied in the kernel, or streamed."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from cachd.errors import Cancelled, DiskError, SizeMismatch

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

FICLONE = 0x40049409
"""``_IOW(0x94, 9, int)``: share the extents of another file (ioctl_ficlone(2))."""

STEP = 32 * 1024 * 1024
"""Bytes per system call: a cancelled copy ends after one of them."""

_NOT_HERE = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTTY,
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOSYS,
        errno.EPERM,
        errno.EBADF,
    }
)


def reflink(source: int, target: int) -> bool:
    """Make ``target`` share all extents of ``source``. False where the file systems can't."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def copy(
    source: int,
    target: int,
    size: int,
    name: str,
    tick: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Copy ``size`` bytes inside the kernel: ``copy_file_range``, else ``sendfile``, else by hand.

    ``tick`` gets the bytes of each step. Raises SizeMismatch if the source ends early, Cancelled
    when ``stop`` is set; an OSError is the destination's, for the source's reading errors
    become DiskError where they can be told apart.
    """
    ways = [_by_copy_file_range, _by_sendfile, _by_hand]
    offset = 0
    while offset < size:
        if stop.is_set():
            raise Cancelled("the copy was stopped")
        try:
            count = ways[0](source, target, offset, min(STEP, size - offset))
        except OSError as error:
            if error.errno in _NOT_HERE and len(ways) > 1:
                ways.pop(0)
                continue
            if error.errno == errno.EIO:
                raise DiskError(f"reading or writing {name} failed: {error.strerror}") from error
            raise
        if count == 0:
            if len(ways) > 1:  # Some file systems answer 0 to what they don't support.
                ways.pop(0)
                continue
            raise SizeMismatch(f"{name} ends after {offset} of {size} bytes")
        offset += count
        tick(count)


def _by_copy_file_range(source: int, target: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset, offset)


def _by_sendfile(source: int, target: int, offset: int, count: int) -> int:
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, count)


def _by_hand(source: int, target: int, offset: int, count: int) -> int:
    data = os.pread(source, min(count, 1024 * 1024), offset)
    return os.pwrite(target, data, offset) if data else 0
