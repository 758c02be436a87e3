"""The members of a zip: ``zipfile`` reads the directory and inflates, the rest is ours."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from cachd.errors import ArchiveInvalid, ArchiveLimit, PathUnsafe
from cachd.fetch.unpack_stream import damaged
from cachd.names import escape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from cachd.fetch.unpack_tree import Tree

MAX_DIRECTORY = 64 * 1024 * 1024
"""Most bytes of a central directory, which is read into memory as a whole."""

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = b"PK\x01\x02"
_ENTRY_LEAST = 46
_MAX_COMMENT = 65535
_MAX_LINK = 4096
# LZMA in a zip has no bound on its memory.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
_ENCRYPTED = 0x1 | 0x40 | 0x2000


def unpack_zip(file: BinaryIO, tree: Tree, name: str) -> None:
    """Every member into ``tree``. Raises ArchiveInvalid, PathUnsafe, ArchiveLimit."""
    _check_directory(file, tree, name)
    with _reading(name):
        archive = zipfile.ZipFile(file)
    with archive:
        members = archive.infolist()
        if not members:
            raise damaged(name, "it is empty")
        for member in members:
            tree.count_member()
            _take(archive, member, tree, name)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """What zipfile raises for damage, as ArchiveInvalid. NotImplementedError is its word for a
    compression, a version or an encryption that it doesn't know."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
        ValueError,
    ) as error:
        raise damaged(name, f"a member can't be read ({type(error).__name__})") from error
    except OSError as error:
        # A seek to nowhere, and bzip2's own complaint.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise damaged(name, "its directory or a member is damaged") from error


def _check_directory(file: BinaryIO, tree: Tree, name: str) -> None:
    """Judge the central directory before zipfile makes an object of each of its members.

    Raises ArchiveLimit, ArchiveInvalid.
    """
    at, size, count = _read_end(file, name)
    if size > MAX_DIRECTORY:
        raise ArchiveLimit(f"the directory of {name} is longer than {MAX_DIRECTORY >> 20} MiB")
    tree.check_members(count)
    # zipfile goes by the size, and the count may lie. No more members than marks of one.
    start = file.seek(max(0, at - size - _END64.size - _END64_LOCATOR.size))
    marks = file.read(at - start).count(_ENTRY) if size // _ENTRY_LEAST > count else count
    tree.check_members(marks)
    file.seek(0)


def _read_end(file: BinaryIO, name: str) -> tuple[int, int, int]:
    """Where the end record is, and the bytes and members of the directory as it says."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - _MAX_COMMENT - _END.size - _END64_LOCATOR.size))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise damaged(name, "it is no zip file")
    fields = _END.unpack_from(tail, at)
    count, size = int(fields[4]), int(fields[5])
    locator = at - _END64_LOCATOR.size
    if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
        offset = int(_END64_LOCATOR.unpack_from(tail, locator)[2])
        # A prefix before the archive moves everything; zipfile looks right before the locator too.
        for place in (offset, start + locator - _END64.size):
            if 0 <= place <= end - _END64.size:
                file.seek(place)
                record = file.read(_END64.size)
                if record.startswith(b"PK\x06\x06"):
                    fields = _END64.unpack(record)
                    count = max(count if count != 0xFFFF else 0, int(fields[7]))
                    size = max(size if size != 0xFFFFFFFF else 0, int(fields[8]))
    file.seek(0)
    return start + at, size, count


def _take(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tree: Tree, name: str) -> None:
    if "\0" in member.orig_filename:
        raise PathUnsafe(f"{name}: the name {escape(member.orig_filename)} holds a NUL")
    if member.flag_bits & _ENCRYPTED:
        raise ArchiveInvalid(
            f"{name}: {escape(member.filename)} is encrypted", hint="make the archive without it"
        )
    if member.compress_type not in _METHODS:
        raise ArchiveInvalid(
            f"{name}: {escape(member.filename)} is compressed by method {member.compress_type}",
            hint="use deflate",
        )
    mode = member.external_attr >> 16
    if member.is_dir():
        tree.add_directory(member.filename)
        return
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFLNK}:
        raise ArchiveInvalid(
            f"{name}: {escape(member.filename)} is neither a file, a directory nor a link"
        )
    with _reading(name):
        content = archive.open(member)

    def read(most: int) -> bytes:
        with _reading(name):
            return content.read(most)

    with content:
        if stat.S_ISLNK(mode):
            if member.file_size > _MAX_LINK:
                raise ArchiveInvalid(f"{name}: the link {escape(member.filename)} is too long")
            target = read(_MAX_LINK + 1).decode("utf-8", "surrogateescape")
            tree.add_symbolic_link(member.filename, target)
            return
        tree.add_file(
            member.filename, member.file_size, is_executable=bool(mode & 0o100), read=read
        )
        # Reading on to the end makes zipfile check the CRC.
        if read(1):
            raise damaged(name, "a member is longer than its directory says")
