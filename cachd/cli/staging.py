"""Files on their way into a destination: all there or none, and nothing of ours stays behind.

Files are written into a hidden directory inside the destination and renamed into place: at the end,
or one by one where the space doesn't allow both the old and the new ones. The hidden directory is
locked while its process lives, so that a later run clears what a killed one left: the directory,
and what was renamed out of it already, which carries a mark until all is in place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import (
    CachdError,
    Cancelled,
    DestinationUnusable,
    DiskError,
    DiskFull,
    PathUnsafe,
)
from cachd.names import check_name, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREFIX = ".cachd-pull-"
MARK = "user.cachd.unfinished"
"""An extended attribute; where the file system has none, a kill in the middle of the renames leaves
what was renamed."""

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


def check_relative(path: str) -> str:
    """``path`` if it can be a file below a directory; raises PathUnsafe otherwise."""
    check_name(path)
    if path.startswith(PREFIX):
        raise PathUnsafe(f"the path {escape(path)} is one that cachd uses itself")
    return path


def check_place(destination: Path) -> None:
    """Raises DestinationUnusable where it is plain beforehand that nothing can be written there. A
    directory that has something in it may be the cache's own, which isn't written to."""
    place = destination
    with translated(destination):
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if place == destination and place.is_dir() and any(place.iterdir()):
            return
    if not place.is_dir():
        raise destination_error(NotADirectoryError(errno.ENOTDIR, "Not a directory"), destination)
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        is_mount = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
        number = errno.EROFS if is_mount else errno.EACCES
        raise destination_error(OSError(number, os.strerror(number)), destination)


class Staging:
    """The destination directory while it is filled. Leave the ``with`` block without ``commit``
    and everything that this run wrote is removed."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self._made: list[Path] = []
        self._placed: list[str] = []
        self._marked: list[str] = []
        self._staged: set[str] = set()
        self._lock = threading.Lock()
        self._lock_fd = -1
        self._is_done = False
        self._is_closed = False
        self.tree = destination

    def __enter__(self) -> Staging:
        with translated(self.destination):
            try:
                self._make_directory(self.destination)
                if _clear_dead(self.destination):
                    _clear_marked(self.destination)
                self.tree = self.destination / f"{PREFIX}{secrets.token_hex(6)}"
                self.tree.mkdir(mode=0o700)
                self._lock_fd = os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):
                    fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                self._remove_directories()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
        if not self._is_done:
            for path in self._placed:
                with contextlib.suppress(OSError):
                    (self.destination / path).unlink()
        shutil.rmtree(self.tree, ignore_errors=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
        if not self._is_done:
            self._remove_directories()

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[int]:
        """A descriptor to write the file ``path`` with; the file is staged when the block ends."""
        target = self.tree / check_relative(path)
        if self._is_closed:
            raise Cancelled("the destination is being cleaned up")
        with translated(self.destination):
            target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(target, flags, FILE_MODE)
        try:
            yield fd
            with translated(self.destination):
                os.fchmod(fd, FILE_MODE)
            _mark(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
        finally:
            os.close(fd)
        with self._lock:
            self._staged.add(path)

    def link(self, source: Path, path: str) -> None:
        """Stage ``path`` as a hard link to ``source``. Raises OSError as ``link`` does."""
        target = self.tree / check_relative(path)
        target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        os.link(source, target, follow_symlinks=False)
        with self._lock:
            self._staged.add(path)

    def take(self, source: Path, path: str) -> None:
        """Stage ``path`` by moving ``source`` there, from the same volume. Raises OSError."""
        target = self.tree / check_relative(path)
        target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        source.rename(target)
        target.chmod(FILE_MODE)
        _mark(target)
        with self._lock:
            self._staged.add(path)

    def adopt(self, paths: Iterable[str]) -> None:
        """Stage files that somebody else wrote below ``tree``."""
        for path in paths:
            with translated(self.destination):
                (self.tree / path).chmod(FILE_MODE)
            _mark(self.tree / path)
            self._staged.add(path)

    def place(self, path: str) -> None:
        """Rename one staged file into the destination."""
        target = self.destination / path
        with self._lock, translated(target):
            if self._is_closed:
                raise Cancelled("the destination is being cleaned up")
            self._make_directory(target.parent)
            is_new = not os.path.lexists(target)
            (self.tree / path).replace(target)
            self._marked.append(path)
            if is_new:
                self._placed.append(path)
            self._staged.discard(path)

    def commit(self) -> None:
        """Rename every staged file into the destination."""
        for path in sorted(self._staged):
            self.place(path)
        for path in self._marked:
            with contextlib.suppress(OSError):
                os.removexattr(self.destination / path, MARK, follow_symlinks=False)
        self._is_done = True

    def _make_directory(self, path: Path) -> None:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(mode=DIRECTORY_MODE)
            self._made.append(directory)

    def _remove_directories(self) -> None:
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                directory.rmdir()


def _mark(file: int | Path) -> None:
    with contextlib.suppress(OSError):
        os.setxattr(file, MARK, b"")


def _clear_marked(destination: Path) -> None:
    """Remove what a killed run had renamed into place, and the directories that are empty then."""
    emptied: set[Path] = set()
    for name, _, files in os.walk(destination, topdown=False):
        directory = Path(name)
        for file in files:
            with contextlib.suppress(OSError):
                os.getxattr(directory / file, MARK, follow_symlinks=False)
                (directory / file).unlink()
                emptied.add(directory)
        if directory in emptied and directory != destination:
            with contextlib.suppress(OSError):
                directory.rmdir()
                emptied.add(directory.parent)


def _clear_dead(destination: Path) -> bool:
    """Remove the hidden directories of runs that were killed; whether there was one, and none of a
    run that lives."""
    found, is_alone = False, True
    for leftover in destination.glob(f"{PREFIX}*"):
        try:
            fd = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
            found = True
        except OSError:
            is_alone = False  # Its process lives.
        finally:
            os.close(fd)
    return found and is_alone


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of the destination's file system, said in terms of the destination."""
    try:
        yield
    except OSError as error:
        raise destination_error(error, path) from error


def destination_error(error: OSError, path: Path) -> CachdError:
    """What an OSError at the destination ``path`` means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left at the destination {path}",
            hint="make the volume larger (an emptyDir's sizeLimit, a claim's request), or pull "
            "into another one",
        )
    if error.errno == errno.EIO:
        return DiskError(f"the disk below {path} fails: {error.strerror}")
    hints = {
        errno.EACCES: f"let uid {os.geteuid()} write there, or choose another destination",
        errno.EPERM: f"let uid {os.geteuid()} write there, or choose another destination",
        errno.EROFS: "mount the destination for writing in this container",
        errno.ENOTDIR: "something on the way to it is a file; choose another destination",
        errno.EISDIR: "a directory is where a file belongs; choose another destination",
        errno.EEXIST: "a file is where a directory belongs; choose another destination",
        errno.EXDEV: "another file system is mounted inside the destination; unmount it",
    }
    number = error.errno or 0
    return DestinationUnusable(
        f"can't write to the destination {path}: {error.strerror or error}",
        hint=hints.get(number, "choose another destination"),
        errno=errno.errorcode.get(number, ""),
    )
