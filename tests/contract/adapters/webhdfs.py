"""``hdfs://``: a gateway (HttpFS) that wants delegation tokens and tells crc32c. A namenode that
redirects to datanodes, which no gate is before, is in tests/process/test_webhdfs.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.contract.adapter import NOBODY, Adapter, Pass, Place
from tests.origins.exchange import Seen
from tests.origins.gate import Gate
from tests.servers.webhdfs import Hdfs, HdfsServer

GOOD, WRONG, DENIED = "good-token-5772", "wrong-token-6931", "poor-token-1644"


def token(text: str, **fields: object) -> Pass:
    shown = {"says": "the caller's delegation token", **fields}
    return Pass(credentials={"token": text}, secrets=(text,), **shown)  # type: ignore[arg-type]


class WebHdfs(Adapter):
    name = "webhdfs"
    lacks: ClassVar[Mapping[str, str]] = {
        "keeps": "a file of HDFS is no directory",
        "markers": "directories of HDFS are no files",
        "sha256": "HDFS has no such digests",
    }
    passes: ClassVar[Mapping[str, Pass]] = {
        "good": token(GOOD),
        "wrong": token(WRONG, codes=("credentials_invalid",)),
        "denied": token(DENIED, codes=("access_denied",)),
        "none": NOBODY,
    }

    def __init__(self) -> None:
        super().__init__()
        self._hdfs = Hdfs(is_gateway=True, combine="COMPOSITE_CRC")
        self._hdfs.tokens = {GOOD: "alice", DENIED: "bob"}
        self._hdfs.put("/some", b"x")
        server = HdfsServer(self._hdfs)
        where = urlsplit(server.url)
        assert where.hostname
        assert where.port
        self.gate = Gate((where.hostname, where.port))
        self._closing += [lambda: server.__exit__(), self.gate.close]
        self.options = {"endpoint": self.gate.url}

    def put(self, files: Mapping[str, bytes]) -> Place:
        place = self._put(files)
        self._hdfs.readers[f"/{place.name}"] = "alice"
        return place

    def put_public(self, files: Mapping[str, bytes]) -> Place:
        place = self._put(files)
        self._hdfs.public.add(f"/{place.name}/")
        return place

    def put_hostile(self, names: list[str]) -> Place:
        place = self._put({})
        self._hdfs.mkdir(f"/{place.name}")
        self._hdfs.hostile[f"/{place.name}"] = names
        return place

    def _put(self, files: Mapping[str, bytes]) -> Place:
        place = Place(self, self.fresh_name(), dict(files))
        for path, body in files.items():
            self._hdfs.put(f"/{place.name}/{path}", body)
        return place

    def uri(self, place: Place, path: str) -> str:
        return f"hdfs://{place.name}/{path}"

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        if body is None:
            del self._hdfs.files[f"/{place.name}/{path}"]
        else:
            self._hdfs.put(f"/{place.name}/{path}", body)

    def is_data(self, seen: Seen) -> bool:
        # A look at the first byte is none.
        query = parse_qs(urlsplit(seen.target).query)
        return query["op"] == ["OPEN"] and query.get("length") != ["1"]

    def holds(self, path: str) -> bool:
        return ":" not in path

    def can_say(self, path: str) -> bool:
        return not set(path) & set("?#:")


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return WebHdfs()
