"""An HTTP server on loopback, in threads of the test's own process: what every fake is built on."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from tests.servers.ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
OCTETS = "application/octet-stream"


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'


class Handler(BaseHTTPRequestHandler):
    """A subclass has ``do_GET`` and what else is asked, and answers by ``send`` or, with ranges
    and conditions, ``send_file``. An underscore in a header's name stands for a hyphen."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, body: bytes, content_type: str) -> None:
        etag = etag_of(body)
        common = {"ETag": etag, "Accept_Ranges": "bytes", "Content_Type": content_type}
        if self.headers.get("If-Match", etag) != etag:
            self.send(412)
            return
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not match or self.command == "HEAD":
            self.send(200, body, **common)
            return
        start, last = int(match[1]), int(match[2] or len(body))
        part = body[start : last + 1]
        if not part:
            self.send(416, Content_Range=f"bytes */{len(body)}")
            return
        span = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        self.send(206, part, Content_Range=span, **common)


class Server(ThreadingHTTPServer):
    """On a free port, in a thread of its own, from the beginning until ``stop``."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        handler: Callable[..., BaseHTTPRequestHandler],
        tls: ssl.SSLContext | None = None,
        host: str = LOOPBACK,
    ) -> None:
        super().__init__((host, free_ports(1)[0]), handler)
        if tls is not None:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self.server_address[1])
        self.host = f"{host}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up, or don't trust the certificate, are no news; others are faults of
        the fake's own."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Also of one that was stopped."""
        if self._thread.is_alive():
            self.shutdown()
            self.server_close()
            self._thread.join(60)
