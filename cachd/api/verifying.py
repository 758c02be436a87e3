"""Reading what is cached against its checksums."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from cachd.api import context, wire
from cachd.api.body import Fields, query, read_json
from cachd.api.models import key_of
from cachd.api.stream import send_lines, wants_ndjson
from cachd.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from aiohttp import web


async def verify(request: web.Request) -> web.StreamResponse:
    """POST /v1/models/{key}/verify"""
    return await _verify(request, key_of(request))


async def verify_all(request: web.Request) -> web.StreamResponse:
    """POST /v1/verify"""
    return await _verify(request, None)


async def _verify(request: web.Request, key: str | None) -> web.StreamResponse:
    query(request)
    fields = Fields(await read_json(request, optional=True))
    repair = fields.flag("repair") or False
    rate = fields.count("rate")
    fields.finish()
    events = cast(
        "AsyncGenerator[Mapping[str, Any], None]",
        context.cache(request).verify(key, context.caller(request), repair=repair, rate=rate),
    )
    if wants_ndjson(request):
        return await send_lines(request, events, ends_on_drain=True)
    async with contextlib.aclosing(events):
        async for event in events:
            if event["event"] == "ready":
                return wire.reply({name: value for name, value in event.items() if name != "event"})
    raise InternalError("a verification ended without an answer")
