"""Models made of bytes, refs and plans for them; no pytest, for processes that are to die."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from awscrt.checksums import crc64nvme

from cachd.model import (
    BLOCK_SIZE,
    Digest,
    ManifestFile,
    PartDone,
    Plan,
    PlannedFile,
    Ref,
    Validator,
    make_ref,
)
from cachd.store.store import Store
from tests.disk import tree_of

MIB = 1024 * 1024


class ManualClock:
    """Monotonic time moves when a test says so; wall time may jump."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.now = 1000.0

    def time_ns(self) -> int:
        return int(self.wall * 1e9)

    def monotonic(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.now += seconds


@dataclass
class Model:
    """A revision as its source would have it: content by path."""

    uri: str
    content: dict[str, bytes]
    revision: str
    etag: str | None = None
    claims_sha256: bool = False
    origin: str = "s3+https://s3.example"
    is_credentialed: bool = False
    unsized: tuple[str, ...] = field(default=())

    @property
    def ref(self) -> Ref:
        return make_ref(uri=self.uri, origin=self.origin, is_default_origin=True)

    @property
    def key(self) -> str:
        return self.ref.key

    def etag_of(self, path: str) -> str | None:
        return self.etag or f'"{hashlib.md5(self.content[path]).hexdigest()}"'

    @property
    def plan(self) -> Plan:
        return Plan(
            revision=self.revision,
            is_credentialed=self.is_credentialed,
            files=tuple(
                PlannedFile(
                    path=path,
                    url=f"https://s3.example/{path}?X-Amz-Signature=secret",
                    size=None if path in self.unsized else len(data),
                    validator=Validator(etag=self.etag_of(path)),
                    digest=Digest(algorithm="sha256", value=hashlib.sha256(data).hexdigest())
                    if self.claims_sha256
                    else None,
                )
                for path, data in self.content.items()
            ),
        )

    def blocks(self, path: str) -> tuple[str, ...]:
        data = self.content[path]
        return tuple(
            f"{crc64nvme(data[at : at + BLOCK_SIZE]):016x}"
            for at in range(0, len(data), BLOCK_SIZE)
        )

    def parts(self, path: str) -> list[PartDone]:
        """One part for each block."""
        size = len(self.content[path])
        return [
            PartDone(
                path=path,
                offset=number * BLOCK_SIZE,
                length=min(BLOCK_SIZE, size - number * BLOCK_SIZE),
                blocks=(block,),
            )
            for number, block in enumerate(self.blocks(path))
        ]

    @property
    def manifest_files(self) -> list[ManifestFile]:
        return [
            ManifestFile(
                path=path,
                size=len(data),
                blocks=self.blocks(path),
                etag=self.etag_of(path),
                digests=(Digest(algorithm="sha256", value=hashlib.sha256(data).hexdigest()),),
            )
            for path, data in self.content.items()
        ]


def write_part(tree: Path, model: Model, part: PartDone) -> None:
    path = tree / part.path
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(
            fd, model.content[part.path][part.offset : part.offset + part.length], part.offset
        )
    finally:
        os.close(fd)


def missing_parts(ingest: Any, model: Model) -> list[PartDone]:
    """What a mover would fetch."""
    left = []
    for path in model.content:
        had = {part.offset + at for part in ingest.done.get(path, ()) for at in _offsets(part)}
        left += [part for part in model.parts(path) if part.offset not in had]
    return left


def _offsets(part: PartDone) -> range:
    return range(0, part.length, BLOCK_SIZE)


async def fill(ingest: Any, model: Model) -> list[PartDone]:
    """Fetch what is missing; what that was."""
    left = missing_parts(ingest, model)
    for part in left:
        assert part.path not in ingest.linked
        write_part(ingest.tree, model, part)
        await ingest.record([part])
    return left


async def publish(store: Store, model: Model, *, is_held: bool = False) -> Any:
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    return await ingest.commit(model.manifest_files, metadata={}, is_held=lambda: is_held)


def read_back(snapshot: Any) -> dict[str, bytes]:
    return tree_of(snapshot.tree)


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def number(value: int) -> str:
    return f"{value:032x}"


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that don't repeat at block boundaries."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(min(size, MIB)) * (size // MIB + 1)


def sized(size: int, seed: int = 0) -> bytes:
    return noise(size, seed)[:size]


WEIGHTS = sized(2 * BLOCK_SIZE + 12345, 7)
"""More than two blocks."""


def named(name: str, revision: int = 1, size: int = 2 * MIB) -> Model:
    """A model of one file, its bytes told by its name and revision."""
    seed = int.from_bytes(name.encode(), "big") % 2**32 * 100 + revision
    return Model(f"s3://bucket/{name}", {"m": sized(size, seed)}, number(revision))


def names(store: Store) -> set[str]:
    """Of the ``named`` models that are there."""
    return {snapshot.ref.uri.rpartition("/")[2] for snapshot in store.snapshots()}
