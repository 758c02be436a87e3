"""One object of a git pack as a stream: inflated, or made of another by a delta."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from cachd.errors import ArchiveInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from cachd.sources.git_pkt import PackStream

SIZE_MOST = 1 << 50
"""Bytes of one object."""

_INPUT_FIRST, _INPUT_MOST = 4096, 256 * 1024


class Content:
    """The bytes of one object, by position; in memory, or in a scratch file. ``close`` it."""

    def __init__(self, data: bytes, file: BinaryIO | None, size: int) -> None:
        self._data = data
        self._file = file
        self.size = size
        self.in_memory = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        if self._file is None:
            return self._data[offset : offset + length]
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Inflating:
    """One object's deflated bytes, as a stream of exactly ``size`` bytes. ``end``: where what
    follows begins, once all is read."""

    def __init__(
        self, stream: PackStream, place: int, size: int, count: Callable[[int], None]
    ) -> None:
        self._stream = stream
        self._count = count
        self._left = size
        self._at = place
        self._input = _INPUT_FIRST
        self._zlib = zlib.decompressobj()
        self._is_over = False

    def read(self, most: int) -> bytes:
        """Up to ``most`` bytes, b"" at the end."""
        while not self._is_over:
            tail = self._zlib.unconsumed_tail
            fed = tail or self._feed()
            try:
                data = self._zlib.decompress(fed, max(1, most))
            except zlib.error:
                raise damaged("an object can't be inflated") from None
            if self._zlib.eof:
                self._is_over = True
                self._at -= len(self._zlib.unused_data)
            if data:
                self._left -= len(data)
                if self._left < 0:
                    raise damaged("an object is longer than it says")
                self._count(len(data))
                return data
        if self._left:
            raise damaged("an object is shorter than it says")
        return b""

    def _feed(self) -> bytes:
        data = self._stream.read_at(self._at, self._input)
        if not data:
            raise damaged("it ends too early")
        self._at += len(data)
        self._input = min(2 * self._input, _INPUT_MOST)
        return data

    @property
    def end(self) -> int:
        return self._at


class Patching:
    """An object from its delta and its base, as a stream."""

    def __init__(self, delta: Inflating, base: Content) -> None:
        self._delta = _Buffered(delta)
        self._base = base
        if self._number() != base.size:
            raise damaged("a delta is for another base")
        self.size = self._number()
        if self.size > SIZE_MOST:
            raise damaged("a delta makes an object of an impossible size")
        self._left = self.size
        self._copy = (0, 0)

    def _number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._delta.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > 63:
                raise damaged("a delta has a damaged head")

    def read(self, most: int) -> bytes:
        """Some bytes, seldom more than ``most``; b"" at the end."""
        pieces: list[bytes] = []
        gathered = 0
        while self._left and gathered < most:
            piece = self._piece(most)
            self._left -= len(piece)
            gathered += len(piece)
            if self._left < 0:
                raise damaged("a delta makes more than it says")
            pieces.append(piece)
        if not pieces and not self._delta.is_over():
            raise damaged("a delta makes more than it says")
        return b"".join(pieces)

    def _piece(self, most: int) -> bytes:
        offset, length = self._copy
        if not length:
            code = self._delta.byte()
            if code == 0:
                raise damaged("a delta has an unknown step")
            if code < 0x80:
                return self._delta.exactly(code)
            offset = self._bits(code, 4)
            length = self._bits(code >> 4, 3) or 0x10000
            if offset + length > self._base.size:
                raise damaged("a delta copies from beyond its base")
        now = min(length, most)
        self._copy = (offset + now, length - now)
        return self._base.read_at(offset, now)

    def _bits(self, code: int, number: int) -> int:
        value = 0
        for place in range(number):
            if code >> place & 1:
                value |= self._delta.byte() << (8 * place)
        return value


class _Buffered:
    """An inflating stream, byte by byte."""

    def __init__(self, inner: Inflating) -> None:
        self._inner = inner
        self._data = b""
        self._at = 0

    def byte(self) -> int:
        if self._at >= len(self._data):
            self._fill()
        self._at += 1
        return self._data[self._at - 1]

    def exactly(self, length: int) -> bytes:
        found = self._data[self._at : self._at + length]
        self._at += len(found)
        while len(found) < length:
            self._fill()
            more = self._data[: length - len(found)]
            self._at = len(more)
            found += more
        return found

    def is_over(self) -> bool:
        return self._at >= len(self._data) and not self._inner.read(1)

    def _fill(self) -> None:
        self._data, self._at = self._inner.read(64 * 1024), 0
        if not self._data:
            raise damaged("a delta ends too early")


def damaged(why: str) -> ArchiveInvalid:
    return ArchiveInvalid(
        f"the git server's pack is damaged: {why}", hint="try again; does `git fsck` like it?"
    )
