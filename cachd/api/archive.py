"""A snapshot as one tar: the manifest first, then the files by path. The same snapshot gives the
same bytes, and their number is known before the first goes out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aiohttp import web

from cachd.api import conditions, context, files
from cachd.api.sending import STALL_TIMEOUT, send_file
from cachd.api.tree import open_file
from cachd.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachd.model import Manifest, ManifestFile

MANIFEST_NAME = ".cachd-manifest.json"

BATCH = 1024 * 1024
"""Bytes that small files are gathered to; bigger files go by sendfile. The whole buffer."""

_END = bytes(1024)


def header(path: str, size: int) -> bytes:
    """The pax header blocks of one regular file, the same wherever and whenever it is made."""
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as the archive's first member has it. Who pays for it here is left out."""
    return json.dumps(replace(manifest, namespace=None).to_json(), sort_keys=True).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Contents:
    """``head`` is the manifest's member; ``length`` counts the whole archive, in bytes."""

    head: bytes
    files: tuple[ManifestFile, ...]
    length: int
    etag: str


def contents(manifest: Manifest) -> Contents:
    """What the archive will be. Raises ContentError if the model has a file of our name."""
    ordered = tuple(sorted(manifest.files, key=lambda f: f.path))
    if any(f.path == MANIFEST_NAME for f in ordered):
        raise ContentError(
            f"the model itself has a file {MANIFEST_NAME}",
            hint="read its files one by one instead",
        )
    document = manifest_bytes(manifest)
    head = header(MANIFEST_NAME, len(document)) + document + bytes(_padding(len(document)))
    body = sum(len(header(f.path, f.size)) + f.size + _padding(f.size) for f in ordered)
    tag = f'"tar-{hashlib.sha256(document).hexdigest()[:32]}"'
    return Contents(head, ordered, len(head) + body + len(_END), tag)


async def get(request: web.Request) -> web.StreamResponse:
    """GET /v1/models/{key}/archive.tar"""
    snapshot = await files.readable(request)
    whole = await asyncio.to_thread(contents, snapshot.manifest)
    headers = {"ETag": whole.etag, "Cachd-Revision": snapshot.revision, "Cache-Control": "private"}
    if conditions.is_unmodified(request.headers.get("If-None-Match"), whole.etag):
        return web.Response(status=304, headers=headers)
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/x-tar"})
    response.content_length = whole.length
    with context.cache(request).reading(snapshot):
        await response.prepare(request)
        if request.method == "GET":
            await _send(request, response, snapshot.tree, whole)
            context.note_sent(request, response.status, whole.length)
        await response.write_eof()
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, tree: str, whole: Contents
) -> None:
    await _write(request, response, whole.head)
    for group in _groups(whole.files):
        first = group[0]
        if first.size <= BATCH:
            await _write(request, response, await asyncio.to_thread(_gather, tree, group))
            continue
        await _write(request, response, header(first.path, first.size))
        descriptor = await asyncio.to_thread(open_file, tree, first)
        try:
            await send_file(request, descriptor, 0, first.size)
        finally:
            os.close(descriptor)
        await _write(request, response, bytes(_padding(first.size)))
    await _write(request, response, _END)


def _groups(ordered: Sequence[ManifestFile]) -> Iterator[list[ManifestFile]]:
    """Runs of small files of up to BATCH bytes in all, and big files alone."""
    group: list[ManifestFile] = []
    size = 0
    for file in ordered:
        # Headers count too: a batch of empty files is no small batch.
        cost = file.size + 2 * tarfile.BLOCKSIZE
        if group and (file.size > BATCH or size + cost > BATCH):
            yield group
            group, size = [], 0
        if file.size > BATCH:
            yield [file]
            continue
        group.append(file)
        size += cost
    if group:
        yield group


def _gather(tree: str, group: list[ManifestFile]) -> bytes:
    data = bytearray()
    for file in group:
        data += header(file.path, file.size)
        descriptor = open_file(tree, file)
        with open(descriptor, "rb", buffering=0) as opened:
            content = opened.read(file.size)
        if len(content) != file.size:
            raise ConnectionResetError("a file was shortened while it was being sent")
        data += content + bytes(_padding(file.size))
    return bytes(data)


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    if not data:
        return
    try:
        async with asyncio.timeout(STALL_TIMEOUT):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the reader stopped reading") from None
