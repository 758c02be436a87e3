"""An S3 origin for models of several files, which counts the bytes of the objects that it sends."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from tests.process.origin import CountingOrigin

BUCKET = "bucket"


class BucketOrigin(CountingOrigin):
    """One bucket, read without credentials."""

    def put(self, name: str, files: dict[str, bytes]) -> None:
        """Make ``files`` what lies below ``name``, and nothing else."""
        kept = {k: v for k, v in self.bodies.items() if not k.startswith(f"/{BUCKET}/{name}/")}
        kept.update({f"/{BUCKET}/{name}/{path}": data for path, data in files.items()})
        self.bodies = kept

    def uri(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"

    @property
    def ask(self) -> dict[str, Any]:
        """What an ask says besides the URI."""
        return {"options": {"endpoint": self.url}, "credentials": {"anonymous": True}}

    def _answer(self, handler: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        place = urlsplit(handler.path)
        if place.path.strip("/") == BUCKET and with_body:
            self._list(handler, parse_qs(place.query, keep_blank_values=True))
        else:
            handler.path = place.path
            super()._answer(handler, with_body=with_body)

    def _list(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            f"<ETag>&quot;{hashlib.sha256(data).hexdigest()[:20]}&quot;</ETag></Contents>"
            for path, data in sorted(self.bodies.items())
            if (key := path.removeprefix(f"/{BUCKET}/")).startswith(prefix)
        )
        text = f'<?xml version="1.0"?><ListBucketResult>{items}</ListBucketResult>'.encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)
