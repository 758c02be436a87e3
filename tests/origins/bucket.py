"""A FaultOrigin that is an S3 endpoint as well: it lists what lies below a prefix, page by page."""

from __future__ import annotations

import socket
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.origins.exchange import Body, Seen
from tests.origins.fault import Fault, FaultOrigin

PAGE = 1000
"""Most keys of one answer, as at AWS."""


class Bucket(FaultOrigin):
    """``/bucket/key`` paths. ``list_fault`` is what listings suffer; ``upon`` acts once before the
    ``count``-th GET of a path is answered."""

    list_fault: Fault | None = None
    lists = 0

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._upon: dict[str, tuple[int, Callable[[], None]]] = {}

        self._sorted: list[str] = []

    def put(self, path: str, data: bytes, **more: Any) -> Body:
        self._sorted = []
        return super().put(path, data, **more)

    def upon(self, path: str, count: int, act: Callable[[], None]) -> None:
        self._upon[path] = (count, act)

    def _count_down(self, path: str) -> None:
        count, act = self._upon.get(path, (0, lambda: None))
        if count == 1:
            del self._upon[path]
            act()
        elif count:
            self._upon[path] = (count - 1, act)

    def _answer(self, connection: socket.socket, head: str, peer: int) -> bool:
        method, target, _ = head.split("\r\n", 1)[0].split(" ", 2)
        path, _, query = target.partition("?")
        if method == "GET":
            self._count_down(path)
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
        asked = parse_qs(query, keep_blank_values=True)
        start = f"{path}/{asked.get('prefix', [''])[0]}"
        after = asked.get("continuation-token", [start])[0]
        names = self._names_from(start, after)
        rows = "".join(
            f"<Contents><Key>{escape(name[len(path) + 1 :])}</Key><Size>{len(body.data)}</Size>"
            f"<ETag>{escape(body.etag or '')}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names[:PAGE]
            if (body := self._bodies.get(name)) and len(name) > len(path) + 1
        )
        more = names[PAGE:]
        rows += "".join(
            f"<NextContinuationToken>{escape(name)}</NextContinuationToken>" for name in more
        )
        data = (
            '<?xml version="1.0"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
            f"{rows}</ListBucketResult>"
        ).encode()
        self._send_head(connection, 200, {"Content-Type": "application/xml"}, len(data))
        connection.sendall(data)
        return True

    def _names_from(self, start: str, after: str) -> list[str]:
        """A page of names, from ``after`` on, and the one that begins the next page."""
        with self._lock:
            if len(self._sorted) != len(self._bodies):
                self._sorted = sorted(self._bodies)
            rest = islice(self._sorted, bisect_left(self._sorted, after), None)
            return list(islice(takewhile(lambda name: name.startswith(start), rest), PAGE + 1))
