"""Digests of a file that is in place, read back from the page cache while its parts still come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cachd.errors import Cancelled
from cachd.fetch.place import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1024 * 1024


class _Sum(Protocol):
    def update(self, data: Any, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc:
    def __init__(self, function: Callable[[Any, int], int]) -> None:
        self._function = function
        self._value = 0

    def update(self, data: Any, /) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def start_sum(algorithm: str) -> _Sum:
    """A running digest. Raises ValueError for an algorithm that isn't known."""
    if algorithm in ("crc32", "crc32c"):
        from awscrt import checksums  # noqa: PLC0415  (loaded by then, named only here)

        return _Crc(checksums.crc32 if algorithm == "crc32" else checksums.crc32c)
    return hashlib.new(algorithm, usedforsecurity=False)


def digest_file(
    root: str,
    path: str,
    size: int,
    algorithm: str,
    wait_upto: Callable[[int], int],
    is_cancelled: Callable[[], bool],
) -> str:
    """The digest, in hex, of the first ``size`` bytes of ``path`` below ``root``.

    ``wait_upto(n)`` returns how many bytes are in place, more than ``n``, after waiting for them.
    Raises Cancelled, DiskError.
    """
    total = start_sum(algorithm)
    buffer = memoryview(bytearray(_CHUNK))
    try:
        fd = os.open(Path(root) / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise disk_error(error, path) from None
    try:
        offset, upto = 0, 0
        while offset < size:
            if is_cancelled():
                raise Cancelled("nobody wants this fetch any more")
            if offset >= upto:
                upto = wait_upto(offset)
                continue
            count = os.preadv(fd, [buffer[: min(_CHUNK, upto - offset)]], offset)
            if count == 0:
                break
            total.update(buffer[:count])
            offset += count
    except OSError as error:
        raise disk_error(error, path) from None
    finally:
        os.close(fd)
    return total.hexdigest()
