"""A web server whose answers the rows write: types, statuses, redirects, and headers it wants."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import Template
from typing import TYPE_CHECKING

from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
OCTETS = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Page:
    """``wants``: headers without which the answer is 401. ``location`` makes it a redirect."""

    body: bytes = b""
    type: str = OCTETS
    status: int = 200
    location: str = ""
    wants: Mapping[str, str] = field(default_factory=dict)

    def at(self, names: Mapping[str, str]) -> Page:
        """With the ``$names`` of its location replaced."""
        return replace(self, location=Template(self.location).substitute(names))


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:24]}"'


@dataclass(frozen=True)
class Seen:
    method: str
    target: str
    headers: Mapping[str, str]


class Handler(BaseHTTPRequestHandler):
    """Ranges and conditions over whatever bytes a subclass finds."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

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
    """On a free port, in a thread of its own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[Handler], tls: ssl.SSLContext | None = None) -> None:
        super().__init__((LOOPBACK, 0), handler)
        if tls is not None:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if tls else "http"
        self.port = int(self.server_address[1])
        self.url = f"{scheme}://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that doesn't trust the certificate is no news."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(60)


class Web(Server):
    """``pages`` by path; a page's path may end in its query, else the query doesn't matter."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.seen: list[Seen] = []
        web = self

        class WebHandler(Handler):
            def do_GET(self) -> None:
                web._answer(self)

            do_HEAD = do_GET

        super().__init__(WebHandler, tls)

    def _answer(self, handler: Handler) -> None:
        self.seen.append(
            Seen(handler.command, handler.path, {k.lower(): v for k, v in handler.headers.items()})
        )
        page = self.pages.get(handler.path.partition("?")[0])
        if page is None:
            handler.send(404)
        elif any(handler.headers.get(name) != value for name, value in page.wants.items()):
            handler.send(401)
        elif page.location:
            handler.send(page.status, Location=page.location)
        elif page.status != 200:
            handler.send(page.status, page.body, Content_Type=page.type)
        else:
            handler.send_file(page.body, page.type)
