"""Decompression in bounded memory: one reader for every compression that a tar may have.

The compression is found from the first bytes, never from a name. ``tarfile`` and ``gzip`` are not
used for it: xz needs a memory limit, and the bytes that come out need a cap while they come.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from typing import TYPE_CHECKING, Any, Protocol

from cachd.errors import ArchiveInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

_INPUT = 256 * 1024
_OUTPUT = 1024 * 1024
_LZMA_MEMORY = 160 * 1024 * 1024
"""Bytes; ``xz -9`` needs 65 MiB."""

_ZSTD_WINDOW_LOG = 27
"""128 MiB, what the zstd tool takes without ``--long``."""


class Decompressor(Protocol):
    """The interface of ``bz2.BZ2Decompressor`` and its kin."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """``zlib.decompressobj`` with that interface."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415
    return zstd


def _make_zstd() -> Decompressor:
    zstd = _zstd()
    made: Decompressor = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    )
    return made


def _make_xz() -> Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)


_MAGIC: tuple[tuple[bytes, Callable[[], Decompressor]], ...] = (
    (b"\x1f\x8b", _Gunzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", _make_xz),
    (b"\x28\xb5\x2f\xfd", _make_zstd),
)
_LONGEST_MAGIC = max(len(magic) for magic, _ in _MAGIC)


def compression_of(head: bytes) -> Callable[[], Decompressor] | None:
    """What makes a decompressor for a file that begins with ``head``; None: not compressed."""
    for magic, make in _MAGIC:
        if head.startswith(magic):
            return make
    return None


class Stream:
    """The plain bytes of a maybe compressed file, in order. ``count`` is told of every byte that
    comes out, before it is handed on, and may raise."""

    def __init__(self, file: BinaryIO, name: str, count: Callable[[int], None]) -> None:
        self._file = file
        self._name = name
        self._count = count
        head = file.read(_INPUT)
        if head.startswith(b"PK"):
            raise damaged(name, "it is a zip under a tar's name")
        self._make = compression_of(head)
        self._inner = self._make() if self._make else None
        self._pending = head
        self._ended = False
        self._out = b""
        self._at = 0

    def read(self, most: int) -> bytes:
        """Up to ``most`` bytes; b"" at the end. Raises ArchiveInvalid for damage."""
        if self._at == len(self._out):
            self._out = self._inflated() if self._inner else self._plain()
            self._at = 0
            self._count(len(self._out))
        data = self._out[self._at : self._at + most]
        self._at += len(data)
        return data

    def read_exactly(self, length: int) -> bytes:
        """Raises ArchiveInvalid if the stream ends before."""
        data = self.read(length)
        if len(data) == length:
            return data
        parts = [data]
        missing = length - len(data)
        while missing:
            data = self.read(missing)
            if not data:
                raise damaged(self._name, "it ends in the middle of a member")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def _plain(self) -> bytes:
        data, self._pending = self._pending, b""
        return data or self._file.read(_INPUT)

    def _inflated(self) -> bytes:
        while not self._ended:
            assert self._inner is not None
            if self._inner.eof:
                self._next_member()
                continue
            data = b""
            if self._inner.needs_input:
                data = self._pending or self._file.read(_INPUT)
                self._pending = b""
                if not data:
                    raise damaged(self._name, "its compressed stream ends too early")
            try:
                out = self._inner.decompress(data, _OUTPUT)
            except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
                raise damaged(self._name, "its compressed stream is damaged") from error
            except Exception as error:
                # zstd has an exception class of its own.
                if type(error).__name__ != "ZstdError":
                    raise
                raise damaged(self._name, "its compressed stream is damaged") from error
            if out:
                return out
        return b""

    def _next_member(self) -> None:
        """Compressed files may be concatenated; padding with zeros is the end."""
        assert self._inner is not None
        assert self._make is not None
        rest = self._inner.unused_data
        if len(rest) < _LONGEST_MAGIC:
            rest += self._file.read(_INPUT)
        if compression_of(rest) is not None:
            self._pending = rest
            self._inner = self._make()
        elif rest.strip(b"\0"):
            raise damaged(self._name, "bytes follow its compressed stream")
        else:
            self._ended = True


def damaged(name: str, why: str) -> ArchiveInvalid:
    """ArchiveInvalid that begins with the words KServe's users know."""
    return ArchiveInvalid(
        f"Failed to unpack archive file {name}: {why}. The file format is not valid.",
        hint="make the archive again, or check what the server sends under its name",
    )
