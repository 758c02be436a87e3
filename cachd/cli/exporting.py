"""``cachd export``."""

from __future__ import annotations

import os
import secrets
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cachd.cli import checking, places, render
from cachd.cli.choosing import admin_client, find_key
from cachd.cli.client import path_of
from cachd.cli.manifest import MANIFEST_NAME, manifest_bytes, parse_manifest
from cachd.cli.output import print_json, warn
from cachd.cli.progress import Display, Meter
from cachd.cli.staging import Staging, translated
from cachd.cli.streaming import write_all
from cachd.errors import ContentError, InvalidError, SizeMismatch

if TYPE_CHECKING:
    import argparse

    from cachd.cli.client import Answer, Client
    from cachd.model import Manifest, ManifestFile

_CHUNK = 1024 * 1024
_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst")


def export_model(arguments: argparse.Namespace) -> int:
    """Write the archive, or its files. Raises CachdError; nothing is left behind by a failure."""
    target = arguments.target
    if target.lower().endswith(_COMPRESSED) and not _is_directory(target):
        raise InvalidError(
            f"{target}: archives are written without compression",
            field="TAR",
            hint="pipe it: cachd export KEY - | zstd > model.tar.zst (weights hardly shrink)",
        )
    if target == "-" and sys.stdout.isatty():
        raise InvalidError("a tar archive doesn't go to a terminal", hint="redirect it to a file")
    client = admin_client(arguments, needed=False)
    key = find_key(client, arguments.model)
    with Display(quiet=arguments.quiet) as display:
        result = _export(client, key, arguments.revision, target, display)
    if target == "-":
        return 0
    if arguments.json:
        print_json(result)
    else:
        print(
            f"{key}: {render.size(result['bytes'])} exported to {target}"
            + {True: ", every block verified", False: ", not verified", None: ""}[
                result["verified"]
            ]
        )
    return 0


def _export(
    client: Client, key: str, revision: str | None, target: str, display: Display
) -> dict[str, Any]:
    with client.open(
        "GET", path_of("models", key, "archive.tar"), query={"revision": revision}
    ) as body:
        if target == "-":
            meter = Meter(display, "exporting", _length(body), 0)
            _copy(body, sys.stdout.buffer.fileno(), meter)
            return {"bytes": meter.bytes, "verified": None}
        path = Path(target)
        if target.lower().endswith(".tar") and not _is_directory(target):
            count = _to_file(body, path, display)
            return {"key": key, "target": target, "bytes": count, "verified": None}
        manifest, is_verified = _to_directory(body, path, display)
    return {
        "key": key,
        "revision": manifest.revision,
        "target": target,
        "bytes": manifest.size,
        "files": len(manifest.files),
        "verified": is_verified,
    }


def _is_directory(target: str) -> bool:
    """False as well where nobody can look: writing says why."""
    try:
        return Path(target).is_dir()
    except OSError:
        return False


def _to_file(body: Answer, path: Path, display: Display) -> int:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    meter = Meter(display, "exporting", _length(body), 0)
    with translated(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _copy(body, fd, meter)
            os.fsync(fd)
            temporary.replace(path)
        finally:
            os.close(fd)
            with suppress(OSError):
                temporary.unlink()
    return meter.bytes


def _to_directory(body: Answer, directory: Path, display: Display) -> tuple[Manifest, bool]:
    with translated(directory):
        is_taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if is_taken:
        raise InvalidError(
            f"{directory} exists and is no empty directory", hint="name one that isn't there yet"
        )
    checksum = checking.crc64nvme()
    if checksum is None:
        warn("not verified: awscrt, which has the checksum, isn't installed here")
    try:
        with (
            tarfile.open(fileobj=cast("BinaryIO", body), mode="r|", bufsize=_CHUNK) as archive,
            Staging(directory) as staging,
        ):
            head = manifest_bytes(archive)
            manifest = parse_manifest(head)
            places.check_space(directory, manifest.size, 0)
            wanted = {file.path: file for file in manifest.files}
            meter = Meter(display, "exporting", manifest.size, len(wanted))
            while (member := archive.next()) is not None:
                file = wanted.pop(member.name, None)
                if file is None or not member.isreg() or member.size != file.size:
                    raise ContentError(f"the archive's {member.name!r} isn't in its manifest")
                _take(archive, member, file, manifest.block_size, checksum, staging, meter)
                # A stream never goes back; the list of its members only grows.
                vars(archive)["members"] = []
            if wanted:
                raise SizeMismatch(f"the archive ends without {len(wanted)} of its files")
            with staging.create(MANIFEST_NAME) as target:
                write_all(target, memoryview(head))
            staging.commit()
    except tarfile.TarError as error:
        raise ContentError(f"the archive can't be read: {error}") from error
    return manifest, checksum is not None


def _take(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    file: ManifestFile,
    block_size: int,
    checksum: checking.Checksum | None,
    staging: Staging,
    meter: Meter,
) -> None:
    reader = archive.extractfile(member)
    assert reader is not None
    checker = None
    if checksum is not None:
        checker = checking.BlockChecker(file.path, file.blocks, block_size, checksum)
    with staging.create(file.path) as target:
        while data := reader.read(_CHUNK):
            if checker is not None:
                checker.feed(data)
            with translated(staging.destination / file.path):
                write_all(target, memoryview(data))
            meter.add(len(data))
        if checker is not None:
            checker.finish()
        written = os.fstat(target).st_size
        if written != file.size:
            raise SizeMismatch(f"{file.path} has {written} bytes instead of {file.size}")
    meter.file_done()


def _copy(body: Answer, fd: int, meter: Meter) -> None:
    buffer = memoryview(bytearray(_CHUNK))
    while count := body.readinto(buffer):
        write_all(fd, buffer[:count])
        meter.add(count)


def _length(body: Answer) -> int:
    text = body.header("Content-Length")
    return int(text) if text.isdigit() else 0
