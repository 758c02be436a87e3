"""What a snapshot holds, as the client needs it."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachd.cli.client import path_of
from cachd.cli.staging import check_relative
from cachd.errors import ContentError
from cachd.model import Manifest

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable

    from cachd.cli.client import Client

MANIFEST_NAME = ".cachd-manifest.json"
_FILES = re.compile(r'"manifest_files"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")
_CHUNK = 128 * 1024

MAX_MANIFEST = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """One file to bring. ``size`` in bytes; ``blocks`` are checksums, None where not asked for.
    ``entry``: what a metadata file says of it, "" where there will be none."""

    path: str
    size: int
    blocks: tuple[str, ...] | None = None
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All files of one revision. ``facts``: what else the daemon says of the model."""

    files: tuple[WantedFile, ...]
    block_size: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def fetch_wanted(
    client: Client, answer: dict[str, Any], *, blocks: bool, entries: bool = False
) -> Wanted:
    """The files of the very revision that ``answer`` names; ``blocks``: with their checksums;
    ``entries``: with what a metadata file says. Raises what the daemon says, ContentError."""
    files: list[WantedFile] = []

    def take(file: dict[str, Any]) -> None:
        checksums = tuple(map(str, file["checksums"])) if blocks else None
        path = check_relative(str(file["path"]))
        entry = _entry(file) if entries else ""
        files.append(WantedFile(path=path, size=int(file["size"]), blocks=checksums, entry=entry))

    with client.open(
        "GET",
        path_of("models", answer["key"]),
        query={"revision": answer["revision"], "blocks": "true" if blocks else None},
        headers=lease_header(answer),
    ) as page:
        rest = read_page(page.read, take)
    if rest.get("revision") != answer["revision"]:
        raise ContentError(
            f"the daemon shows another revision of {answer['key']} than was asked for",
            hint="client and daemon must agree (cachd version)",
        )
    size = int(rest["block_size"]) if blocks else 0
    return Wanted(files=tuple(files), block_size=size, facts=rest)


def _entry(file: dict[str, Any]) -> str:
    """One file of the daemon's page, as a metadata file has it: path, size, digests."""
    return json.dumps({name: file[name] for name in ("path", "size", "digests")})


def read_page(read: Callable[[int], bytes], take: Callable[[dict[str, Any]], None]) -> Any:
    """The page of a model, its files given to ``take`` one by one: all of them at once, as JSON's
    objects, take ten times the memory of what is kept. Raises ContentError."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    scan = json.JSONDecoder().raw_decode
    text, place = "", None
    try:
        while place is None:
            chunk = read(_CHUNK)
            text += decode(chunk, final=not chunk)
            place = _FILES.search(text)
            if not chunk and place is None:
                raise ContentError("the daemon's page of the model lists no files")
        head, text = text[: place.start()], text[place.end() :]
        position, is_end = 0, False
        while True:
            position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]
            if text[position : position + 1] == "]":
                break
            try:
                file, position = scan(text, position)
                take(file)
            except ValueError:
                if is_end:
                    raise
                chunk = read(_CHUNK)
                is_end = not chunk
                text, position = text[position:] + decode(chunk, final=is_end), 0
        while chunk := read(_CHUNK):
            text += decode(chunk)
        return json.loads(f'{head}"manifest_files":[{text[position:]}')
    except (KeyError, TypeError, ValueError) as error:
        raise ContentError(f"the daemon's page of the model can't be read: {error}") from error


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
