"""Does somebody hold a file open? Unlinking it would free nothing then.

A write lease (fcntl(2), F_SETLEASE) is only given on a file that nobody else has open, in whatever
container he is. Taken and given back at once; where the file system knows no leases, nobody knows.
"""

from __future__ import annotations

import fcntl
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_nobodys(tree: Path) -> bool:
    """Whether it is sure that nobody has a file below ``tree`` open. Blocking."""
    try:
        for directory, _, names in os.walk(tree, onerror=_refuse):
            for name in names:
                if not _can_lease(os.path.join(directory, name)):  # noqa: PTH118  (often)
                    return False
    except OSError:
        return False
    return True


def _refuse(error: OSError) -> None:
    raise error


def _can_lease(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Who opens the file in this instant has us told by a signal, and SIGIO would end us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
