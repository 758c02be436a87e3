"""The journal of an ingest: a header, then one JSON line for each finished part or linked file.

It is appended without fsync. Within one boot the page cache survives a killed process, so the
journal is trusted; after another boot only parts whose blocks match their checksums count. The same
holds once a write or a sync failed (a line ``doubt``): the kernel may have dropped what it couldn't
write, and says so once. A torn line (a kill in mid-write) counts for nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cachd.errors import InUse
from cachd.model import BLOCK_SIZE, PartDone
from cachd.store.decode import are_texts, check, decode_ref, is_size, parse_object
from cachd.store.fsio import write_all
from cachd.store.layout import lock_descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cachd.model import Identity, Plan, Ref

JOURNAL_NAME = "journal"
_FORMAT = 1
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an ingest is of. ``files`` are (path, size, etag, last_modified, version_id, digest);
    never a URL, never a credential."""

    boot_id: str
    ref: Ref
    revision: str
    unpack: str
    source: str
    files: tuple[tuple[Any, ...], ...]

    @property
    def sha256(self) -> list[str]:
        """The digests that the source claims, in hex."""
        return [file[5][7:] for file in self.files if file[5] and file[5].startswith("sha256:")]

    def is_same_state(self, other: Header) -> bool:
        """Whether parts fetched for ``self`` are good for ``other``."""
        return (self.ref, self.revision, self.unpack, self.files) == (
            other.ref,
            other.revision,
            other.unpack,
            other.files,
        )

    def encode(self) -> bytes:
        return _encode(
            {
                "format": _FORMAT,
                "boot_id": self.boot_id,
                "ref": self.ref.to_json(),
                "revision": self.revision,
                "unpack": self.unpack,
                "source": self.source,
                "files": self.files,
            }
        )


def make_header(ref: Ref, plan: Plan, source: str, boot_id: str) -> Header:
    return Header(
        boot_id=boot_id,
        ref=ref,
        revision=plan.revision,
        unpack=plan.unpack,
        source=source,
        files=tuple(
            (
                file.path,
                file.size,
                file.validator.etag,
                file.validator.last_modified,
                file.validator.version_id,
                f"{file.digest.algorithm}:{file.digest.value}" if file.digest else None,
            )
            for file in plan.files
        ),
    )


@dataclass(slots=True)
class Content:
    """What a journal says. ``linked``: whole files taken over by a hard link, as one part each (an
    empty ``blocks`` where the file is empty). ``credentialed_by``: whose pass some bytes needed."""

    header: Header
    credentialed_by: Identity | None = None
    parts: dict[str, list[PartDone]] = field(default_factory=dict)
    linked: dict[str, PartDone] = field(default_factory=dict)


