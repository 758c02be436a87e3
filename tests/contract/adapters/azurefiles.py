"""Files at Azure: a server of ours that Microsoft's own client vouches for. Who uploaded them gave
their MD5."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

from tests.contract.adapter import NOBODY, Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, Refusal, address_of
from tests.servers.azurefiles import ACCOUNT, KEY, FakeFiles

OTHER_KEY = base64.b64encode(b"a key of somebody else's files, 64 bytes".ljust(64, b".")).decode()
POOR = "poor-signature-1644"
"""Of a signature that may list alone; the server knows none but its key's own."""
DIRECTORIES = "a share has directories: no file can be one, too"


class AzureFiles(Adapter):
    name = "azurefiles"
    lacks: ClassVar[Mapping[str, str]] = {
        "sha256": "Azure Files tells an MD5 at most",
        "public": "there are no public shares",
        "keeps": DIRECTORIES,
        "markers": DIRECTORIES,
    }
    passes: ClassVar[Mapping[str, Pass]] = {
        "good": Pass(credentials={"azure_account_key": KEY}, secrets=(KEY,)),
        "wrong": Pass(
            credentials={"azure_account_key": OTHER_KEY},
            secrets=(OTHER_KEY,),
            codes=("credentials_invalid",),
            says="credentials.azure_account_key",
        ),
        "denied": Pass(
            credentials={
                "azure_sas": f"sv=2021-08-06&sr=s&sp=l&se=2099-01-01T00%3A00%3A00Z&sig={POOR}"
            },
            secrets=(POOR,),
            codes=("access_denied",),
            says="credentials.azure_sas",
        ),
        "none": NOBODY,
    }

    def __init__(self) -> None:
        super().__init__()
        self._server = FakeFiles()
        self._server.has_md5 = True
        self.gate = Gate(address_of(self._server.endpoint), None, self._guard)
        self._closing += [self._server.stop, self.gate.close]
        self.options = {"endpoint": self.gate.url}

    def _guard(self, seen: Seen) -> Refusal | None:
        if POOR not in seen.target:
            return None
        return 403, {"x-ms-error-code": "AuthorizationPermissionMismatch"}, b""

    def put(self, files: Mapping[str, bytes]) -> Place:
        return Place(self, self._server.make_bucket(files), dict(files))

    def put_hostile(self, names: list[str]) -> Place:
        """Names that would be other directories' are listed as they are."""
        raw = [name for name in names if set(name.split("/")) & {"", ".", ".."}]
        place = self.put({name: b"x" for name in names if name not in raw})
        self._server.listed[place.name] = raw
        return place

    def uri(self, place: Place, path: str) -> str:
        base = f"https://{ACCOUNT}.file.core.windows.net/{place.name}"
        return f"{base}/{quote(path)}" if path else base

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        share = self._server.shares[place.name]
        if body is None:
            del share[path]
        else:
            share[path] = body

    def is_data(self, seen: Seen) -> bool:
        return seen.method == "GET" and "comp=list" not in seen.target


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return AzureFiles()
