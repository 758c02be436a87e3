"""Git's pkt-lines: requests in protocol version 2, and the pack in an answer (gitprotocol-common,
gitprotocol-v2 and gitprotocol-pack of git's documentation)."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from cachd import __version__
from cachd.errors import ContentError, OriginChanged, OriginError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

FLUSH = "0000"
DELIMITER = "0001"
FRAMES_MOST = 8_000_000
"""Frames of a pack, of which each takes 16 bytes of memory: 500 GB in those that git makes."""

_SAID_MOST = 300
_DIGITS = re.compile(rb"[0-9a-fA-F]{4}")


def request(command: str, arguments: Iterable[str]) -> str:
    """The body of a request in version 2."""
    head = [f"command={command}", f"agent=cachd/{__version__}", "object-format=sha1"]
    lines = [_line(text) for text in head] + [DELIMITER]
    return "".join([*lines, *(_line(text) for text in arguments), FLUSH])


def fetch_request(commit: str, *, is_filtered: bool) -> str:
    """For the commit without its history; filtered, without what is no LFS pointer by its size."""
    more = ["filter blob:limit=1024"] if is_filtered else []
    asked = ["no-progress", "ofs-delta", f"want {commit}", "deepen 1", *more, "done"]
    return request("fetch", asked)


def _line(text: str) -> str:
    return f"{len(text.encode()) + 5:04x}{text}\n"


def lines_of(body: bytes) -> Iterator[bytes | None]:
    """The lines of a short answer, without their ends; None for a flush or a delimiter. Raises
    OriginError."""
    at = 0
    while at < len(body):
        length = _length(body[at : at + 4])
        if length < 4:
            yield None
            at += 4
            continue
        if at + length > len(body):
            raise _odd()
        yield body[at + 4 : at + length].rstrip(b"\n")
        at += length


def _length(digits: bytes) -> int:
    if not _DIGITS.fullmatch(digits) or digits == b"0003":
        raise _odd()
    return int(digits, 16)


class PackStream:
    """The pack inside an answer to ``fetch``, read by position: the answer stays as it came, with
    other lines and frames of 64 KiB around it. ``size`` in bytes.

    Raises OriginChanged where the server no longer has the commit, OriginError for what else it
    says, ContentError for an answer that ends too early.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._starts = array("Q")
        self._places = array("Q")
        self.size = 0
        self._find_pack()
        self._index()

    def _find_pack(self) -> None:
        while True:
            digits = self._file.read(4)
            if not digits:
                raise ContentError(
                    "the git server's answer holds no pack", hint="is there a proxy on the way?"
                )
            length = _length(digits)
            if length < 4:
                continue
            line = self._file.read(length - 4)
            if line.startswith(b"ERR "):
                raise refusal(line[4:])
            if line.rstrip(b"\n") == b"packfile":
                return

    def _index(self) -> None:
        at = self._file.tell()
        while True:
            self._file.seek(at)
            head = self._file.read(5)
            if len(head) < 4:
                raise _cut_off()
            length = _length(head[:4])
            if length < 4:
                return
            if length > 5 and head[4] == 1:
                if len(self._starts) >= FRAMES_MOST:
                    raise ContentError(
                        f"the git server sends its pack in more than {FRAMES_MOST} pieces",
                        hint="git itself sends 64 KiB at a time; is there a proxy on the way?",
                    )
                self._starts.append(self.size)
                self._places.append(at + 5)
                self.size += length - 5
            elif length >= 5 and head[4] == 3:
                raise refusal(self._file.read(length - 5))
            at += length

    def read_at(self, offset: int, most: int) -> bytes:
        """Up to ``most`` bytes, at least one before the end; not beyond a frame."""
        if offset >= self.size:
            return b""
        number = bisect_right(self._starts, offset) - 1
        following = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
        inside = offset - self._starts[number]
        self._file.seek(self._places[number] + inside)
        data = self._file.read(min(most, following - offset))
        if not data:
            raise _cut_off()
        return data


def refusal(said: bytes) -> OriginError:
    text = said.decode("utf-8", "replace").strip().partition("\n")[0][:_SAID_MOST]
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if "not our ref" in text:
        return OriginChanged(
            f"the git server no longer has the commit: {text}", hint="ask again, or name another"
        )
    return OriginError(f"the git server says: {text}", hint="its log says more")


def _cut_off() -> ContentError:
    return ContentError(
        "the git server's answer ends in the middle of its pack",
        hint="try again; the connection may have been cut",
    )


def _odd() -> OriginError:
    return OriginError(
        "the answer is not what a git server sends", hint="is there a proxy on the way?"
    )
