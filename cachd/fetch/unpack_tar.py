"""The members of a tar, header by header: POSIX pax, GNU long names, ustar and older.

``tarfile`` parses single header blocks (``TarInfo.frombuf``), nothing more. Its filters have been
broken through (CVE-2025-4517), it takes a damaged header for the end of the archive, negative sizes
made it loop (CVE-2025-8194), its pax parser was quadratic (CVE-2024-6232), and it holds every
member in memory. Format: POSIX.1-2008 "pax", and GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from cachd.errors import ArchiveInvalid
from cachd.fetch.unpack_stream import damaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.fetch.unpack_stream import Stream
    from cachd.fetch.unpack_tree import Tree

BLOCK = 512
MAX_EXTENSION = 1024 * 1024
"""Most bytes of extended headers for one member, and of global ones in all."""

_ZEROS = bytes(BLOCK)
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
_SKIPPED = {b"V"}
_BODILESS = {tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
_SPARSE = {tarfile.GNUTYPE_SPARSE}


def unpack_tar(stream: Stream, tree: Tree, name: str, *, may_be_empty: bool = False) -> None:
    """Every member into ``tree``. Raises ArchiveInvalid, PathUnsafe, ArchiveLimit."""
    _Reader(stream, tree, name).run(may_be_empty=may_be_empty)


class _Reader:
    def __init__(self, stream: Stream, tree: Tree, name: str) -> None:
        self._stream = stream
        self._tree = tree
        self._name = name
        self._global: dict[str, str] = {}
        self._global_bytes = 0

    def run(self, *, may_be_empty: bool) -> None:
        found = 0
        while self._member():
            found += 1
        # What follows the end is padding; reading it checks the compressed stream to its end.
        while self._stream.read(BLOCK * BLOCK):
            pass
        if not found and not may_be_empty:
            raise damaged(self._name, "it is empty")

    def _member(self) -> bool:
        """Take one member; False at the end."""
        local: dict[str, str] = {}
        extended = 0
        while True:
            header = self._header()
            if header is None:
                if local:
                    raise damaged(self._name, "it ends after an extended header")
                return False
            kind = header.type
            if kind == tarfile.XGLTYPE:
                self._global_bytes += header.size
                self._global |= self._pax(self._extension(header.size, self._global_bytes))
            elif kind in _PAX or kind in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
                extended += header.size
                body = self._extension(header.size, extended + self._global_bytes)
                if kind in _PAX:
                    local |= self._pax(body)
                else:
                    key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
                    local[key] = _text(body.split(b"\0", 1)[0])
            elif kind in _SKIPPED:
                self._skip(header.size)
            else:
                self._tree.count_member()
                self._take(header, {**self._global, **local})
                return True
            self._tree.count_member()

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            block += self._stream.read_exactly(BLOCK - len(block))
        if block == _ZEROS:
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError, IndexError) as error:
            raise damaged(self._name, "it has a damaged header") from error
        if header.size < 0:
            raise damaged(self._name, "a member has a negative size")
        return header

    def _extension(self, size: int, total: int) -> bytes:
        if total > MAX_EXTENSION:
            raise ArchiveInvalid(
                f"{self._name}: extended headers of more than {MAX_EXTENSION >> 20} MiB"
            )
        body = self._stream.read_exactly(size)
        self._skip_padding(size)
        return body

    def _pax(self, body: bytes) -> dict[str, str]:
        """Records of ``length key=value newline``; only the keys that matter here."""
        found: dict[str, str] = {}
        at = 0
        while at < len(body) and body[at] != 0:
            space = body.find(b" ", at, at + 12)
            digits = body[at:space] if space > 0 else b""
            length = int(digits) if digits.isdigit() else 0
            record = body[space + 1 : at + length]
            key, equals, value = record.partition(b"=")
            if length < len(digits) + 4 or at + length > len(body) or not equals:
                raise damaged(self._name, "it has a damaged extended header")
            if not value.endswith(b"\n"):
                raise damaged(self._name, "it has a damaged extended header")
            if key.startswith(b"GNU.sparse"):
                raise self._refuse_sparse()
            if key in {b"path", b"linkpath", b"size"}:
                found[key.decode()] = _text(value[:-1])
            at += length
        return found

    def _take(self, header: tarfile.TarInfo, extended: Mapping[str, str]) -> None:
        name = extended.get("path", header.name)
        target = extended.get("linkpath", header.linkname)
        size = header.size
        if "size" in extended:
            text = extended["size"]
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise damaged(self._name, "a member has no valid size")
            size = int(text)
        if header.type in _FILES and not name.endswith("/"):
            self._tree.add_file(
                name, size, is_executable=bool(header.mode & 0o100), read=self._stream.read
            )
            self._skip_padding(size)
        elif header.type == tarfile.DIRTYPE or header.type in _FILES:
            self._tree.add_directory(name)
            self._skip(size if header.type in _FILES else 0)
        elif header.type == tarfile.LNKTYPE:
            self._tree.add_hard_link(name, target)
        elif header.type == tarfile.SYMTYPE:
            self._tree.add_symbolic_link(name, target)
        elif header.type in _SPARSE:
            raise self._refuse_sparse()
        else:
            self._tree.add_other(name)
            self._skip(0 if header.type in _BODILESS else size)

    def _refuse_sparse(self) -> ArchiveInvalid:
        return ArchiveInvalid(
            f"{self._name} has sparse members", hint="make the archive without --sparse"
        )

    def _skip_padding(self, size: int) -> None:
        if size % BLOCK:
            self._stream.read_exactly(BLOCK - size % BLOCK)

    def _skip(self, size: int) -> None:
        left = -(-size // BLOCK) * BLOCK
        while left:
            left -= len(self._stream.read_exactly(min(left, BLOCK * BLOCK)))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
