"""One daemon in a process of its own for all faults; an origin of its own for each."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.disk import tree_of
from tests.harness import Daemon, Reply, call, running
from tests.origins.bucket import Bucket
from tests.origins.exchange import Body
from tests.origins.fault import pattern
from tests.servers.certificates import Certificates

MIB = 1024 * 1024
PART = 8 * MIB

QUICK = {
    "FETCH_PART_SIZE": "8MiB",
    "FETCH_ATTEMPTS": "3",
    "FETCH_BACKOFF_BASE": "0.02",
    "FETCH_BACKOFF_MAX": "0.1",
    "FETCH_STALL_WINDOW": "10",
    "FETCH_STALL_FLOOR": "200000",
    "FETCH_CONNECT_TIMEOUT": "5",
    "FRESHNESS_INTERVAL": "0",
    "FRESHNESS_SERVE_STALE": "false",
    "LOG_LEVEL": "info",
}


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("faults"), **QUICK, **trusting(certificates)) as one:
        yield one


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Daemon]:
    """For faults that last until they are taken for a stall: a busy machine's own pauses may be,
    too."""
    settings = {**QUICK, "FETCH_STALL_WINDOW": "1", **trusting(certificates)}
    with running(tmp_path_factory.mktemp("hasty"), **settings) as one:
        yield one


def trusting(certificates: Certificates) -> dict[str, str]:
    trust = str(certificates.ca)
    return {"SOURCES_S3_CA_BUNDLE": trust, "SOURCES_HTTP_CA_BUNDLE": trust}


@dataclass
class Model:
    """One model at one origin. ``main`` is the path, at the origin, of the file that suffers;
    ``files`` are the bytes that the published tree must have, by path."""

    kind: str
    origin: Bucket
    main: str
    uri: str
    options: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    body: Body = field(init=False)

    def publish(self, seed: int) -> None:
        """Put a state of the model at the origin; another ``seed`` is another state."""
        data = pattern(PART + 70_000, seed)
        headers = {"Content_Type": "application/octet-stream", "Accept_Ranges": "bytes"}
        if self.kind.startswith("archive"):
            self.files = {"a/weights.bin": data, "config.json": b"{}%d" % seed}
            packed = pack(self.files)
            headers["Content_Type"] = "application/gzip"
            self.body = self.origin.put(self.main, packed, **headers)
            return
        name = self.main.rpartition("/")[2]
        self.files = {name: data}
        self.body = self.origin.put(self.main, data, **headers)
        if self.kind.startswith("s3"):
            small = pattern(3000, seed + 1)
            self.files["small.json"] = small
            self.origin.put(self.main.rpartition("/")[0] + "/small.json", small)

    @property
    def size(self) -> int:
        return len(self.body.data)

    def ask(self, daemon: Daemon, **more: Any) -> Reply:
        body = {"uri": self.uri, "options": self.options, **more}
        return call(daemon.socket, "POST", "/v1/models", body)

    def read(self, root: Path) -> dict[str, bytes]:
        return tree_of(root)


def pack(files: dict[str, bytes]) -> bytes:
    """A .tar.gz with checksums, the same for the same files."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)


def make_model(kind: str, origin: Bucket, name: str) -> Model:
    """``kind``: source and transport, such as ``s3-https``."""
    if kind.startswith("s3"):
        main, uri = f"/models/{name}/weights.bin", f"s3://models/{name}"
        options = {"endpoint": origin.base, "region": "us-east-1"}
    else:
        suffix = ".tar.gz" if kind.startswith("archive") else ".bin"
        main, options = f"/{name}{suffix}", {}
        uri = origin.url(main)
    model = Model(kind, origin, main, uri, options)
    model.publish(int(hashlib.sha256(name.encode()).hexdigest()[:6], 16))
    return model
