"""Leases: a promise not to evict, and a pass to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.api import context, wire
from cachd.api.asking import parse_lease
from cachd.api.body import Fields, query, read_json
from cachd.api.models import key_of, lease_of

if TYPE_CHECKING:
    from aiohttp import web


async def take(request: web.Request) -> web.StreamResponse:
    """POST /v1/models/{key}/leases"""
    query(request)
    key = key_of(request)
    fields = Fields(await read_json(request, optional=True))
    wanted = parse_lease(fields)
    revision = fields.text("revision", limit=128)
    fields.finish()
    lease = await context.cache(request).lease(
        key, context.caller(request), wanted, revision, lease_of(request)
    )
    return wire.reply(wire.lease(lease), status=201)


async def renew(request: web.Request) -> web.StreamResponse:
    """PUT /v1/models/{key}/leases/{id}"""
    query(request)
    key = key_of(request)
    fields = Fields(await read_json(request, optional=True))
    ttl = fields.number("ttl")
    fields.finish()
    lease = await context.cache(request).renew_lease(
        key, request.match_info["id"], ttl, context.caller(request)
    )
    return wire.reply(wire.lease(lease))


async def release(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/models/{key}/leases/{id}"""
    query(request)
    key = key_of(request)
    await context.cache(request).release_lease(
        key, request.match_info["id"], context.caller(request)
    )
    return wire.reply({"key": key, "released": True})
