"""An HTTP origin that counts what it sends and can be held in mid-body."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

from tests.servers.loopback import OCTETS, Handler, Server
from tests.servers.ports import LOOPBACK

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK = 64 * 1024


@dataclass
class CountingOrigin:
    """``bodies`` by path. ``sent`` counts body bytes by path, ``requests`` by method and path.

    While ``hold_after`` is a number, bodies stop when that many bytes in all were sent, until
    ``release`` is called.
    """

    bodies: dict[str, bytes] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    hold_after: int | None = None
    host: str = LOOPBACK

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.held = threading.Event()
        origin = self

        class OriginHandler(Handler):
            def do_HEAD(self) -> None:
                origin._answer(self, with_body=False)

            def do_GET(self) -> None:
                origin._answer(self, with_body=True)

        self._server = Server(OriginHandler, host=self.host)
        self.url = self._server.url

    def release(self) -> None:
        self.hold_after = None
        self._released.set()

    def hold(self, after: int) -> None:
        """Stop bodies once ``after`` more bytes were sent."""
        self._released.clear()
        self.held.clear()
        self.hold_after = self.sent.total() + after

    def close(self) -> None:
        self.release()
        self._server.stop()

    def _answer(self, handler: Handler, *, with_body: bool) -> None:
        path = handler.path
        with self._lock:
            self.requests[handler.command, path] += 1
        body = self.bodies.get(path)
        if body is None:
            handler.send(404)
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
        wanted = handler.headers.get("If-Match")
        if wanted not in (None, etag, "*"):
            handler.send(412)
            return
        start, end = 0, len(body)
        match = _RANGE.fullmatch(handler.headers.get("Range", ""))
        if match:
            start = int(match[1])
            end = min(int(match[2]) + 1 if match[2] else len(body), len(body))
        handler.send_response(206 if match else 200)
        if match:
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        handler.send_header("Content-Length", str(end - start))
        handler.send_header("Content-Type", OCTETS)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("ETag", etag)
        handler.end_headers()
        if with_body:
            self._send(handler, path, memoryview(body)[start:end])

    def _send(self, handler: Handler, path: str, body: memoryview) -> None:
        while body:
            chunk, body = body[:_CHUNK], body[_CHUNK:]
            with self._lock:
                limit = self.hold_after
                is_over = limit is not None and self.sent.total() >= limit
                if not is_over:
                    self.sent[path] += len(chunk)
            if is_over:
                self.held.set()
                self._released.wait(60)
                with self._lock:
                    self.sent[path] += len(chunk)
            handler.wfile.write(chunk)
