"""Blobs at Azure: Azurite; what it doesn't list, the gate before it does."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.contract.adapter import NOBODY, Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal
from tests.servers.azurite import ACCOUNT, KEY, PUBLIC_CONTAINER, Azurite, account_sas

OTHER_KEY = base64.b64encode(b"a key of somebody else's account, 64 bytes".ljust(64, b".")).decode()
PAGE = 5000


class Azure(Adapter):
    name = "azure"
    lacks: ClassVar[Mapping[str, str]] = {
        "sha256": "Azure tells an MD5",
    }

    def __init__(self, server: Azurite) -> None:
        super().__init__()
        self.server = server
        self.gate = Gate(("127.0.0.1", server.port), None, self._guard)
        self._closing += [self.gate.close]
        self._listed: dict[str, list[str]] = {}
        self._container = server.make_bucket({})
        server.make_bucket({}, PUBLIC_CONTAINER)
        self.options = {"endpoint": self.gate.url}
        poor = account_sas("l")
        self.passes = {
            "good": Pass(credentials={"azure_account_key": KEY}, secrets=(KEY, quote(KEY))),
            "wrong": Pass(
                credentials={"azure_account_key": OTHER_KEY},
                secrets=(OTHER_KEY,),
                # Azurite's AuthorizationFailure; Azure itself says AuthenticationFailed.
                codes=("access_denied",),
                says="credentials.azure_account_key",
            ),
            "denied": Pass(
                credentials={"azure_sas": poor},
                secrets=(parse_qs(poor)["sig"][0], poor.rpartition("sig=")[2]),
                codes=("access_denied",),
                says="credentials.azure_sas",
            ),
            "none": NOBODY,
        }

    def _guard(self, seen: Seen) -> Refusal | None:
        """Lists what no emulator would take."""
        container = seen.path.removeprefix(f"/{ACCOUNT}/").partition("/")[0]
        names = self._listed.get(container)
        if names is None:
            return None
        if seen.method == "HEAD":
            is_there = unquote(seen.path).partition(f"{container}/")[2] in names
            return (200 if is_there else 404), {"x-ms-error-code": "BlobNotFound"}, b""
        query = parse_qs(urlsplit(seen.target).query)
        begin = int(query.get("marker", ["0"])[0])
        items = "".join(
            f'<Blob><Name Encoded="true">{quote(name)}</Name><Properties>'
            "<Content-Length>1</Content-Length><Etag>0x1</Etag></Properties></Blob>"
            for name in names[begin : begin + PAGE]
        )
        after = str(begin + PAGE) if begin + PAGE < len(names) else ""
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{items}</Blobs>'
            f"<NextMarker>{after}</NextMarker></EnumerationResults>"
        )
        return 200, {"Content-Type": "application/xml"}, text.encode()

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(self._container, files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(PUBLIC_CONTAINER, files)

    def _put(self, container: str, files: Mapping[str, bytes]) -> Place:
        place = Place(self, f"{container}/{self.fresh_name()}", dict(files))
        for path, body in files.items():
            self.change(place, path, body)
        return place

    def put_hostile(self, names: list[str]) -> Place:
        container = f"listed-{self.fresh_name()}"
        self._listed[container] = sorted(names)
        return Place(self, container, dict.fromkeys(names, b"x"))

    def put_huge(self, number: int) -> Place:
        return self.put_hostile([f"d{n % 100}/f{n}.bin" for n in range(number)])

    def uri(self, place: Place, path: str) -> str:
        base = f"https://{ACCOUNT}.blob.core.windows.net/{place.name}"
        return f"{base}/{quote(path)}" if path else base

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        container, _, below = place.name.partition("/")
        if body is None:
            self.server.delete(container, f"{below}/{path}")
        else:
            self.server.put(container, f"{below}/{path}", body)

    def holds(self, path: str) -> bool:
        return "\\" not in path  # Azurite makes a slash of it

    def is_data(self, seen: Seen) -> bool:
        return seen.method == "GET" and "comp=list" not in seen.target


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Azure(request.getfixturevalue("azurite"))
