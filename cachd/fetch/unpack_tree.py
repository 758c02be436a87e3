"""The tree that an archive is unpacked into: every write goes through descriptors of directories,
so that no name and no link leads elsewhere; bytes, members and ratio are capped on the way."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from awscrt import checksums

from cachd.errors import (
    ArchiveInvalid,
    ArchiveLimit,
    Cancelled,
    DiskError,
    DiskFull,
    PathUnsafe,
)
from cachd.fetch.unpack_stream import damaged
from cachd.model import BLOCK_SIZE, ManifestFile
from cachd.names import check_name, escape

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK = 1024 * 1024
RATIO_FROM = 64 * 1024 * 1024
"""Unpacked bytes from which on the ratio is judged."""

GROW_STEP = 64 * 1024 * 1024
_GROW_FIRST = 1024 * 1024
_ALLOCATION = 4096
_FOLDER_MODE = 0o755
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """``max_bytes`` unpacked, ``max_members`` of any kind, ``max_ratio`` unpacked per packed."""

    max_bytes: int
    max_members: int
    max_ratio: float


@dataclass(frozen=True, slots=True)
class _Written:
    size: int
    blocks: tuple[str, ...]


class Tree:
    """Use as a context manager; ``finish`` resolves the links and gives the files."""

    def __init__(
        self,
        root: Path,
        archive_name: str,
        archive_size: int | None,
        limits: UnpackLimits,
        grow: Callable[[int], None],
        report: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._root_path = root
        self._archive_name = archive_name
        self._archive_size = archive_size
        self._limits = limits
        self._grow = grow
        self._report = report
        self._cancelled = cancelled
        self._root = -1
        self._folder: tuple[str, int] = ("", -1)
        self._files: dict[str, _Written] = {}
        self._links: dict[str, str] = {}
        self._members = 0
        self._bytes = 0
        self._inflated = 0
        self._needed = 0
        self._reserved = 0

    def __enter__(self) -> Self:
        self._root = os.open(self._root_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_folder()
        os.close(self._root)

    # --- members -----------------------------------------------------------------------------

    def count_member(self) -> None:
        """One more member of any kind. Raises ArchiveLimit."""
        self._members += 1
        self.check_members(self._members)

    def check_members(self, count: int) -> None:
        """Whether an archive of ``count`` members is within the limit. Raises ArchiveLimit."""
        if count > self._limits.max_members:
            raise ArchiveLimit(
                f"{self._archive_name} has more than {self._limits.max_members} members",
                hint="an operator can raise sources.archive.max_members",
            )

    def count_inflated(self, length: int) -> None:
        """Bytes that a decompressor gave, written or not. Raises ArchiveLimit, Cancelled."""
        self._inflated += length
        self._check_ratio(self._inflated)
        if self._cancelled():
            raise Cancelled(f"unpacking {self._archive_name} was cancelled")

    def take_scratch(self, size: int) -> None:
        """Reserve room for bytes that are written beside the tree meanwhile."""
        self._grow(size)

    def add_file(
        self, name: str, size: int, *, is_executable: bool, read: Callable[[int], bytes]
    ) -> None:
        """A regular member of ``size`` bytes that ``read`` gives, up to as many as it is asked."""
        self._put(self.safe_name(name), size, is_executable, read)

    def _put(self, path: str, size: int, is_executable: bool, read: Callable[[int], bytes]) -> None:
        self._claim(size)
        descriptor = self._create(path, 0o755 if is_executable else 0o644)
        try:
            self._files[path] = self._fill(descriptor, size, read)
        finally:
            os.close(descriptor)

    def add_directory(self, name: str) -> None:
        """Only its name is judged: a snapshot holds files, and their directories come with them."""
        trimmed = name.strip("/") if not name.startswith("/") else name
        if _without_dot(trimmed) not in {"", "."}:
            self.safe_name(trimmed)

    def add_hard_link(self, name: str, target: str) -> None:
        """``target`` counts from the root of the archive."""
        self._add_link(name, self._resolve("", target, name))

    def add_symbolic_link(self, name: str, target: str) -> None:
        """``target`` counts from the member's own directory."""
        self._add_link(name, self._resolve(name.rpartition("/")[0], target, name))

    def add_other(self, name: str) -> None:
        """A device, a FIFO and the like. Raises ArchiveInvalid."""
        raise ArchiveInvalid(
            f"{self._archive_name}: {escape(name)} is neither a file, a directory nor a link",
            hint="leave devices, FIFOs and the like out of the archive",
        )

    def safe_name(self, name: str) -> str:
        """The path for a member's name. Raises PathUnsafe."""
        path = _without_dot(name)
        check_name(path)
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PathUnsafe(
                f"the name {escape(path)} in {self._archive_name} is not UTF-8",
                hint="make the archive with names in UTF-8",
            ) from None
        return path

    def finish(self) -> list[ManifestFile]:
        """Make the links, as hard links to the regular members they lead to; then every file."""
        for name in self._links:
            self._make_link(name, self._end_of(name))
        return [
            ManifestFile(path=path, size=written.size, blocks=written.blocks)
            for path, written in sorted(self._files.items())
        ]

    # --- links -------------------------------------------------------------------------------

    def _add_link(self, name: str, target: str) -> None:
        path = self.safe_name(name)
        if path in self._links or path in self._files:
            raise self._twice(path)
        self._links[path] = target

    def _resolve(self, folder: str, target: str, name: str) -> str:
        """``target`` from ``folder``, lexically. Raises ArchiveInvalid if it leaves the tree."""
        if target.startswith("/") or "\0" in target or not target:
            raise self._bad_link(name)
        parts: list[str] = []
        for part in [*folder.split("/"), *target.split("/")]:
            if part == "..":
                if not parts:
                    raise self._bad_link(name)
                parts.pop()
            elif part not in {"", "."}:
                parts.append(part)
        return "/".join(parts)

    def _end_of(self, name: str) -> str:
        """The regular member at the end of a chain of links."""
        seen = {name}
        target = self._links[name]
        while target in self._links:
            if target in seen:
                raise self._bad_link(name)
            seen.add(target)
            target = self._links[target]
        if target not in self._files:
            raise self._bad_link(name)
        return target

    def _make_link(self, name: str, target: str) -> None:
        written = self._files[target]
        source = self._enter(target)
        # _enter keeps one directory open, and may close this one for the link's own.
        held = os.dup(source)
        try:
            folder = self._enter(name)
            try:
                os.link(
                    target.rpartition("/")[2],
                    name.rpartition("/")[2],
                    src_dir_fd=held,
                    dst_dir_fd=folder,
                    follow_symlinks=False,
                )
            except OSError as error:
                if error.errno == errno.EEXIST:
                    raise self._twice(name) from error
                if error.errno not in _NO_LINKS:
                    raise self._failed(error) from error
                self._copy(held, target, name, written.size)
        finally:
            os.close(held)
        self._files[name] = written

    def _copy(self, folder: int, target: str, name: str, size: int) -> None:
        """Where the file system can't link."""
        original = os.open(target.rpartition("/")[2], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            mode = stat.S_IMODE(os.fstat(original).st_mode)
            with open(original, "rb", buffering=0, closefd=False) as file:
                self._put(name, size, bool(mode & 0o100), lambda n: file.read(n) or b"")
        finally:
            os.close(original)

    # --- bytes -------------------------------------------------------------------------------

    def _claim(self, size: int) -> None:
        """Judge and reserve a member's bytes before the first is written."""
        self._bytes += size
        if self._bytes > self._limits.max_bytes:
            raise ArchiveLimit(
                f"{self._archive_name} unpacks to more than {self._limits.max_bytes} bytes",
                hint="an operator can raise sources.archive.max_bytes",
            )
        self._check_ratio(self._bytes)
        self._needed += -(-size // _ALLOCATION) * _ALLOCATION

    def _reserve(self, coming: int) -> None:
        """Reserve for ``coming`` more bytes of what was claimed, in steps."""
        if coming > self._reserved:
            step = min(max(self._reserved, _GROW_FIRST), GROW_STEP)
            step = max(step, coming - self._reserved)
            self._grow(step)
            self._reserved += step

    def _check_ratio(self, unpacked: int) -> None:
        limit, size = self._limits.max_ratio, self._archive_size
        if size is not None and unpacked > max(RATIO_FROM, limit * size):
            raise ArchiveLimit(
                f"{self._archive_name} unpacks to more than {limit:g} times its size",
                hint="an operator can raise sources.archive.max_ratio",
            )

    def _fill(self, descriptor: int, size: int, read: Callable[[int], bytes]) -> _Written:
        blocks: list[str] = []
        crc = 0
        in_block = 0
        left = size
        start = self._needed - -(-size // _ALLOCATION) * _ALLOCATION
        while left:
            data = read(min(CHUNK, left, BLOCK_SIZE - in_block))
            if not data:
                raise damaged(self._archive_name, "it ends in the middle of a member")
            self._reserve(start + (size - left) + len(data))
            self._write(descriptor, data)
            crc = checksums.crc64nvme(data, crc)
            in_block += len(data)
            left -= len(data)
            if in_block == BLOCK_SIZE or not left:
                blocks.append(f"{crc:016x}")
                crc = in_block = 0
            self._report(len(data))
            if self._cancelled():
                raise Cancelled(f"unpacking {self._archive_name} was cancelled")
        return _Written(size, tuple(blocks))

    def _write(self, descriptor: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise self._failed(error) from error

    # --- directories -------------------------------------------------------------------------

    def _create(self, path: str, mode: int) -> int:
        folder = self._enter(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path.rpartition("/")[2], flags, mode, dir_fd=folder)
        except FileExistsError:
            raise self._twice(path) from None
        except OSError as error:
            raise self._failed(error) from error
        os.fchmod(descriptor, mode)
        return descriptor

    def _enter(self, path: str) -> int:
        """A descriptor of the directory of ``path``, made where missing; stays ours."""
        folder = path.rpartition("/")[0]
        if not folder:
            return self._root
        if self._folder[0] == folder:
            return self._folder[1]
        self._close_folder()
        descriptor = os.dup(self._root)
        try:
            for name in folder.split("/"):
                inner = self._step(descriptor, name, path)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        self._folder = (folder, descriptor)
        return descriptor

    def _step(self, parent: int, name: str, path: str) -> int:
        try:
            try:
                os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
            except FileExistsError:
                pass
            else:
                # It takes room on the disk, whether a member says so or not.
                self.count_member()
                os.chmod(name, _FOLDER_MODE, dir_fd=parent)
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise ArchiveInvalid(
                    f"{self._archive_name}: {escape(path)} lies below a member that is a file"
                ) from error
            raise self._failed(error) from error

    def _close_folder(self) -> None:
        if self._folder[1] >= 0:
            os.close(self._folder[1])
        self._folder = ("", -1)

    # --- errors ------------------------------------------------------------------------------

    def _twice(self, path: str) -> ArchiveInvalid:
        return ArchiveInvalid(f"{self._archive_name} has two members {escape(path)}")

    def _bad_link(self, name: str) -> ArchiveInvalid:
        return ArchiveInvalid(
            f"{self._archive_name}: the link {escape(name)} leads to no regular member of it",
            hint="make the archive without links (tar --dereference)",
        )

    def _failed(self, error: OSError) -> DiskError:
        name = errno.errorcode.get(error.errno or 0, "")
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DiskFull(f"the disk is full while unpacking {self._archive_name}", errno=name)
        return DiskError(f"can't unpack {self._archive_name}: {error.strerror}", errno=name)


def _without_dot(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
