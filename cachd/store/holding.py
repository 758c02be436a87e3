"""Does somebody hold a file: has it open, or has a link to it? Unlinking it frees nothing then.

A write lease (fcntl(2), F_SETLEASE) is only given on a file that nobody else has open, in whatever
container he is. Taken and given back at once; where the file system knows no leases, nobody knows.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cachd.store.trash import digests_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cachd.store.layout import Layout


_PAUSES = (0.0, 0.02, 0.1)
"""Seconds before each try."""


def is_nobodys(snapshot: Path, layout: Layout) -> bool:
    """Whether it is sure that nobody but the store holds a file of ``snapshot``: one that has a
    further name must have it among the blobs. Blocking."""
    try:
        blobs = _inodes(layout.blob(digest) for digest in digests_of(snapshot))
        for directory, _, names in os.walk(snapshot / "tree", onerror=_refuse):
            for name in names:
                if not _can_lease(os.path.join(directory, name), blobs):  # noqa: PTH118  (often)
                    return False
    except OSError:
        return False
    return True


def _inodes(paths: Iterable[Path]) -> set[int]:
    found = set()
    for path in paths:
        with suppress(FileNotFoundError):
            found.add(path.lstat().st_ino)
    return found


def _refuse(error: OSError) -> None:
    raise error


def _can_lease(path: str, blobs: set[int]) -> bool:
    # Who only looks at the file in this instant is in the way as well, and gone in the next.
    return any(_can_lease_now(path, blobs, pause) for pause in _PAUSES)


def _can_lease_now(path: str, blobs: set[int], pause: float) -> bool:
    time.sleep(pause)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if status.st_nlink > (2 if status.st_ino in blobs else 1):
            return False
        # Who opens the file in this instant has us told by a signal, and SIGIO would end us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
