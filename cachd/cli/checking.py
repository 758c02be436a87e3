"""Block checksums on the client. awscrt is imported when it is needed, and may be missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from cachd.errors import DigestMismatch

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

_CHUNK = 1024 * 1024


class Checksum(Protocol):
    def __call__(self, data: bytes, previous: int = 0, /) -> int: ...


def crc64nvme() -> Checksum | None:
    """The checksum function, or None where awscrt isn't installed."""
    try:
        from awscrt.checksums import crc64nvme as function  # noqa: PLC0415  (a large library)
    except ImportError:
        return None
    checksum: Checksum = function
    return checksum


class BlockChecker:
    """Checks one file's blocks as its bytes pass by."""

    def __init__(
        self, path: str, blocks: Sequence[str], block_size: int, checksum: Checksum
    ) -> None:
        self._path = path
        self._blocks = blocks
        self._block_size = block_size
        self._checksum = checksum
        self._value = 0
        self._filled = 0
        self._index = 0

    def feed(self, data: bytes) -> None:
        """Raises DigestMismatch at the first bad block."""
        while data:
            taken = data[: self._block_size - self._filled]
            data = data[len(taken) :]
            self._value = self._checksum(taken, self._value)
            self._filled += len(taken)
            if self._filled == self._block_size:
                self._close_block()

    def finish(self) -> None:
        """Raises DigestMismatch if the last block is bad or blocks are missing."""
        if self._filled:
            self._close_block()
        if self._index != len(self._blocks):
            self._fail(f"has {self._index} blocks instead of {len(self._blocks)}")

    def _close_block(self) -> None:
        index = self._index
        if index >= len(self._blocks) or f"{self._value:016x}" != self._blocks[index].lower():
            self._fail(f"differs from the manifest in block {index}")
        self._index, self._value, self._filled = index + 1, 0, 0

    def _fail(self, what: str) -> None:
        raise DigestMismatch(
            f"{self._path} {what}",
            hint="pull or export again; if it stays so, remove the model from the cache",
            path=self._path,
        )


def check_file(
    fd: int,
    path: str,
    blocks: Sequence[str],
    block_size: int,
    checksum: Checksum,
    stop: threading.Event | None = None,
) -> None:
    """Read ``fd`` from its start and check it. Raises DigestMismatch."""
    checker = BlockChecker(path, blocks, block_size, checksum)
    offset = 0
    while data := os.pread(fd, _CHUNK, offset):
        if stop is not None and stop.is_set():
            return
        checker.feed(data)
        offset += len(data)
    checker.finish()
