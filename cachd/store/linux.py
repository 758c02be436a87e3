"""System calls that the standard library lacks or softens: fallocate, syncfs, FICLONE, statfs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import uuid
from functools import cache
from pathlib import Path

_FICLONE = 0x40049409
_FS_IOC_GETFSUUID = 0x80111500
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV})


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fail(fd: int) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), f"/proc/self/fd/{fd}")


def fallocate(fd: int, size: int) -> bool:
    """Allocate ``size`` bytes from offset 0 and set the file's size; False: not supported here.

    ``os.posix_fallocate`` is not used: glibc emulates it with one write per block where the file
    system can't. Raises OSError (ENOSPC and so on).
    """
    if size == 0:
        return True
    call = _libc().fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        if number != errno.EINTR:
            raise _fail(fd)
    return True


def syncfs(fd: int) -> None:
    """Make everything on the file system of ``fd`` durable.

    Since Linux 5.8 it raises OSError for every write-back error since ``fd`` was opened, so open
    ``fd`` before the writes that matter.
    """
    while _libc().syncfs(ctypes.c_int(fd)) != 0:
        if ctypes.get_errno() != errno.EINTR:
            raise _fail(fd)


def clone(source: int, target: int) -> bool:
    """Make ``target`` share the extents of ``source`` (descriptors); False: not supported here."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _UNSUPPORTED or error.errno in (errno.EXDEV, errno.ENOTTY, errno.EPERM):
            return False
        raise
    return True


def filesystem_uuid(fd: int) -> str | None:
    """The UUID of the file system of ``fd``; None where the kernel (before 6.9) or the file system
    doesn't tell."""
    buffer = bytearray(17)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, buffer, True)
    except OSError:
        return None
    length = buffer[0]
    if length == 16:
        return str(uuid.UUID(bytes=bytes(buffer[1:17])))
    return bytes(buffer[1 : 1 + length]).hex() or None


def boot_id() -> str:
    """The kernel's id of this boot: what the page cache held survives only within one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    digits = "".join(c for c in minor if c.isdigit())
    return int(major), int(digits or 0)
