"""Digests of a file that is in place, read back from the page cache while its parts still come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cachd.errors import Cancelled
from cachd.fetch.place import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK = 1024 * 1024


class _Sum(Protocol):
    def update(self, data: Any, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc:
    def __init__(self, function: Callable[[Any, int], int], digits: int) -> None:
        self._function = function
        self._digits = digits
        self._value = 0

    def update(self, data: Any, /) -> None:
        self._value = self._function(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


class _Parts:
    """The checksum of the parts' checksums (S3 User Guide, "Checking object integrity", on
    composite checksums; an ETag of a multipart upload is the same with MD5)."""

    def __init__(self, algorithm: str, sizes: Sequence[int]) -> None:
        self._algorithm = algorithm
        self._sizes = iter(sizes)
        self._left = next(self._sizes, 0)
        self._part = start_sum(algorithm)
        self._total = start_sum(algorithm)

    def update(self, data: Any, /) -> None:
        view = memoryview(data)
        while view:
            if not self._left:
                self._end_part()
            step = min(len(view), self._left)
            self._part.update(view[:step])
            self._left -= step
            view = view[step:]

    def _end_part(self) -> None:
        self._total.update(bytes.fromhex(self._part.hexdigest()))
        self._part = start_sum(self._algorithm)
        self._left = next(self._sizes)

    def hexdigest(self) -> str:
        self._total.update(bytes.fromhex(self._part.hexdigest()))
        return self._total.hexdigest()


def start_sum(algorithm: str, size: int = 0, parts: Sequence[int] = ()) -> _Sum:
    """A running digest of a file of ``size`` bytes. ``parts``: the sizes of the parts whose
    checksums are summed. Raises ValueError for an algorithm that isn't known."""
    if parts:
        return _Parts(algorithm, parts)
    if algorithm in ("crc32", "crc32c", "crc64nvme"):
        from awscrt import checksums  # noqa: PLC0415  (loaded by then, named only here)

        return _Crc(getattr(checksums, algorithm), 16 if algorithm == "crc64nvme" else 8)
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return hashlib.new(algorithm, usedforsecurity=False)


def digest_file(
    root: str,
    path: str,
    size: int,
    algorithms: Sequence[str],
    wait_upto: Callable[[int], int],
    is_cancelled: Callable[[], bool],
    *,
    parts: Sequence[int] = (),
) -> list[str]:
    """The digests, in hex, of the first ``size`` bytes of ``path`` below ``root``, in one pass.

    ``wait_upto(n)`` returns how many bytes are in place, more than ``n``, after waiting for them.
    ``parts``: see ``start_sum``. Raises Cancelled, DiskError.
    """
    totals = [start_sum(algorithm, size, parts) for algorithm in algorithms]
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
            for total in totals:
                total.update(buffer[:count])
            offset += count
    except OSError as error:
        raise disk_error(error, path) from None
    finally:
        os.close(fd)
    return [total.hexdigest() for total in totals]
