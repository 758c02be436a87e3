"""Files of the cache as open descriptors, from the daemon's ``files.sock``: no mount of the cache
is needed, and the bytes are copied, or shared, inside the kernel.

One packet asks (key, revision, path, and the lease that is the pass), one answers: the size and a
descriptor, or a problem. The daemon opens files through a read-only mount, so that nobody can write
through what it hands out.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

from cachd.cli.client import CONNECT_TIMEOUT, connect
from cachd.cli.sockets import is_there

if TYPE_CHECKING:
    from cachd.cli.client import Client
    from cachd.cli.manifest import WantedFile

_TIMEOUT = 30.0
"""Seconds; the daemon opens a file of a local disk."""

_MAX_PACKET = 64 * 1024


class Descriptors:
    """Opens files of the snapshot that ``answer`` names. Used by several threads, each of which
    has a connection of its own."""

    def __init__(self, client: Client, answer: dict[str, Any]) -> None:
        self._client = client
        self._path = client.files_socket
        lease = answer.get("lease")
        self._request = {
            "key": answer["key"],
            "revision": answer["revision"],
            "lease": str(lease["id"]) if lease else None,
        }
        self._local = threading.local()
        self._open_sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_there = self._path is not None and is_there(self._path)

    def open(self, file: WantedFile) -> int | None:
        """A descriptor to read ``file`` with; None where the daemon gives none. What keeps it from
        giving one is told by the stream, which is the next way."""
        if not self._is_there:
            return None
        for _ in range(2):  # Once more over a new connection, after a restart of the daemon.
            try:
                data, descriptors = self._ask(file.path)
            except OSError:
                self._drop()
                continue
            return _take(data, descriptors, file.size)
        return None

    def close(self) -> None:
        with self._lock:
            sockets, self._open_sockets = self._open_sockets, set()
        for one in sockets:
            one.close()

    def _ask(self, path: str) -> tuple[bytes, list[int]]:
        sock = self._connection()
        request = {**self._request, "path": path, "token": self._client.token() or None}
        sock.send(json.dumps({k: v for k, v in request.items() if v is not None}).encode())
        size = array.array("i").itemsize
        data, ancillary, _, _ = sock.recvmsg(
            _MAX_PACKET, socket.CMSG_SPACE(4 * size), socket.MSG_CMSG_CLOEXEC
        )
        descriptors: list[int] = []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % size])
                descriptors.extend(numbers)
        if not data:
            _close(descriptors)
            raise ConnectionResetError("the daemon closed the connection")
        return data, descriptors

    def _connection(self) -> socket.socket:
        sock: socket.socket | None = getattr(self._local, "sock", None)
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                assert self._path is not None, "no socket to ask"
                sock.settimeout(CONNECT_TIMEOUT)
                connect(sock, self._path)
                sock.settimeout(_TIMEOUT)
            except BaseException:
                sock.close()
                raise
            with self._lock:
                self._open_sockets.add(sock)
            self._local.sock = sock
        return sock

    def _drop(self) -> None:
        sock: socket.socket | None = getattr(self._local, "sock", None)
        if sock is not None:
            self._local.sock = None
            with self._lock:
                self._open_sockets.discard(sock)
            sock.close()


def _take(data: bytes, descriptors: list[int], size: int) -> int | None:
    """The one descriptor of an answer, if it is what was asked for and can't be written through."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    if len(descriptors) == 1 and isinstance(answer, dict) and answer.get("size") == size:
        fd = descriptors[0]
        found = os.fstat(fd)
        is_read_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if stat.S_ISREG(found.st_mode) and found.st_size == size and is_read_only:
            return fd
    _close(descriptors)
    return None


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
