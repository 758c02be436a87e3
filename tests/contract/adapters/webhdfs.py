"""``webhdfs://``: a namenode that wants a delegation token, and a datanode behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tests.contract.adapter import Adapter, Pass, Place, passes_of
from tests.origins.exchange import Seen
from tests.origins.gate import Gate, address_of
from tests.servers.webhdfs import Hdfs, HdfsServer

GOOD, WRONG, DENIED = "hdfs-good-5772", "hdfs-wrong-6931", "hdfs-poor-1644"
ROOT = "/private"


class WebHdfs(Adapter):
    name = "webhdfs"
    lacks: ClassVar[Mapping[str, str]] = {
        "keeps": "a file system has no file that is a directory",
        "markers": "a directory is one",
        "public": "a cluster with tokens lets nobody in without",
        "sha256": "HDFS tells a CRC",
        "whole": "a path is asked for; the root of a cluster is no model",
    }
    passes: ClassVar[Mapping[str, Pass]] = passes_of(
        lambda token: {"token": token}, GOOD, WRONG, DENIED,
        says="the caller's delegation token",
        none=Pass(codes=("credentials_missing",), says="nobody"),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        tokens = {GOOD: "alice", DENIED: "mallory"}
        self._hdfs = Hdfs(tokens=tokens, readers={ROOT: "alice"}, combine="COMPOSITE_CRC")
        self._server = HdfsServer(self._hdfs)
        datanode = address_of(self._server.datanode)
        self.gate = Gate(address_of(self._server.url))
        # Redirects lead to the datanode, through the same gate.
        self._server.datanode = self.gate.url
        self.gate.route = lambda seen: datanode if "namenoderpcaddress=" in seen.target else None
        self._closing += [lambda: self._server.__exit__(), self.gate.close]
        self.options = {"endpoint": self.gate.url}

    def put(self, files: Mapping[str, bytes]) -> Place:
        place = Place(self, f"{ROOT}/{self.fresh_name()}", dict(files))
        for path, body in files.items():
            self.change(place, path, body)
        return place

    def put_hostile(self, names: list[str]) -> Place:
        place = Place(self, f"{ROOT}/{self.fresh_name()}", dict.fromkeys(names, b"x"))
        self._hdfs.mkdir(place.name)
        self._hdfs.hostile[place.name] = names
        return place

    def uri(self, place: Place, path: str) -> str:
        return f"webhdfs://{place.name.lstrip('/')}" + (f"/{path}" if path else "")

    def change(self, place: Place, path: str, body: bytes | None) -> None:
        if body is None:
            del self._hdfs.files[f"{place.name}/{path}"]
        else:
            self._hdfs.put(f"{place.name}/{path}", body)

    def is_data(self, seen: Seen) -> bool:
        is_datanode = "namenoderpcaddress=" in seen.target
        return is_datanode and "op=OPEN" in seen.target and "length=1&" not in seen.target

    def can_say(self, path: str) -> bool:
        return not {"?", "#"} & set(path)

    def put_huge(self, number: int) -> Place:
        return self.put({f"f{n}.bin": b"x" for n in range(number)})


def make(request: pytest.FixtureRequest, folder: Path) -> Adapter:
    return WebHdfs()
