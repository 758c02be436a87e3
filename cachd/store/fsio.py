"""Blocking file-system work, for threads: durable small files, preallocation, safe creation below
a directory, measuring trees."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cachd.errors import DiskError, DiskFull, PathUnsafe, StoreError
from cachd.names import escape
from cachd.store.linux import fallocate, syncfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SyncMethod = Literal["none", "syncfs", "fsync"]
SECTOR = 512
"""Bytes per unit of ``st_blocks`` on Linux, whatever the file system's block size is."""
_FSYNC_THREADS = 16
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SICK = frozenset(
    {
        errno.EIO,
        errno.EROFS,
        errno.EUCLEAN,  # XFS and ext4: their own structures are damaged
        errno.EBADMSG,
        errno.ENXIO,
        errno.ENODEV,
        errno.ESTALE,  # the rest: a network or FUSE file system that went away
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
    }
)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Volume:
    """The volume's state in bytes and inodes. ``inodes`` is 0 where the file system has no fixed
    number of them (btrfs)."""

    size: int
    free: int
    inodes: int
    inodes_free: int
    block: int
    is_read_only: bool = False


def statvfs(path: Path) -> Volume:
    """``free`` is what an ordinary user may take. Raises OSError."""
    found = os.statvfs(path)
    return Volume(
        size=found.f_blocks * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_favail,
        block=found.f_frsize or 4096,
        is_read_only=bool(found.f_flag & os.ST_RDONLY),
    )


@contextmanager
def disk_errors(doing: str, mount_point: str) -> Iterator[None]:
    """Turn OSError into DiskFull, DiskError or StoreError that says what was being done where."""
    try:
        yield
    except OSError as error:
        raise to_disk_error(error, doing, mount_point) from error


def to_disk_error(error: OSError, doing: str, mount_point: str) -> StoreError | DiskError:
    """DiskFull for ENOSPC and EDQUOT, DiskError for what a sick volume says, else StoreError.

    ``errno`` in the detail is its name."""
    reason = error.strerror or str(error)
    facts: dict[str, Any] = {"errno": errno.errorcode.get(error.errno or 0, "")}
    if error.errno in _FULL:
        what = "is full" if error.errno == errno.ENOSPC else "has reached a quota"
        return DiskFull(
            f"the volume mounted at {mount_point} {what}, while {doing}",
            hint="free space or inodes there, or lower store.quota or raise store.free_floor",
            mount_point=mount_point,
            **facts,
        )
    if error.errno in _SICK:
        return DiskError(
            f"the volume mounted at {mount_point} failed, while {doing}: {reason}",
            hint="see the kernel's log; the disk may be broken or mounted read-only",
            mount_point=mount_point,
            **facts,
        )
    name = f" ({error.filename})" if error.filename else ""
    return StoreError(f"{doing} failed: {reason}{name}", **facts)


def make_directory(path: Path, mode: int) -> None:
    """Make ``path`` with exactly ``mode``, whatever the umask; keep it as it is if it exists."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(mode)


def fsync_directory(path: Path) -> None:
    fd = os.open(path, DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(
    directory: Path, name: str, data: bytes, *, mode: int, is_durable: bool = True
) -> None:
    """Make ``directory/name`` hold ``data``: a reader, and a kill, see the old or the new; with
    ``is_durable`` a power loss too."""
    temporary = directory / f"{name}.tmp"
    with suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            if is_durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(directory / name)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if is_durable:
        fsync_directory(directory)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def remove_file(path: Path) -> None:
    """Remove ``path`` durably; nothing to do if it isn't there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    fsync_directory(path.parent)


