"""Asking for models, listing them, letting them go."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from cachd.api import context, wire
from cachd.api.asking import parse_ask
from cachd.api.body import Fields, query, query_flag, read_json
from cachd.api.stream import send_lines, wants_ndjson
from cachd.cache.types import Answer
from cachd.errors import InternalError, ModelUnknown
from cachd.fetch.upstream import VIA_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cachd.cache.types import Ask, Event

LEASE_HEADER = "Cachd-Lease"

_NAME_MOST = 64

_KEY = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")


def key_of(request: web.Request) -> str:
    """The key in the path; raises ModelUnknown for what can't be one."""
    key = check_key(request.match_info["key"])
    context.note_key(request, key)
    return key


def check_key(key: str) -> str:
    """``key`` itself. Raises ModelUnknown."""
    if not _KEY.fullmatch(key):
        raise ModelUnknown(
            "what is named is no key: 16 or 32 lower-case hex digits",
            hint="`cachd key URI` tells a URI's key, GET /v1/models lists what is there",
        )
    return key


def lease_of(request: web.Request) -> str | None:
    """The id of the lease that the caller shows as its pass."""
    return request.headers.get(LEASE_HEADER)


async def ask(request: web.Request) -> web.StreamResponse:
    """POST /v1/models"""
    query(request)
    request_id = context.facts(request).request_id
    parsed = parse_ask(await read_json(request), request_id)
    if context.caller(request).role == "peer":
        parsed = replace(parsed, ask=replace(parsed.ask, via=_via(request)))
    if not parsed.wait:
        found = await context.cache(request).request(parsed.ask, context.caller(request))
        if isinstance(found, Answer):
            return _ready(request, found)
        context.note_key(request, str(found.get("key", "")))
        return wire.reply(found, status=202)
    if wants_ndjson(request):
        return await send_lines(request, _lines(request, parsed.ask), ends_on_drain=False)
    answer = None
    async with contextlib.aclosing(_events(request, parsed.ask)) as events:
        async for event in events:
            _note(request, event)
            answer = event.answer or answer
    if answer is None:
        raise InternalError("an ask ended without an answer")
    return _ready(request, answer)


def _via(request: web.Request) -> tuple[str, ...]:
    """The daemons that the ask came through, the last one first asked by somebody."""
    sent = request.headers.get(VIA_HEADER, "")
    return tuple(name.strip()[:_NAME_MOST] for name in sent.split(",") if name.strip())


def _events(request: web.Request, ask: Ask) -> AsyncGenerator[Event, None]:
    events = context.cache(request).ask(ask, context.caller(request))
    return cast("AsyncGenerator[Event, None]", events)


async def _lines(request: web.Request, ask: Ask) -> AsyncGenerator[dict[str, Any], None]:
    request_id = context.facts(request).request_id
    async with contextlib.aclosing(_events(request, ask)) as events:
        async for event in events:
            _note(request, event)
            yield wire.event(event, request_id)


def _note(request: web.Request, event: Event) -> None:
    if event.answer is not None:
        context.note_answer(request, event.answer)
    elif event.name == "resolving" and event.data.get("key"):
        context.note_key(request, str(event.data["key"]))


def _ready(request: web.Request, answer: Answer) -> web.Response:
    context.note_answer(request, answer)
    return wire.reply(wire.answer(answer, context.facts(request).request_id))


async def list_models(request: web.Request) -> web.StreamResponse:
    """GET /v1/models"""
    query(request)
    cache = context.cache(request)
    caller = context.caller(request)
    models, usage = cache.models(caller), dict(cache.usage(caller))
    # A hundred thousand rows take a second to encode.
    body = await asyncio.to_thread(
        lambda: wire.dumps({"models": [wire.model(m) for m in models], "store": usage})
    )
    return web.Response(body=body, content_type="application/json")


async def list_prefetched(request: web.Request) -> web.StreamResponse:
    """GET /v1/prefetch"""
    query(request)
    rows = context.cache(request).prefetched(context.caller(request))
    return wire.reply({"prefetch": list(rows)})


async def show(request: web.Request) -> web.StreamResponse:
    """GET /v1/models/{key}"""
    fields = query(request, "revision", "blocks")
    revision = fields.text("revision", limit=128)
    has_blocks = query_flag(request, fields, "blocks")
    key = key_of(request)
    caller = context.caller(request)
    cache = context.cache(request)
    info, snapshot = await cache.model(key, caller, revision=revision, lease_id=lease_of(request))
    extra = {}
    if caller.role == "admin":
        extra["lease_list"] = [wire.lease(lease) for lease in cache.lease_list(key)]
    # A terabyte has a hundred thousand checksums.
    body = await asyncio.to_thread(
        lambda: wire.dumps({**wire.model_details(info, snapshot, blocks=has_blocks), **extra})
    )
    return web.Response(body=body, content_type="application/json")


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/models/{key}"""
    force = query_flag(request, query(request, "force"), "force")
    key = key_of(request)
    caller = context.caller(request)
    freed = await context.cache(request).remove(key, caller, force=force)
    context.facts(request).log["freed"] = freed
    return wire.reply({"freed": freed})


async def pin(request: web.Request) -> web.StreamResponse:
    """PUT /v1/models/{key}/pin"""
    query(request)
    key = key_of(request)
    await context.cache(request).pin(key, context.caller(request))
    return wire.reply({"key": key, "pinned": True})


async def unpin(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/models/{key}/pin"""
    query(request)
    key = key_of(request)
    await context.cache(request).unpin(key, context.caller(request))
    return wire.reply({"key": key, "pinned": False})


async def promote(request: web.Request) -> web.StreamResponse:
    """POST /v1/models/{key}/promote"""
    query(request)
    fields = Fields(await read_json(request, optional=True))
    revision = fields.text("revision", limit=128)
    fields.finish()
    key = key_of(request)
    done = await context.cache(request).promote(key, revision, context.caller(request))
    context.facts(request).log["state"] = done["state"]
    return wire.reply(dict(done), status=200 if done["state"] == "promoted" else 202)
