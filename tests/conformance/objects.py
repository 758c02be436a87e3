"""An S3 endpoint that notes how it is addressed and who signs, and an HTTP proxy in front of every
name that doesn't exist: a CONNECT for ``bucket.s3.amazonaws.com`` ends here too.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.loopback import OCTETS, Handler, Server, etag_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping


@dataclass(frozen=True)
class Asked:
    """One request: where the bucket was named, and the Authorization that came along."""

    method: str
    host: str
    bucket: str
    is_virtual: bool
    authorization: str
    query: str


class Objects(Server):
    """``buckets``: key → body, None for a bucket that is refused to everybody. Buckets whose name
    begins with ``silent`` never get an answer. ``tunnels`` are the targets of CONNECT."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.buckets: dict[str, Mapping[str, bytes] | None] = {}
        self.asked: list[Asked] = []
        self.tunnels: list[str] = []
        self.closing = threading.Event()
        server = self

        class ObjectsHandler(Handler):
            def do_GET(self) -> None:
                server._answer(self)

            do_HEAD = do_GET

            def do_CONNECT(self) -> None:
                server.tunnels.append(self.path)
                self.send_response(200, "Connection established")
                self.end_headers()
                self.connection = tls.wrap_socket(self.connection, server_side=True)
                self.rfile = self.connection.makefile("rb")
                self.wfile = self.connection.makefile("wb", buffering=0)
                self.close_connection = False

            def finish(self) -> None:
                super().finish()
                self.connection.close()

        super().__init__(ObjectsHandler)

    def asked_of(self, bucket: str) -> list[Asked]:
        return [each for each in self.asked if each.bucket == bucket]

    def stop(self) -> None:
        self.closing.set()
        super().stop()

    def _answer(self, handler: Handler) -> None:
        parts = urlsplit(handler.path)
        host = parts.netloc or handler.headers.get("Host", "")
        first = host.partition(".")[0]
        path = unquote(parts.path).lstrip("/")
        is_virtual = first in self.buckets
        bucket, key = (first, path) if is_virtual else path.partition("/")[::2]
        self.asked.append(
            Asked(
                handler.command,
                host,
                bucket,
                is_virtual,
                handler.headers.get("Authorization", ""),
                parts.query,
            )
        )
        if bucket.startswith("silent"):
            self.closing.wait(30)
            handler.close_connection = True
            return
        if bucket not in self.buckets:
            _refuse(handler, 404, "NoSuchBucket")
            return
        objects = self.buckets[bucket]
        if objects is None:
            _refuse(handler, 403, "AccessDenied")
        elif not key:
            handler.send(200, listing(objects, parts.query), Content_Type="application/xml")
        elif key in objects:
            handler.send_file(objects[key], OCTETS)
        else:
            _refuse(handler, 404, "NoSuchKey")


def _refuse(handler: Handler, status: int, code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>told</Message></Error>".encode()
    handler.send(status, body, Content_Type="application/xml")


def listing(objects: Mapping[str, bytes], query: str) -> bytes:
    prefix = parse_qs(query).get("prefix", [""])[0]
    items = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size>"
        f"<ETag>{escape(etag_of(body))}</ETag></Contents>"
        for key, body in sorted(objects.items())
        if key.startswith(prefix)
    )
    return f'<?xml version="1.0"?><ListBucketResult>{items}</ListBucketResult>'.encode()
