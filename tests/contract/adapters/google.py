"""``gs://``: a server of ours that speaks Cloud Storage's JSON API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import NOBODY, Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, address_of
from tests.servers.gcs import PUBLIC_BUCKET, FakeGcs, Stored

PRIVATE = "private-models"


class Google(Adapter):
    name = "google"
    lacks: ClassVar[Mapping[str, str]] = {
        "sha256": "Cloud Storage tells crc32c and MD5",
    }

    def __init__(self) -> None:
        super().__init__()
        self.server, stranger = FakeGcs(), FakeGcs()
        stranger.stop()
        self.gate = Gate(address_of(self.server.endpoint))
        self._closing += [self.server.stop, self.gate.close]
        self.server.make_bucket({}, PRIVATE)
        self.server.make_bucket({}, PUBLIC_BUCKET)
        self.server.private.add(PRIVATE)
        denied = self.server.issue()
        self.server.strangers.add(denied)
        self.options = {"endpoint": self.gate.url}
        other = json.loads(stranger.service_account())["private_key"]
        self.passes = {
            "good": _key(self.server.service_account()),
            "wrong": _key(
                self.server.service_account(private_key=other),
                codes=("credentials_invalid",),
                says="credentials.google_key",
            ),
            "denied": Pass(
                credentials={"token": denied},
                secrets=(denied,),
                codes=("access_denied",),
                says="the token that was sent",
            ),
            "none": NOBODY,
        }

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(PRIVATE, files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(PUBLIC_BUCKET, files)

    def _put(self, bucket: str, files: Mapping[str, bytes]) -> Place:
        place = Place(self, f"{bucket}/{self.fresh_name()}", dict(files))
        for path, body in files.items():
            self.change(place, path, body)
        return place

    def uri(self, place: Place, path: str) -> str:
        return f"gs://{place.name}/{path}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        bucket, _, below = place.name.partition("/")
        if body is None:
            self.server.delete(bucket, f"{below}/{path}")
        else:
            self.server.put(bucket, f"{below}/{path}", Stored(body))

    def is_data(self, seen: Seen) -> bool:
        return seen.path.startswith("/download/")

    def can_say(self, path: str) -> bool:
        return "?" not in path  # a query begins there


def _key(text: str, codes: tuple[str, ...] = (), says: str = "") -> Pass:
    secret = json.loads(text)["private_key"].splitlines()[3]
    return Pass(credentials={"google_key": text}, secrets=(secret,), codes=codes, says=says)


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Google()
