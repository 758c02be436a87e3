"""Reading a published file again, without pushing others' pages out of memory. Blocking.

Pages that were in memory before stay, the others are given back: a scrub that read the whole disk
into the page cache would cost the models that are being used. Without read-ahead, or the next block
would look as if it had been in memory.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cachd.store.fsio import Below

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1024 * 1024


def inode_of(tree: Path, path: str) -> int:
    """Of the regular file there; 0 if there is none."""
    with suppress(OSError):
        status = (tree / path).lstat()
        if stat.S_ISREG(status.st_mode):
            return status.st_ino
    return 0


class Reread:
    """One file below ``tree``. ``size`` is -1 where there is no regular file at all."""

    def __init__(self, tree: Path, path: str) -> None:
        self.path = path
        self.size = -1
        self.inode = 0
        self._fd = -1
        with suppress(OSError), Below(tree) as below:
            self._fd = below.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if self._fd >= 0:
            status = os.fstat(self._fd)
            if stat.S_ISREG(status.st_mode):
                self.size, self.inode = status.st_size, status.st_ino
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def checksum(self, offset: int, length: int) -> str | None:
        """crc64nvme of a block in 16 hex digits; None if the file ends before. Raises OSError."""
        from awscrt.checksums import crc64nvme  # noqa: PLC0415  (7 MiB that many nodes never need)

        value, position, end = 0, offset, offset + length
        buffer = bytearray(min(_CHUNK, length))
        while position < end:
            view = memoryview(buffer)[: min(_CHUNK, end - position)]
            count = self._read(view, position)
            if count == 0:
                return None
            value = crc64nvme(view[:count], value)
            position += count
        return f"{value:016x}"

    def read(self, offset: int, length: int) -> bytes:
        """What can be read of a block."""
        with suppress(OSError):
            return os.pread(self._fd, length, offset)
        return b""

    def _read(self, view: memoryview, position: int) -> int:
        with suppress(OSError):
            if os.preadv(self._fd, [view], position, os.RWF_NOWAIT) == len(view):
                return len(view)
        count = os.preadv(self._fd, [view], position)
        os.posix_fadvise(self._fd, position, count, os.POSIX_FADV_DONTNEED)
        return count

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
