"""What a snapshot holds, as the client needs it."""

from __future__ import annotations

import json
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cachd.cli.client import path_of
from cachd.cli.staging import check_relative
from cachd.errors import AccessError, ContentError, ModelUnknown
from cachd.model import Manifest

if TYPE_CHECKING:
    from cachd.cli.client import Client

MANIFEST_NAME = ".cachd-manifest.json"
MAX_MANIFEST = 256 * 1024 * 1024
_TAR_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """One file to bring. ``size`` in bytes; ``blocks`` are checksums, None where not asked for."""

    path: str
    size: int
    blocks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All files of one revision."""

    files: tuple[WantedFile, ...]
    block_size: int

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def fetch_wanted(client: Client, answer: dict[str, Any], *, blocks: bool) -> Wanted:
    """The files of the very revision that ``answer`` names.

    The model's page tells of the current revision, which may be a newer one by now, and has no
    checksums: then the manifest at the head of the archive is read.
    """
    if not blocks:
        # A caller whose pass is the lease alone doesn't see the page: to it there is no such model.
        with suppress(AccessError, ModelUnknown):
            page = client.call("GET", path_of("models", answer["key"]))
            if page.get("revision") == answer["revision"]:
                files = tuple(
                    WantedFile(path=check_relative(str(f["path"])), size=int(f["size"]))
                    for f in page["manifest_files"]
                )
                return Wanted(files=files, block_size=0)
    with client.open(
        "GET",
        path_of("models", answer["key"], "archive.tar"),
        query={"revision": answer["revision"]},
        headers=lease_header(answer),
    ) as body:
        stream = cast("BinaryIO", body)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_TAR_BUFFER) as archive:
                manifest = parse_manifest(manifest_bytes(archive))
        except tarfile.TarError as error:
            raise ContentError(f"the daemon's archive can't be read: {error}") from error
    return wanted_of(manifest)


def wanted_of(manifest: Manifest) -> Wanted:
    return Wanted(
        files=tuple(
            WantedFile(path=check_relative(f.path), size=f.size, blocks=f.blocks)
            for f in manifest.files
        ),
        block_size=manifest.block_size,
    )


def manifest_bytes(archive: tarfile.TarFile) -> bytes:
    """The manifest, which is the first member of an archive of cachd's. Raises ContentError."""
    member = archive.next()
    if member is None or member.name != MANIFEST_NAME or member.size > MAX_MANIFEST:
        raise ContentError(f"the archive doesn't begin with {MANIFEST_NAME}")
    reader = archive.extractfile(member)
    assert reader is not None
    return reader.read()


def parse_manifest(data: bytes) -> Manifest:
    """Raises ContentError."""
    try:
        return Manifest.from_json(json.loads(data))
    except (KeyError, TypeError, ValueError) as error:
        raise ContentError(f"{MANIFEST_NAME} can't be read: {error}") from error


def lease_header(answer: dict[str, Any]) -> dict[str, str]:
    """The header that makes a lease a pass to read."""
    lease = answer.get("lease")
    return {"Cachd-Lease": str(lease["id"])} if lease else {}
