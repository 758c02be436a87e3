"""``oci://``: artifacts at docker-registry, behind a gate that wants a name and a password."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal
from tests.servers.certificates import Certificates
from tests.servers.registry import MANIFEST, Registry

ONE_ARTIFACT = "a URI names one artifact"
GOOD, WRONG, DENIED = "good-login-3381", "wrong-login-9120", "poor-login-4457"


class Oci(Adapter):
    name = "oci"
    lacks: ClassVar[Mapping[str, str]] = {
        "exact": ONE_ARTIFACT,
        "subpaths": ONE_ARTIFACT,
        "whole": ONE_ARTIFACT,
        "markers": "layers are files",
        "huge": "a manifest has at most 4 MiB",
        "keeps": "two layers in each other's way are no tree, and none is left out",
    }
    passes: ClassVar[Mapping[str, Pass]] = passes_of(
        lambda password: {"username": "somebody", "password": password}, GOOD, WRONG, DENIED,
        says="a name and a password",
    )  # fmt: skip

    def __init__(self, registry: Registry, certificates: Certificates) -> None:
        super().__init__()
        self._registry = registry
        tls = certificates.server_context()
        host, _, port = registry.host.rpartition(":")
        self.gate = Gate((host, int(port)), tls, self._guard)
        self._closing.append(self.gate.close)
        self.settings = {"SOURCES_OCI_CA_BUNDLE": str(certificates.ca)}

    def _guard(self, seen: Seen) -> Refusal | None:
        if "/public/" in seen.path:
            return None
        shown = seen.headers.get("authorization", "").removeprefix("Basic ")
        password = base64.b64decode(shown).decode().partition(":")[2]
        if password == GOOD:
            return None
        challenge = {"WWW-Authenticate": 'Basic realm="of the tests"'}
        return (403, {}, b"") if password == DENIED else (401, challenge, b"")

    def put(self, files: Mapping[str, bytes]) -> Place:
        return self._put("team", files)

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        return self._put("public", files)

    def _put(self, team: str, files: Mapping[str, bytes]) -> Place:
        """An artifact of all files, and one of each alone, for the rows that ask for one file."""
        place = Place(self, f"contract/{team}/{self.fresh_name()}", dict(files))
        self._registry.push_files(place.name, "all", files)
        for path, body in files.items():
            self._push_one(place, path, body)
        return place

    def _push_one(self, place: Place, path: str, body: bytes) -> None:
        self._registry.push_files(place.name, _tag(path), {path.rpartition("/")[2]: body})

    def uri(self, place: Place, path: str) -> str:
        assert self.gate is not None
        tag = _tag(path) if path else "all"
        return f"oci://{self.gate.url.partition('://')[2]}/{place.name}:{tag}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        files = {**place.files, path: body}
        left = {name: body for name, body in files.items() if body is not None}
        self._registry.push_files(place.name, "all", left)
        if body is not None:
            self._push_one(place, path, body)
            return
        target = f"/v2/{place.name}/manifests/"
        _, headers, _ = self._registry.call("HEAD", target + _tag(path), Accept=MANIFEST)
        status, _, _ = self._registry.call("DELETE", target + headers["Docker-Content-Digest"])
        assert status == 202

    def is_data(self, seen: Seen) -> bool:
        return "/blobs/" in seen.path


def _tag(path: str) -> str:
    return "of-" + hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return Oci(request.getfixturevalue("registry"), request.getfixturevalue("certificates"))
