"""What origins that write their own bytes do with connections."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable

_MOST_HEAD = 256 * 1024


def read_head(connection: socket.socket, buffer: bytes = b"") -> tuple[str, bytes]:
    """The head of a message, and what came behind it; "" if the other side is gone before."""
    while b"\r\n\r\n" not in buffer and len(buffer) < _MOST_HEAD:
        more = connection.recv(65536)
        if not more:
            return "", b""
        buffer += more
    head, _, rest = buffer.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def shut(sockets: Iterable[socket.socket]) -> None:
    """Whoever waits for one goes on, in any thread."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def reset_when_closed(connection: socket.socket) -> None:
    time.sleep(0.05)  # let the bytes out before the RST overtakes them
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
