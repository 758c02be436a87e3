"""A snapshot's files, with ranges, by sendfile."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING

from aiohttp import web

from cachd.api import conditions, context
from cachd.api.body import query
from cachd.api.models import key_of, lease_of
from cachd.api.sending import send_file
from cachd.api.tree import open_file
from cachd.errors import FileUnknown

if TYPE_CHECKING:
    from cachd.cache.types import Snapshot
    from cachd.model import ManifestFile


async def readable(request: web.Request) -> Snapshot:
    """The snapshot that the path, ``revision`` and the lease's header name; access is decided."""
    revision = query(request, "revision").text("revision", limit=128)
    return await context.cache(request).readable(
        key_of(request),
        context.caller(request),
        revision=revision,
        lease_id=lease_of(request),
    )


async def get(request: web.Request) -> web.StreamResponse:
    """GET and HEAD /v1/models/{key}/files/{path}"""
    snapshot = await readable(request)
    file = find(snapshot, request.match_info["path"])
    tag = conditions.etag(file)
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cachd-Revision": snapshot.revision,
        "Cache-Control": "private",
    }
    sent = request.headers
    if conditions.is_another(sent.get("If-Match"), tag):
        raise web.HTTPPreconditionFailed
    if conditions.is_unmodified(sent.get("If-None-Match"), tag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = "application/octet-stream"
    headers.update(_digest(file))
    span: conditions.Span | str | None = None
    if request.method == "GET" and conditions.may_range(sent.get("If-Range"), tag):
        span = conditions.parse_range(sent.get("Range"), file.size)
    if isinstance(span, str):
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{file.size}"})
    with context.cache(request).reading(snapshot):
        descriptor = await asyncio.to_thread(open_file, snapshot.tree, file)
        try:
            return await _send(request, descriptor, span, file.size, headers)
        finally:
            os.close(descriptor)


def find(snapshot: Snapshot, path: str) -> ManifestFile:
    """The manifest's file of that very path. Raises FileUnknown."""
    file = snapshot.manifest.find(path)
    if file is not None:
        return file
    raise FileUnknown(
        f"the model {snapshot.key} has no such file",
        hint=f"GET /v1/models/{snapshot.key} lists its files",
    )


def _digest(file: ManifestFile) -> dict[str, str]:
    """RFC 9530: the digest of the whole file, whichever range is sent."""
    for digest in file.digests:
        if digest.algorithm == "sha256":
            value = base64.b64encode(bytes.fromhex(digest.value)).decode()
            return {"Repr-Digest": f"sha-256=:{value}:"}
    return {}


async def _send(
    request: web.Request,
    descriptor: int,
    span: conditions.Span | None,
    size: int,
    headers: dict[str, str],
) -> web.StreamResponse:
    response = web.StreamResponse(status=206 if span else 200, headers=headers)
    start, count = (span.start, span.count) if span else (0, size)
    if span:
        response.headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
    response.content_length = count
    await response.prepare(request)
    if request.method == "GET":
        await send_file(request, descriptor, start, count)
        context.note_sent(request, response.status, count)
    await response.write_eof()
    return response
