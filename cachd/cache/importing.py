"""Models carried here as a tar stream, for nodes that can't reach a source.

The tar is what ``GET /v1/models/{key}/archive.tar`` gives: ``.cachd-manifest.json`` first, then
the files. With a manifest every block is verified on the way in; without one the files are taken as
they are. An administrator who imports a model gives it to every caller of the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import secrets
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.cache.resolve import locate
from cachd.cache.types import Answer, Ask
from cachd.errors import ArchiveInvalid, ContentError, DigestMismatch
from cachd.fetch.unpack import UnpackLimits, unpack_archive
from cachd.model import Plan, PlannedFile, Validator
from cachd.store.decode import decode_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cachd.cache.parts import Parts
    from cachd.model import Manifest, ManifestFile
    from cachd.store.ingest import Ingest

MANIFEST_NAME = ".cachd-manifest.json"
_MANIFEST_LIMIT = 256 * 1024 * 1024
_HEADER_LIMIT = 16 * 1024


async def import_tar(parts: Parts, uri: str, chunks: AsyncIterator[bytes]) -> Answer:
    """The model as published. Raises UriInvalid, ArchiveInvalid, DigestMismatch, NoSpace."""
    started = time.monotonic()
    ref, _ = locate(Ask(uri=uri), parts.resolver)
    head, manifest = await _read_manifest(chunks)
    if manifest is None:
        plan = Plan(revision=secrets.token_hex(16), files=(), is_validated=False)
    else:
        plan = Plan(
            revision=manifest.revision,
            files=tuple(
                PlannedFile(path=f.path, url="", size=f.size, validator=Validator(etag=f.etag))
                for f in manifest.files
            ),
            is_validated=manifest.is_validated,
            is_immutable=manifest.is_immutable,
            metadata=manifest.metadata,
        )
    # The tree is written by the unpacking, so nothing is preallocated for it.
    ingest = await parts.store.begin(ref, replace(plan, files=()), source="import")
    try:
        if manifest is not None:
            await ingest.grow(manifest.size)
        files = await _unpack(parts, ingest, head, chunks, reserved=manifest is not None)
        if manifest is not None:
            files = _check(manifest, files)
        (ingest.tree / MANIFEST_NAME).unlink(missing_ok=True)
        before = parts.store.current(ref)
        snapshot = await ingest.commit(files, metadata=plan.metadata)
    except BaseException:
        await asyncio.shield(ingest.abort())
        raise
    await parts.updates.landed(before, snapshot, "import")
    parts.events.publish("imported", key=ref.key, revision=snapshot.revision)
    total = time.monotonic() - started
    return Answer(
        key=snapshot.key,
        revision=snapshot.revision,
        uri=ref.uri,
        origin=ref.origin,
        path=str(snapshot.tree),
        files=len(files),
        bytes=snapshot.info.bytes,
        result="miss",
        is_shared_flight=False,
        is_validated=snapshot.info.is_validated,
        fetched_bytes=0,
        timings={"total": round(total, 6)},
    )


async def _read_manifest(chunks: AsyncIterator[bytes]) -> tuple[bytes, Manifest | None]:
    """The bytes read so far, and the manifest if the tar begins with one."""
    head = bytearray()

    async def read_to(size: int) -> None:
        while len(head) < size:
            try:
                head.extend(await anext(chunks))
            except StopAsyncIteration:
                return

    await read_to(_HEADER_LIMIT)
    try:
        with tarfile.open(fileobj=io.BytesIO(head), mode="r:") as tar:
            member = tar.next()
    except tarfile.TarError as error:
        raise ArchiveInvalid(
            f"the import is no tar stream: {error}",
            hint="send what `cachd export` wrote, or a plain tar of the model's files",
        ) from None
    if member is None or member.name != MANIFEST_NAME:
        return bytes(head), None
    if member.size > _MANIFEST_LIMIT:
        raise ArchiveInvalid(f"the import's manifest has {member.size} bytes, which is too many")
    end = member.offset_data + member.size
    await read_to(end)
    try:
        manifest = decode_manifest(bytes(head[member.offset_data : end]))
    except ValueError as error:
        raise ArchiveInvalid(
            f"the import's {MANIFEST_NAME} can't be read: {error}",
            hint="export the model again, with a cachd of the same or an older version",
        ) from None
    return bytes(head), manifest


async def _unpack(
    parts: Parts,
    ingest: Ingest,
    head: bytes,
    chunks: AsyncIterator[bytes],
    *,
    reserved: bool,
) -> list[ManifestFile]:
    """Unpack the stream into the ingest's tree, in a thread that reads from a pipe."""
    loop = asyncio.get_running_loop()
    # Two threads an import, one on each end of the pipe, and none that others wait for.
    executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="cachd-import")
    archive = parts.settings.sources.archive
    limits = UnpackLimits(
        max_bytes=int(archive.max_bytes),
        max_members=archive.max_members,
        max_ratio=float("inf"),
    )
    read_end, write_end = os.pipe()
    stopped = False

    def grow(more: int) -> None:
        if not reserved:
            asyncio.run_coroutine_threadsafe(ingest.grow(more), loop).result()

    unpacking = loop.run_in_executor(
        executor,
        lambda: unpack_archive(
            Path(f"/proc/self/fd/{read_end}"),
            ingest.tree,
            "tar",
            "import.tar",
            limits,
            grow,
            lambda _: None,
            lambda: stopped,
        ),
    )
    # An unpacking that ends early leaves no reader, so that a blocked write fails.
    unpacking.add_done_callback(lambda _: os.close(read_end))
    try:
        await _feed(executor, write_end, head, chunks)
        write_end = _close(write_end)
        return await unpacking
    finally:
        stopped = True
        _close(write_end)
        with contextlib.suppress(Exception):
            await unpacking
        executor.shutdown(wait=False)


async def _feed(
    executor: ThreadPoolExecutor, write_end: int, head: bytes, chunks: AsyncIterator[bytes]
) -> None:
    """Everything into the pipe; an unpacking that ended early says why at its own await."""
    loop = asyncio.get_running_loop()

    async def write(data: bytes) -> None:
        writing = loop.run_in_executor(executor, _write_all, write_end, data)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The descriptor may only be closed when the thread has let go of it; it does, for the
            # unpacking that is cancelled as well closes its end.
            with contextlib.suppress(OSError):
                await writing
            raise

    try:
        await write(head)
        async for chunk in chunks:
            await write(chunk)
    except BrokenPipeError:
        return


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


def _check(manifest: Manifest, files: list[ManifestFile]) -> list[ManifestFile]:
    """The manifest's files, if what arrived is exactly them, block by block."""
    arrived = {f.path: f for f in files if f.path != MANIFEST_NAME}
    expected = {f.path: f for f in manifest.files}
    for path, want in expected.items():
        got = arrived.get(path)
        if got is None:
            raise ContentError(f"the import lacks {path!r}, which its manifest names")
        if (got.size, got.blocks) != (want.size, want.blocks):
            is_short = got.size != want.size
            why = f"{got.size} bytes against {want.size}" if is_short else "block checksums differ"
            raise DigestMismatch(
                f"{path!r} is not what the import's manifest says: {why}",
                hint="the archive was changed or damaged on the way; export it again",
            )
    extra = sorted(arrived.keys() - expected.keys())
    if extra:
        raise ContentError(f"the import holds {extra[0]!r}, which its manifest doesn't name")
    return list(manifest.files)