class Below:
    """Files below one directory, reached component by component without following a link.

    Names are checked by ``cachd.names`` before; this holds even if somebody plants a symbolic
    link in the tree. A context manager; not for use by several threads.
    """

    def __init__(self, root: Path | int) -> None:
        """``root``: a path, or a descriptor, which is then closed with this."""
        self._root = root if isinstance(root, int) else os.open(root, DIRECTORY)
        self._directory = self._root
        self._parts: tuple[str, ...] = ()

    def __enter__(self) -> Below:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        os.close(self._root)

    def _leave(self) -> None:
        if self._directory != self._root:
            os.close(self._directory)
        self._directory, self._parts = self._root, ()

    def _enter(self, parts: tuple[str, ...], *, make: bool) -> int:
        """A descriptor of the directory; kept for the next file in it."""
        if parts == self._parts:
            return self._directory
        self._leave()
        fd = self._root
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                below = os.open(part, DIRECTORY, dir_fd=fd)
                if fd != self._root:
                    os.close(fd)
                fd = below
        except OSError as error:
            if fd != self._root:
                os.close(fd)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise PathUnsafe(
                    f"{escape('/'.join(parts))} is not a directory of the tree",
                    hint="something else writes below the cache's root; find out what",
                ) from error
            raise
        self._directory, self._parts = fd, parts
        return fd

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor of the file; its directories are made if ``flags`` has O_CREAT."""
        *parents, last = name.split("/")
        directory = self._enter(tuple(parents), make=bool(flags & os.O_CREAT))
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)

    def stat(self, name: str) -> os.stat_result | None:
        """Of the file itself, links not followed; None if it isn't there."""
        *parents, last = name.split("/")
        try:
            directory = self._enter(tuple(parents), make=False)
            return os.stat(last, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def link(self, source: Path, name: str) -> bool:
        """Make ``name`` one more link of ``source``; False where that can't be (EXDEV, EMLINK,
        EPERM, no such file)."""
        *parents, last = name.split("/")
        directory = self._enter(tuple(parents), make=True)
        try:
            os.link(source, last, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            os.unlink(last, dir_fd=directory)
            return self.link(source, name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                return False
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def replace(self, source: Path, name: str) -> None:
        """Make ``name`` a link of ``source`` in one step, whatever it was."""
        *parents, last = name.split("/")
        directory = self._enter(tuple(parents), make=False)
        temporary = f".{secrets.token_hex(8)}"
        os.link(source, temporary, dst_dir_fd=directory, follow_symlinks=False)
        try:
            os.rename(temporary, last, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            # Renaming a link over another of the same inode does nothing.
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)

    def finish_directory(self, name: str, mode: int) -> None:
        """Make ``name`` (empty: the root) if it isn't there, with exactly ``mode``, durably."""
        fd = self._enter(tuple(name.split("/")) if name else (), make=True)
        if name:
            os.fchmod(fd, mode)
        os.fsync(fd)

    def unlink(self, name: str) -> None:
        *parents, last = name.split("/")
        with suppress(FileNotFoundError):
            os.unlink(last, dir_fd=self._enter(tuple(parents), make=False))

    def preallocate(self, name: str, size: int, *, use_fallocate: bool) -> bool:
        """Make the file ``size`` bytes long if it isn't; whether its blocks are allocated now."""
        fd = self.open(name, os.O_RDWR | os.O_CREAT)
        try:
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, 0)
            elif size == 0 or os.fstat(fd).st_blocks * SECTOR >= size:
                return True
            if use_fallocate and fallocate(fd, size):
                return True
            os.ftruncate(fd, size)
            return size == 0
        finally:
            os.close(fd)


@dataclass(slots=True)
class Measured:
    """A directory's content. ``files``: (size, inode, allocated bytes, links) by relative name;
    ``inodes`` and ``allocated`` count directories too, and each inode once."""

    allocated: int = 0
    inodes: int = 0
    files: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)

    @property
    def linked(self) -> dict[int, int]:
        """Allocated bytes by inode, of the files that have more than one name."""
        return {ino: held for _, ino, held, links in self.files.values() if links > 1}


def measure(path: Path, *, is_foreign: bool = False) -> Measured:
    """Walk ``path`` without following links. ``others`` are neither files nor directories."""
    found = Measured()
    seen: set[int] = set()
    pending = [""]
    path.lstat()
    while pending:
        try:
            _measure_one(path, pending.pop(), found, seen, pending)
        except OSError:
            if not is_foreign:
                raise
    return found


def measure_foreign(path: Path) -> Measured:
    """``measure`` where a pod may write: what can't be looked at (it was closed, went meanwhile,
    lies too deep) isn't counted instead of being an error. ``path`` itself has to be there."""
    return measure(path, is_foreign=True)


def _measure_one(
    path: Path, prefix: str, found: Measured, seen: set[int], pending: list[str]
) -> None:
    status = (path / prefix).lstat()
    found.allocated += status.st_blocks * SECTOR
    found.inodes += 1
    if prefix:
        found.directories.append(prefix)
    with os.scandir(path / prefix) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
                continue
            status = entry.stat(follow_symlinks=False)
            held = status.st_blocks * SECTOR
            if status.st_ino not in seen:
                found.allocated += held
                found.inodes += 1
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
            if stat.S_ISREG(status.st_mode):
                found.files[name] = (status.st_size, status.st_ino, held, status.st_nlink)
            else:
                found.others.append(name)


def sync_tree(path: Path, method: SyncMethod, fd: int) -> None:
    """Make all below ``path`` durable. ``fd`` was opened there before the first write, so that no
    write-back error since is missed. Raises OSError."""
    if method == "none":
        return
    if method == "syncfs":
        syncfs(fd)
        return
    found = measure(path)
    names = [*found.files, *found.directories, ""]
    with ThreadPoolExecutor(_FSYNC_THREADS, "cachd-fsync") as pool:
        for _ in pool.map(_fsync, (path / name for name in names)):
            pass


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def touch_times(changes: Iterable[tuple[Path, int]]) -> None:
    """Set access and modification time (ns since the epoch) of paths; missing ones are passed
    over."""
    for path, when in changes:
        with suppress(FileNotFoundError):
            os.utime(path, ns=(when, when), follow_symlinks=False)
