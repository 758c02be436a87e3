"""Files of a tree that bytes are put into: opened without following links, written by position."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import CachdError, DiskError, DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SYNC_FILE_RANGE_WRITE = 2


def _load_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function


_sync_file_range = _load_sync_file_range()


def disk_error(error: OSError, path: str) -> CachdError:
    """The error for a failed write or open of ``path``."""
    name = errno.errorcode.get(error.errno or 0, "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"the disk is full while {path} is written ({error.strerror})",
            hint="free space on the volume, or lower store.quota",
            errno=name,
        )
    return DiskError(f"{path} can't be written: {error.strerror}", errno=name)


@contextlib.contextmanager
def open_place(root: str, path: str, *, truncate: bool = False) -> Iterator[int]:
    """A descriptor for ``path`` below ``root``, made with its directories if it isn't there.

    Raises DiskError or DiskFull, as do the writes.
    """
    full = os.path.join(root, path)  # noqa: PTH118  (once per file, in the hot path)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_TRUNC if truncate else 0)
    try:
        try:
            fd = os.open(full, flags, 0o644)
        except FileNotFoundError:
            Path(full).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(full, flags, 0o644)
    except OSError as error:
        raise disk_error(error, path) from None
    try:
        yield fd
    finally:
        os.close(fd)


def write_at(fd: int, view: memoryview, offset: int, path: str) -> None:
    """All of ``view`` at ``offset``. Raises DiskError or DiskFull."""
    try:
        written = os.pwrite(fd, view, offset)
        while written < len(view):
            written += os.pwrite(fd, view[written:], offset + written)
    except OSError as error:
        raise disk_error(error, path) from None


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Ask the kernel to begin writing the range out, so that dirty pages stay few and the sync at
    the end is short. A hint: what it answers doesn't matter, errors show at the sync."""
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)
