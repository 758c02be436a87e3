"""A connected socket, plain or TLS, read in large gulps by one thread.

Plain: ``MSG_WAITALL`` into the whole buffer, which wakes the thread once per buffer, and
``SO_RCVTIMEO``, at which the kernel hands over what there is. TLS: the thread sleeps in ``poll``
until 768 KiB are there (``SO_RCVLOWAT``) and then decrypts them in one go, behind a gate that lets
only so many threads run at once: more would only fight for the interpreter lock.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachd.fetch.tls import Tls

TICK = 0.5
"""Seconds after which a read comes back with what it has, for the caller to judge the rate."""

TLS_RUNNABLE = 1
"""Threads of one process that decrypt at the same time. With two, the same 2 GiB take a quarter
more CPU, and longer, for each record of 16 KiB takes the interpreter lock; other cores have other
workers."""

_LOW_WATER = 512 * 1024
_TAIL = 2 * 1024 * 1024
_gate = threading.Semaphore(TLS_RUNNABLE)


class Transport:
    """A connection to one origin or proxy; ``tls`` has shaken hands. Not shared between threads
    while in use.

    Methods raise OSError (``ssl.SSLError`` included) as the socket does.
    """

    def __init__(self, sock: socket.socket, tls: Tls | None = None) -> None:
        self.sock = sock
        self.is_eof = False
        self.requests = 0
        self.idle_since = 0.0
        self._tls = tls
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._low_water = 1
        if tls is not None:
            sock.setblocking(False)
        else:
            sock.settimeout(None)
            tick = struct.pack("ll", 0, int(TICK * 1e6))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))

    def send(self, data: bytes, patience: float = 10.0) -> None:
        """Send all of ``data``, a request's head, within ``patience`` seconds."""
        if self._tls is None:
            self.sock.sendall(data)
        else:
            self._tls.send(data, patience)

    def receive(self, view: memoryview) -> int:
        """What is there, at most ``len(view)`` bytes; 0 after a tick without any, or at the end
        (``is_eof``)."""
        if self._tls is not None:
            return self._receive_tls(self._tls, view, 0, once=True)
        try:
            count = self.sock.recv_into(view)
        except BlockingIOError:
            return 0
        self.is_eof = count == 0
        return count

    def fill(self, view: memoryview, left: int) -> int:
        """Fill ``view``; fewer bytes after a tick, or at the end (``is_eof``).

        ``left`` is what the body still has, ``view`` included: at its tail no low-water mark may
        wait for bytes that will never come.
        """
        if self._tls is not None:
            return self._receive_tls(self._tls, view, left, once=False)
        try:
            count = self.sock.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError:
            return 0
        self.is_eof = count == 0
        return count

    def _receive_tls(self, tls: Tls, view: memoryview, left: int, *, once: bool) -> int:
        filled, size = 0, len(view)
        while filled < size:
            is_late = False
            if tls.is_dry:
                self._set_low_water(_LOW_WATER if left - filled > _TAIL else 1)
                # A low-water mark hides what has come so far: it is taken before judging.
                is_late = not self._poll.poll(int(TICK * 1000))
            try:
                with _gate:
                    filled += tls.read(view[filled:])
            except EOFError:
                self.is_eof = True
            if is_late or self.is_eof or (once and filled):
                break
        return filled

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low_water = count

    def is_reusable(self) -> bool:
        """Whether nothing came unasked: neither an end, nor bytes beyond the last answer."""
        if self.is_eof or (self._tls is not None and not self._tls.is_empty):
            return False
        if self._tls is not None:
            self._set_low_water(1)
        try:
            readable = self._poll.poll(0)
        except (OSError, ValueError):
            return False
        return not readable

    def shutdown(self) -> None:
        """End it from another thread: a blocked read returns at once."""
        shutdown_socket(self.sock)

    def close(self) -> None:
        self.sock.close()


def shutdown_socket(sock: socket.socket) -> None:
    """Both directions, at the socket itself: TLS has no say, another thread may be inside it."""
    try:
        fd = sock.fileno()
        if fd < 0:
            return
        raw = socket.socket(fileno=fd)
    except OSError:
        return
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        raw.detach()
