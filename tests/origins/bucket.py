"""A FaultOrigin that is an S3 endpoint as well: it lists what lies below a prefix."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.origins.exchange import Seen
from tests.origins.fault import Fault, FaultOrigin


class Bucket(FaultOrigin):
    """``/bucket/key`` paths. ``list_fault`` is what listings suffer; ``upon`` acts once before the
    ``count``-th GET of a path is answered."""

    list_fault: Fault | None = None
    lists = 0

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._upon: dict[str, tuple[int, Callable[[], None]]] = {}

    def upon(self, path: str, count: int, act: Callable[[], None]) -> None:
        self._upon[path] = (count, act)

    def _next_fault(self, path: str) -> Fault | None:
        count, act = self._upon.get(path, (0, lambda: None))
        if count == 1:
            del self._upon[path]
            act()
        elif count:
            self._upon[path] = (count - 1, act)
        return super()._next_fault(path)

    def _answer(self, connection: socket.socket, head: str, peer: int) -> bool:
        method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
        path, _, query = target.partition("?")
        if method != "GET" or "list-type=2" not in query:
            return super()._answer(connection, head, peer)
        with self._lock:
            self.seen.append(Seen("LIST", target, path, {}, peer))
            self.lists += 1
        fault = self.list_fault
        if fault is not None:
            self._send_head(connection, fault.status, fault.headers, len(fault.body))
            connection.sendall(fault.body)
            return True
        prefix = parse_qs(query, keep_blank_values=True).get("prefix", [""])[0]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(body.data)}</Size>"
            f"<ETag>{escape(body.etag or '')}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name, body in sorted(self._bodies.items())
            if name.startswith(f"{path}/{prefix}") and (key := name[len(path) + 1 :])
        )
        data = (
            '<?xml version="1.0"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
            f"{rows}</ListBucketResult>"
        ).encode()
        self._send_head(connection, 200, {"Content-Type": "application/xml"}, len(data))
        connection.sendall(data)
        return True
