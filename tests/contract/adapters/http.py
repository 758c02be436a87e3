"""``https://``: a web server that wants a bearer token and tells digests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

import pytest

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.fault import FaultOrigin
from tests.origins.gate import Gate, Refusal
from tests.servers.certificates import Certificates

ONE_FILE = "the URI names one file"
GOOD, WRONG, DENIED = "good-bearer-5772", "wrong-bearer-6931", "poor-bearer-1644"


class Http(Adapter):
    name = "http"
    lacks: ClassVar[Mapping[str, str]] = {
        "several": ONE_FILE,
        "subpaths": ONE_FILE,
        "whole": ONE_FILE,
        "patterns": ONE_FILE,
        "keeps": ONE_FILE,
        "markers": ONE_FILE,
        "huge": ONE_FILE,
        "hostile": "the name is the last part of a URL, percent-encoded",
    }
    passes: ClassVar[Mapping[str, Pass]] = passes_of(
        lambda token: {"headers": {"127.0.0.1": {"Authorization": f"Bearer {token}"}}},
        GOOD, WRONG, DENIED, says="the request's headers",
    )  # fmt: skip

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        self._origin = FaultOrigin()
        self._origin.__enter__()
        tls = certificates.server_context()
        self.gate = Gate((self._origin.host, self._origin.port), tls, self._guard)
        self._closing += [self._origin.close, self.gate.close]
        self.settings = {"SOURCES_HTTP_CA_BUNDLE": str(certificates.ca)}

    def _guard(self, seen: Seen) -> Refusal | None:
        if seen.path.startswith("/public"):
            return None
        shown = seen.headers.get("authorization", "")
        if shown == f"Bearer {GOOD}":
            return None
        return (403 if shown == f"Bearer {DENIED}" else 401), {}, b""

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(self.fresh_name(), files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(f"public-{self.fresh_name()}", files)

    def _put(self, name: str, files: Mapping[str, bytes]) -> Place:
        place = Place(self, name, dict(files))
        for path, body in files.items():
            self.change(place, path, body)
        return place

    def uri(self, place: Place, path: str) -> str:
        assert self.gate is not None
        return f"{self.gate.url}/{place.name}/{quote(path)}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        at = urlsplit(self.uri(place, path)).path
        if body is None:
            self._origin._bodies.pop(at)
            return
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        self._origin.put(
            at,
            body,
            Content_Type="application/zip" if path.endswith(".zip") else "application/octet-stream",
            Accept_Ranges="bytes",
            Repr_Digest=f"sha-256=:{digest}:",
        )

    def is_data(self, seen: Seen) -> bool:
        return seen.method == "GET"

    def tree(self, place: Place, path: str = "") -> dict[str, bytes]:
        # The name stays percent-encoded, as in KServe.
        return {quote(name): body for name, body in super().tree(place, path).items()}


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Http(request.getfixturevalue("certificates"))
