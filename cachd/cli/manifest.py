"""What a snapshot holds, as the client needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd.cli.client import path_of
from cachd.cli.staging import check_relative
from cachd.errors import ContentError
from cachd.model import Manifest

if TYPE_CHECKING:
    import tarfile

    from cachd.cli.client import Client

MANIFEST_NAME = ".cachd-manifest.json"
MAX_MANIFEST = 256 * 1024 * 1024


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
    """The files of the very revision that ``answer`` names; ``blocks``: with their checksums.
    Raises what the daemon says, ContentError."""
    page = client.call(
        "GET",
        path_of("models", answer["key"]),
        query={"revision": answer["revision"], "blocks": "true" if blocks else None},
        headers=lease_header(answer),
    )
    if page.get("revision") != answer["revision"]:
        raise ContentError(
            f"the daemon shows another revision of {answer['key']} than was asked for",
            hint="client and daemon must agree (cachd version)",
        )
    files = tuple(
        WantedFile(
            path=check_relative(str(file["path"])),
            size=int(file["size"]),
            blocks=tuple(map(str, file["checksums"])) if blocks else None,
        )
        for file in page["manifest_files"]
    )
    return Wanted(files=files, block_size=int(page["block_size"]) if blocks else 0)


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