def _encode(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def encode_part(part: PartDone, *, linked: bool = False) -> bytes:
    line: dict[str, Any] = {
        "path": part.path,
        "offset": part.offset,
        "length": part.length,
        "blocks": part.blocks,
    }
    if linked:
        line["linked"] = True
    return _encode(line)


def _encode_mark(identity: Identity) -> bytes:
    return _encode({"credentialed_by": identity})


def _decode_header(line: bytes) -> Header | None:
    try:
        data = parse_object(line)
        if data["format"] != _FORMAT:
            return None
        header = Header(
            boot_id=data["boot_id"],
            ref=decode_ref(data["ref"]),
            revision=data["revision"],
            unpack=data["unpack"],
            source=data["source"],
            files=tuple(tuple(file) for file in data["files"]),
        )
        texts = (header.boot_id, header.revision, header.unpack, header.source)
        check(are_texts(texts) and all(map(_is_file, header.files)), "the header")
        return header
    except (ValueError, KeyError, TypeError):
        return None


def _is_file(file: tuple[Any, ...]) -> bool:
    return (
        len(file) == 6
        and type(file[0]) is str
        and (file[1] is None or is_size(file[1]))
        and are_texts(value for value in file[2:] if value is not None)
    )


def parse(data: bytes) -> Content | None:
    """Pure. None if the header can't be read; a line that can't be read is passed over."""
    lines = data.split(b"\n")
    header = _decode_header(lines[0])
    if header is None:
        return None
    content = Content(header)
    sizes = {file[0]: file[1] for file in header.files}
    for line in lines[1:]:
        if not line:
            continue
        try:
            entry = parse_object(line)
            if "doubt" in entry:
                content.header = replace(header, boot_id="")
                continue
            if "credentialed_by" in entry:
                # A mark that can't be read still says that some pass was needed.
                mark = entry["credentialed_by"]
                content.credentialed_by = mark if mark in ("daemon", "anonymous") else "caller"
                continue
            part = PartDone(
                path=entry["path"],
                offset=entry["offset"],
                length=entry["length"],
                blocks=tuple(entry["blocks"]),
            )
            if not _fits(part, sizes):
                continue
            is_linked = entry.get("linked", False)
        except (ValueError, KeyError, TypeError):
            continue
        if is_linked:
            content.linked[part.path] = part
        else:
            content.parts.setdefault(part.path, []).append(part)
    return content


def _fits(part: PartDone, sizes: dict[str, int | None]) -> bool:
    if part.path not in sizes or not is_size(part.offset) or not is_size(part.length):
        return False
    size = sizes[part.path]
    return (
        (size is None or part.offset + part.length <= size)
        and part.offset % BLOCK_SIZE == 0
        and len(part.blocks) == -(-part.length // BLOCK_SIZE)
        and all(isinstance(block, str) for block in part.blocks)
    )


def read_header(path: Path) -> Header | None:
    """Of a journal that isn't open. Blocking; raises OSError."""
    with path.open("rb") as file:
        return _decode_header(file.readline())


class Journal:
    """An open journal; it carries the lock of its model. Blocking calls, one at a time."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._length = os.fstat(fd).st_size

    @staticmethod
    def open(path: Path) -> Journal:
        """Open or make ``path`` and lock it. Raises InUse, OSError."""
        fd = os.open(path, _OPEN | os.O_CREAT, 0o600)
        try:
            if not lock_descriptor(fd):
                raise InUse(
                    f"another process fetches into {path.parent}",
                    hint="wait for it to end; one daemon alone should use the root",
                )
            return Journal(path, fd)
        except BaseException:
            os.close(fd)
            raise

    def read(self) -> Content | None:
        """All that it says; None if there is nothing of use."""
        with open(os.dup(self._fd), "rb") as file:
            file.seek(0)
            return parse(file.read())

    def rewrite(
        self,
        header: Header,
        parts: Iterable[PartDone],
        linked: Iterable[PartDone],
        credentialed_by: Identity | None = None,
    ) -> None:
        """Replace the content, in one step; the lock goes over to the new file."""
        temporary = self._path.with_name(f"{JOURNAL_NAME}.tmp")
        fd = os.open(temporary, _OPEN | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            lock_descriptor(fd)
            lines = [header.encode()]
            if credentialed_by:
                lines.append(_encode_mark(credentialed_by))
            lines += [encode_part(part, linked=True) for part in linked]
            lines += [encode_part(part) for part in parts]
            write_all(fd, b"".join(lines))
            temporary.rename(self._path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._length = fd, os.fstat(fd).st_size

    def mark(self, identity: Identity) -> None:
        """Say that bytes from now on need that pass. Raises OSError; then nothing was added."""
        self._add(_encode_mark(identity))

    def doubt(self) -> None:
        """From now on no line counts whose bytes weren't compared with what is on the disk. If not
        even that can be written, the journal is emptied. Raises OSError."""
        try:
            self._add(_encode({"doubt": True}))
        except OSError:
            os.ftruncate(self._fd, 0)
            self._length = 0

    def append(self, parts: Sequence[PartDone], *, linked: bool = False) -> None:
        """Add lines. Raises OSError; then nothing was added."""
        self._add(b"".join(encode_part(part, linked=linked) for part in parts))

    def _add(self, data: bytes) -> None:
        try:
            write_all(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self._length)
            raise
        self._length += len(data)

    def close(self) -> None:
        """Let go of the lock; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
