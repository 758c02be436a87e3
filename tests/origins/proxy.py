"""A tiny HTTP proxy: CONNECT for https, absolute-form for http; it notes what went through."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from urllib.parse import urlsplit

from tests.origins.sockets import read_head, shut
from tests.servers.ports import LOOPBACK, free_ports

FLIPPED = 100_000
"""Which byte of an answer, head included: listings are shorter."""


class Proxy:
    """``user`` "name:password" makes it ask for that. While ``is_flipping``, one byte of every long
    answer to a GET is wrong."""

    def __init__(self, user: str = "") -> None:
        self._wanted = "Basic " + base64.b64encode(user.encode()).decode() if user else ""
        self._listener = socket.create_server((LOOPBACK, free_ports(1)[0]), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.requests: list[str] = []
        self.is_flipping = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        everything = [self._listener, *self._sockets]
        shut(everything)
        for sock in everything:
            sock.close()
        for thread in list(self._threads):
            thread.join(5)

    def _start(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            head, rest = read_head(client)
            if not head:
                return
            lines = head.split("\r\n")
            method, target, version = lines[0].split(" ")
            self.requests.append(f"{method} {target}")
            fields = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
            given = [line.partition(":")[2].strip() for line in lines[1:] if line not in fields]
            if self._wanted and self._wanted not in given:
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
                )
                client.close()
                return
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                upstream = socket.create_connection((host.strip("[]"), int(port)))
                self._sockets.append(upstream)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(target)
                upstream = socket.create_connection((parts.hostname or "", parts.port or 80))
                self._sockets.append(upstream)
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                # One request a connection keeps the proxy tiny.
                fields = [f for f in fields if not f.lower().startswith("connection:")]
                again = "\r\n".join([f"{method} {path} {version}", *fields, "Connection: close"])
                upstream.sendall((again + "\r\n\r\n").encode("latin-1") + rest)
            self._start(_pump, client, upstream)
            _pump(upstream, client, FLIPPED if self.is_flipping and method == "GET" else -1)


def _pump(source: socket.socket, sink: socket.socket, flip: int = -1) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if 0 <= flip < len(data):
                data = data[:flip] + bytes([data[flip] ^ 1]) + data[flip + 1 :]
            flip -= len(data)
            sink.sendall(data)
    shut([source, sink])
