"""The directories of pods' views on disk. Blocking.

A pod with uid 0 may plant symbolic links in its own directory, so everything below ``views/`` is
reached component by component, by descriptors, and removed without following a link.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.errors import ViewUnavailable
from cachd.names import directories_of
from cachd.store.fsio import DIRECTORY, SECTOR, Below, write_all
from cachd.store.linux import clone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cachd.model import ManifestFile
    from cachd.store.layout import Layout
    from cachd.store.types import ViewMode

_NO_ACL = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EACCES})
_NO_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_BUFFER = 1024 * 1024
DIRECTORY_MODES: dict[ViewMode, int] = {"link": 0o755, "copy": 0o777}
FILE_MODES: dict[ViewMode, int] = {"link": 0o444, "copy": 0o666}
"""Of what is asked for: a copy that stands in for a link is read-only, too."""

# acl(5) as in linux/posix_acl_xattr.h: version, then (tag, permissions, id) each.
_ACL_VERSION, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Place:
    """A view's directory as it is."""

    device: int
    inode: int
    is_writable: bool


@dataclass(slots=True)
class Linked:
    """Allocated bytes by inode of what was linked; ``missed``: files of which no link can be."""

    inodes: dict[int, int] = field(default_factory=dict)
    missed: str = ""


def prepare_views(views: Path, mode: int) -> str:
    """``views/`` as kubelet must find it, or why it isn't, in a sentence. Raises OSError.

    kubelet gives its mode to the directories that it makes there for pods. They belong to root;
    that their group is ours makes the set-group-id bit. Where the file system has access lists, a
    default one lets the daemon into what pods and kubelet make below, whatever the umask was.
    """
    status = views.lstat()
    group = os.getegid()
    if status.st_uid == os.geteuid() and status.st_gid != group:
        # fsGroup rewrites groups.
        with suppress(PermissionError):
            os.chown(views, -1, group)
    if stat.S_IMODE(status.st_mode) != mode and status.st_uid in (os.geteuid(), 0):
        with suppress(PermissionError):
            views.chmod(mode)
    permissions = mode & 0o007
    entries = (
        (_USER_OBJ, 7, _NO_ID),
        (_USER, 7, os.geteuid()),
        (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
        (_MASK, 7, _NO_ID),
        (_OTHER, permissions, _NO_ID),
    )
    value = _ACL_VERSION.pack(2) + b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)
    try:
        os.setxattr(views, "system.posix_acl_default", value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
    status = views.lstat()
    is_ours = status.st_gid == group or status.st_gid in os.getgroups()
    if os.geteuid() == 0 or (is_ours and status.st_mode & 0o2020 == 0o2020):
        return ""
    return (
        f"{views} has uid {status.st_uid}, gid {status.st_gid} and mode "
        f"{stat.S_IMODE(status.st_mode):04o}: where kubelet makes a pod's directory in it first, "
        "that pod gets no view"
    )


def open_place(layout: Layout, pod: str, name: str, wanted: ViewMode) -> int:
    """A descriptor of the view's directory, which is made where it isn't there. Raises OSError,
    ViewUnavailable."""
    parts = [pod, *(name.split("/") if name else ())]
    modes = [DIRECTORY_MODES["link"]] * (len(parts) - 1) + [DIRECTORY_MODES[wanted]]
    fd = _walk(layout, parts, modes)
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        os.close(fd)
        raise _unavailable(layout, parts, None)
    return fd


def find_place(layout: Layout, pod: str, name: str) -> int:
    """The same for one that is there. Raises OSError, ViewUnavailable."""
    parts = [pod, *(name.split("/") if name else ())]
    return _walk(layout, parts, [None] * len(parts))


def _walk(layout: Layout, parts: Sequence[str], modes: Sequence[int | None]) -> int:
    here = os.open(layout.views, DIRECTORY)
    for depth, (part, mode) in enumerate(zip(parts, modes, strict=True)):
        try:
            below = _enter(here, part, mode)
        except (PermissionError, NotADirectoryError) as error:
            raise _unavailable(layout, parts[: depth + 1], error) from error
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise _unavailable(layout, parts[: depth + 1], error) from error
        finally:
            os.close(here)
        here = below
    return here


def _enter(here: int, part: str, mode: int | None) -> int:
    """``mode`` None: it is there, and stays as it is."""
    is_new = mode is not None
    try:
        if mode is not None:
            os.mkdir(part, mode, dir_fd=here)
    except FileExistsError:
        is_new = False
    below = os.open(part, DIRECTORY, dir_fd=here)
    if mode is None:
        return below
    try:
        status = os.fstat(below)
        if is_new or (status.st_uid == os.geteuid() and status.st_mode & mode != mode):
            os.fchmod(below, mode)
    except BaseException:
        os.close(below)
        raise
    return below


def _unavailable(layout: Layout, parts: Sequence[str], error: OSError | None) -> ViewUnavailable:
    path = layout.views.joinpath(*parts)
    what = (error.strerror if error else None) or "it can't be entered"
    try:
        status = path.lstat()
        what = (
            f"it belongs to uid {status.st_uid} and gid {status.st_gid}, "
            f"mode {stat.S_IMODE(status.st_mode):04o}"
        )
    except OSError:
        pass
    return ViewUnavailable(
        f"the daemon (uid {os.geteuid()}, gid {os.getegid()}) can't fill {path}: {what}",
        hint="kubelet gives it the group and mode that views/ has, see store.views_mode and "
        "docs/operations.md; a new pod gets a new directory",
    )


def look(fd: int) -> Place:
    """The directory behind ``fd``. Raises OSError."""
    status = os.fstat(fd)
    return Place(status.st_dev, status.st_ino, bool(status.st_mode & 0o002))


def is_empty(fd: int) -> bool:
    with os.scandir(fd) as entries:
        return next(entries, None) is None


def clear(fd: int) -> None:
    """Remove what is in the directory, not itself. Raises OSError."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def link_files(fd: int, tree: Path, files: Iterable[ManifestFile]) -> Linked:
    """Link ``files`` of ``tree`` below ``fd``, which is closed. Raises OSError, PathUnsafe."""
    done = Linked()
    with Below(fd) as below:
        for file in files:
            if not below.link(tree / file.path, file.path):
                done.missed = file.path
                return done
            status = below.stat(file.path)
            if status is not None:
                done.inodes[status.st_ino] = status.st_blocks * SECTOR
    return done


def finish_directories(fd: int, files: Iterable[ManifestFile], wanted: ViewMode) -> None:
    """Modes of the directories, and all of them durable. ``fd`` is closed. Raises OSError."""
    with Below(fd) as below:
        for name in sorted(directories_of(file.path for file in files), reverse=True):
            below.finish_directory(name, DIRECTORY_MODES[wanted])
        below.finish_directory("", 0)


class FileCopy:
    """One private copy, made piece by piece. ``close`` it."""

    def __init__(self, fd: int, tree: Path, file: ManifestFile, wanted: ViewMode) -> None:
        """``fd``: the view's directory; it stays open. Raises OSError, PathUnsafe."""
        self._mode = FILE_MODES[wanted]
        with Below(tree) as below:
            self._source = below.open(file.path, os.O_RDONLY)
        try:
            with Below(os.dup(fd)) as below:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._target = below.open(file.path, flags, 0o600)
        except BaseException:
            os.close(self._source)
            raise
        self._size = file.size
        self._at = 0

    def copy(self, limit: int) -> int:
        """Share the extents where the file system can, else copy at most ``limit`` bytes; how many,
        0 at the end. Raises OSError."""
        count = min(limit, self._size - self._at)
        if count <= 0:
            return 0
        if self._at == 0 and clone(self._source, self._target):
            self._at = self._size
            return self._size
        try:
            copied = os.copy_file_range(self._source, self._target, count, self._at, self._at)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            os.lseek(self._target, self._at, os.SEEK_SET)
            data = os.pread(self._source, min(count, _BUFFER), self._at)
            write_all(self._target, data)
            copied = len(data)
        if copied == 0:
            raise OSError(errno.EIO, "the snapshot's file ends too early")
        self._at += copied
        return copied

    def close(self) -> None:
        """Set the mode, whatever the umask is, and let go."""
        try:
            os.fchmod(self._target, self._mode)
        finally:
            os.close(self._source)
            os.close(self._target)
