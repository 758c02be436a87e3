"""Unix sockets, bound so that none is stolen from a living daemon and none is left behind.

Blocking, briefly: call these in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import secrets
import socket
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachd.errors import ConfigInvalid, SocketInUse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_PATH = 107
"""Bytes of a Unix socket's path (``sun_path`` in unix(7), less its NUL)."""

BACKLOG = 4096
LOCK_PATIENCE = 5.0
CONNECT_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A listening socket and the file that leads to it. ``device`` and ``inode`` tell whether the
    file is still ours."""

    sock: socket.socket
    path: Path
    device: int
    inode: int

    def close(self) -> None:
        """Close, and remove the file unless another one has its name by now."""
        self.sock.close()
        try:
            with _locked(self.path.parent):
                status = self.path.lstat()
                if (status.st_dev, status.st_ino) == (self.device, self.inode):
                    self.path.unlink()
        except (OSError, SocketInUse):
            # Nothing at stake: a file that leads nowhere is replaced by the next daemon.
            return


def bind_socket(
    path: Path,
    *,
    mode: int,
    group: str | None = None,
    field: str = "listen.socket",
    kind: socket.SocketKind = socket.SOCK_STREAM,
) -> BoundSocket:
    """Listen at ``path``; mode and group are set before the name appears.

    A socket file that nobody answers at is replaced. Raises SocketInUse if somebody does,
    ConfigInvalid if ``path`` can't be a socket; ``field`` is the setting that named it.
    """
    path = path.absolute()
    length = len(os.fsencode(path))
    if length > MAX_PATH:
        raise ConfigInvalid(
            f"a Unix socket's path may have {MAX_PATH} bytes, this one has {length}: {path}",
            field=field,
            hint=f"choose a shorter one with {_option(field)}",
        )
    gid = _group_id(group)
    prepare_directory(path.parent, field)
    try:
        with _locked(path.parent) as directory:
            _check_free(path, field, kind)
            return _bind(path, directory, mode, gid, kind)
    except OSError as error:
        raise ConfigInvalid(
            f"the socket {path} can't be made by uid {os.geteuid()}: {error.strerror}",
            field=field,
            hint=f"check who owns {path.parent} (a group must be one of the daemon's own), or name "
            f"another path with {_option(field)}",
        ) from error


def _bind(path: Path, directory: int, mode: int, gid: int, kind: socket.SocketKind) -> BoundSocket:
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    temporary = f".{path.name}.{secrets.token_hex(4)}"
    address = str(path.with_name(temporary))
    if len(os.fsencode(address)) > MAX_PATH:
        # By the directory's descriptor a long path is a short one; `ss -xl` shows it so.
        temporary = f".{secrets.token_hex(4)}"
        address = f"/proc/self/fd/{directory}/{temporary}"
    try:
        sock.bind(address)
        # Nobody can connect before listen: mode and group are there in time.
        os.chmod(temporary, mode, dir_fd=directory)
        if gid >= 0:
            os.chown(temporary, -1, gid, dir_fd=directory)
        status = os.stat(temporary, dir_fd=directory, follow_symlinks=False)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    return BoundSocket(sock, path, status.st_dev, status.st_ino)


def prepare_directory(directory: Path, field: str = "listen.socket") -> None:
    """Make the socket's directory, 0755; the fallback below /tmp is 0700 and must be ours.

    Raises ConfigInvalid.
    """
    is_private = str(directory) == f"/tmp/cachd-{os.getuid()}"  # noqa: S108  (checked below)
    try:
        _make(directory, 0o700 if is_private else 0o755)
        status = directory.lstat() if is_private else directory.stat()
    except OSError as error:
        raise ConfigInvalid(
            f"the socket's directory {directory} can't be made: {error.strerror}",
            field=field,
            hint=f"make it for uid {os.geteuid()}, or name another path with {_option(field)}",
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigInvalid(f"{directory} is no directory", field=field)
    if is_private and (status.st_uid != os.getuid() or status.st_mode & 0o077):
        raise ConfigInvalid(
            f"{directory} exists, and others own it or may write to it",
            field=field,
            hint="remove it, or set XDG_RUNTIME_DIR or listen.socket",
        )


def _option(field: str) -> str:
    """A setting that names a socket, with its option on the command line."""
    return f"--{field.rpartition('.')[2].replace('_', '-')} or {field}"


def _make(directory: Path, mode: int) -> None:
    missing = [directory]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            continue
        # The umask may have taken bits away.
        path.chmod(mode)


def _group_id(group: str | None) -> int:
    if group is None:
        return -1
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigInvalid(
            f"there is no group {group} on this machine",
            field="listen.socket_group",
            hint="give its number instead",
        ) from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """The directory's descriptor under flock: two daemons that start together take turns."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SocketInUse(
                        f"somebody keeps {directory} locked",
                        hint="another daemon may be starting there; try again",
                    ) from None
                time.sleep(0.02)
            except OSError:
                # No flock on this file system: the check before the rename is what is left.
                break
        yield descriptor
    finally:
        os.close(descriptor)


def _check_free(path: Path, field: str, kind: socket.SocketKind) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigInvalid(
            f"{path} exists and is no socket",
            field=field,
            hint=f"remove it, or name another path with {_option(field)}",
        )
    if _answers(path, kind):
        raise SocketInUse(
            f"another process listens at {path}",
            hint="a daemon is running already (`cachd top`); stop it, or choose another socket "
            f"with {_option(field)}",
        )


def _answers(path: Path, kind: socket.SocketKind) -> bool:
    probe = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        probe.settimeout(CONNECT_PATIENCE)
        probe.connect(str(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        # A full backlog, another type of socket, no permission: somebody may live there.
        return error.errno != errno.ECONNREFUSED
    finally:
        probe.close()
    return True


def parse_address(address: str, field: str) -> tuple[str | None, int]:
    """``host:port``, ``[v6]:port`` or ``:port`` (every interface). Raises ConfigInvalid."""
    host, separator, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigInvalid(
            f"{field} is no address: {address!r}",
            field=field,
            hint="such as 127.0.0.1:9000, [::1]:9000 or :9000",
        )
    return host or None, int(port)
