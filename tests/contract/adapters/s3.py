"""``s3://``: SeaweedFS; what it doesn't list, an endpoint of ours does."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.contract.adapter import NOBODY, Adapter, Pass, Place
from tests.origins.bucket import Bucket
from tests.origins.exchange import Seen
from tests.origins.fault import s3_error
from tests.origins.gate import Gate, Refusal, address_of
from tests.servers.s3 import PUBLIC_BUCKET, S3Server

WRONG, DENIED = "wrong-key-of-s3-2236", "poor-key-of-s3-2449"
DENIED_ID = "DENIEDCALLER"


class S3(Adapter):
    name = "s3"

    def __init__(self, server: S3Server) -> None:
        super().__init__()
        self._server = server
        self.gate = Gate(address_of(server.endpoint), None, self._guard)
        self._fake = Bucket()
        self._fake.__enter__()
        self._client = server.client()
        self._closing += [self._fake.close, self.gate.close, self._client.close]
        self.options = {"endpoint": self.gate.url, "region": server.region}
        self._bucket = server.make_bucket({})
        server.make_bucket({}, PUBLIC_BUCKET)
        self.passes = {
            "good": _keys(server.access_key, server.secret_key),
            "wrong": _keys(server.access_key, WRONG, "credentials_invalid"),
            "denied": _keys(DENIED_ID, DENIED, "access_denied"),
            "none": NOBODY,
        }

    def _guard(self, seen: Seen) -> Refusal | None:
        """SeaweedFS knows its administrator only."""
        if DENIED_ID in seen.headers.get("authorization", ""):
            return 403, {"Content-Type": "application/xml"}, s3_error("AccessDenied")
        return None

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put(self._bucket, files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put(PUBLIC_BUCKET, files)

    def _put(self, bucket: str, files: Mapping[str, bytes]) -> Place:
        place = Place(self, f"{bucket}/{self.fresh_name()}", dict(files))
        _, _, below = place.name.partition("/")
        self._server.make_bucket({f"{below}/{key}": body for key, body in files.items()}, bucket)
        return place

    def uri(self, place: Place, path: str) -> str:
        return f"s3://{place.name}/{path}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        bucket, _, below = place.name.partition("/")
        if body is None:
            self._client.delete_object(Bucket=bucket, Key=f"{below}/{path}")
        else:
            self._client.put_object(Bucket=bucket, Key=f"{below}/{path}", Body=body)

    def is_data(self, seen: Seen) -> bool:
        return seen.method == "GET" and "list-type" not in seen.target

    def put_hostile(self, names: list[str]) -> Place:
        return self._put_fake(dict.fromkeys(names, b"x"))

    def put_shared(self, files: Mapping[str, bytes]) -> Place:
        """SeaweedFS tells an MD5; AWS a SHA-256, of objects that were put with one."""
        place = self._put_fake(files)
        for key, body in files.items():
            told = {
                "x-amz-checksum-type": "FULL_OBJECT",
                "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
            }
            self._fake.put(f"/{place.name}/{key}", body, **told)
        return place

    def put_huge(self, number: int) -> Place:
        return self._put_fake({f"d{n % 100}/f{n}.bin": b"x" for n in range(number)})

    def _put_fake(self, files: Mapping[str, bytes]) -> Place:
        name = self.fresh_name()
        for key, body in files.items():
            self._fake.put(f"/{name}/m/{key}", body)
        return Place(self, f"{name}/m", dict(files), {"endpoint": self._fake.base})

    def holds(self, path: str) -> bool:
        # XML has no NUL; SeaweedFS makes a slash of a backslash.
        return "\0" not in path and "\\" not in path

    def can_say(self, path: str) -> bool:
        return "?" not in path  # a query begins there


def _keys(key: str, secret: str, *codes: str) -> Pass:
    credentials = {"access_key_id": key, "secret_access_key": secret}
    return Pass(
        credentials=credentials, secrets=(secret,), codes=codes, says="the request's credentials"
    )


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return S3(request.getfixturevalue("seaweed"))
