"""A connected socket, plain or TLS, read in large gulps by one thread.

Plain: ``MSG_WAITALL`` into the whole buffer, which wakes the thread once per buffer, and
``SO_RCVTIMEO``, at which the kernel hands over what there is. TLS: records come 16 KiB at a time,
so that the thread sleeps in ``poll`` until 256 KiB are there (``SO_RCVLOWAT``) and then decrypts
them in one go, behind a gate that lets only so many threads run at once: more would only fight
for the interpreter lock.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time

TICK = 0.5
"""Seconds after which a read comes back with what it has, for the caller to judge the rate."""

TLS_RUNNABLE = 1
"""Threads of one process that decrypt at the same time. With two, the same 2 GiB take 10 % more CPU
and longer, for each record of 16 KiB takes the interpreter lock; other cores have other workers."""

_LOW_WATER = 256 * 1024
_TAIL = 2 * 1024 * 1024
_gate = threading.Semaphore(TLS_RUNNABLE)


class Transport:
    """A connection to one origin or proxy. Not shared between threads while in use.

    Methods raise OSError (``ssl.SSLError`` included) as the socket does.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_eof = False
        self.requests = 0
        self.idle_since = 0.0
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._low_water = 1
        if self._tls is not None:
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
            return
        view = memoryview(data)
        end = time.monotonic() + patience
        while view:
            try:
                view = view[self.sock.send(view) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                events = select.POLLIN if isinstance(error, ssl.SSLWantReadError) else 0
                poll = select.poll()
                poll.register(self.sock.fileno(), events or select.POLLOUT)
                if time.monotonic() > end or not poll.poll(int(patience * 1000)):
                    raise TimeoutError("the request could not be sent") from None

    def receive(self, view: memoryview) -> int:
        """What is there, at most ``len(view)`` bytes; 0 after a tick without any, or at the end
        (``is_eof``)."""
        if self._tls is not None:
            return self._receive_tls(view, 0, once=True)
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
            return self._receive_tls(view, left, once=False)
        try:
            count = self.sock.recv_into(view, len(view), socket.MSG_WAITALL)
        except BlockingIOError:
            return 0
        self.is_eof = count == 0
        return count

    def _receive_tls(self, view: memoryview, left: int, *, once: bool) -> int:
        assert self._tls is not None
        filled, size = 0, len(view)
        while filled < size:
            if not self._tls.pending():
                self._set_low_water(_LOW_WATER if left - filled > _TAIL else 1)
                if not self._poll.poll(int(TICK * 1000)):
                    # A low-water mark hides what has come so far: take it before judging.
                    return filled + self._drain(view[filled:])
            got = self._drain(view[filled:])
            filled += got
            if self.is_eof or (once and filled):
                break
        return filled

    def _drain(self, view: memoryview) -> int:
        """Decrypt what the kernel has."""
        assert self._tls is not None
        filled, size = 0, len(view)
        # What ``SSLSocket.recv_into`` ends in, without its two frames of Python for each record of
        # 16 KiB: they were a tenth of the CPU time of a transfer.
        read = self._tls._sslobj.read  # type: ignore[attr-defined]
        with _gate:
            try:
                while filled < size:
                    count = read(size - filled, view[filled:])
                    if count == 0:
                        self.is_eof = True
                        break
                    filled += count
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except ssl.SSLEOFError:
                self.is_eof = True
        return filled

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low_water = count

    def is_reusable(self) -> bool:
        """Whether nothing came unasked: neither an end, nor bytes beyond the last answer."""
        if self.is_eof or (self._tls is not None and self._tls.pending()):
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
