"""Plan, collect, follow along, import, and the description of it all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast, get_args

from aiohttp import web

from cachd.api import context, wire
from cachd.api.asking import MAX_URI, parse_ask
from cachd.api.body import Fields, query, read_json
from cachd.api.stream import send_lines
from cachd.cache.types import Caller
from cachd.errors import ArchiveInvalid, DeadlineExceeded, UriInvalid
from cachd.settings import Verb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

log = logging.getLogger("cachd.api")

UPLOAD_STALL = 120.0
"""Seconds without a byte after which an upload is given up."""


async def plan(request: web.Request) -> web.StreamResponse:
    """POST /v1/plan"""
    query(request)
    data = await read_json(request)
    cache, caller = context.cache(request), context.caller(request)
    if "bytes" in data:
        fields = Fields(data)
        needed = fields.count("bytes")
        fields.finish()
        found = await cache.plan(None, needed or 0, caller)
    else:
        parsed = parse_ask(data, context.facts(request).request_id)
        found = await cache.plan(parsed.ask, None, caller)
    return wire.reply(wire.with_times(found, "evict"))


async def key(request: web.Request) -> web.StreamResponse:
    """POST /v1/key"""
    query(request)
    parsed = parse_ask(await read_json(request), context.facts(request).request_id)
    found = context.cache(request).name(parsed.ask, context.caller(request))
    return wire.reply(found.to_json())


async def may(request: web.Request) -> web.StreamResponse:
    """POST /v1/may"""
    query(request)
    fields = Fields(await read_json(request))
    verb = fields.choice("verb", get_args(Verb))
    uri = fields.text("uri", limit=MAX_URI)
    uid = fields.count("uid", most=2**32 - 1)
    account = fields.text("service_account", limit=512)
    namespace = fields.text("namespace", limit=253) or ""
    fields.finish()
    if verb is None:
        raise fields.fail("verb", f"is missing: one of {', '.join(get_args(Verb))}")
    if account and "/" in account:
        named, _, account = account.partition("/")
        if namespace not in ("", named):
            raise fields.fail("service_account", "is in another namespace than namespace says")
        namespace = named
    if account and not namespace:
        raise fields.fail("service_account", "needs its namespace", hint="NAMESPACE/NAME")
    caller = Caller(
        role="pod",
        uid=uid,
        namespace=namespace,
        service_account=account or ("default" if namespace else ""),
    )
    return wire.reply(dict(context.cache(request).may(caller, cast("Verb", verb), uri)))


async def gc(request: web.Request) -> web.StreamResponse:
    """POST /v1/gc"""
    query(request)
    fields = Fields(await read_json(request, optional=True))
    dry_run = fields.flag("dry_run") or False
    target = fields.count("target")
    fields.finish()
    caller = context.caller(request)
    report = await context.cache(request).gc(caller, dry_run=dry_run, target=target)
    context.facts(request).log["freed"] = report.get("freed")
    return wire.reply(wire.with_times(report, "evicted"))


async def events(request: web.Request) -> web.StreamResponse:
    """GET /v1/events"""
    query(request)
    return await send_lines(request, _events(request), ends_on_drain=True)


async def _events(request: web.Request) -> AsyncGenerator[Mapping[str, Any], None]:
    following = context.cache(request).events(context.caller(request))
    # The head goes out at once: a follower must know from when on it sees everything.
    yield {"event": "following"}
    try:
        async for event in following:
            yield event
    finally:
        close = getattr(following, "aclose", None)
        if close is not None:
            await close()


async def import_model(request: web.Request) -> web.StreamResponse:
    """POST /v1/import"""
    uri = query(request, "uri").text("uri", limit=MAX_URI)
    if uri is None:
        raise UriInvalid(
            "the parameter uri is missing", field="uri", hint="POST /v1/import?uri=s3://bucket/m"
        )
    request_id = context.facts(request).request_id
    answer = await context.cache(request).import_tar(
        uri, context.caller(request), _chunks(request), request_id
    )
    context.note_answer(request, answer)
    return wire.reply(wire.answer(answer, request_id))


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(UPLOAD_STALL):
                chunk = await request.content.readany()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the upload sent nothing for {UPLOAD_STALL:g} s", hint="send it again"
            ) from None
        except Exception as error:
            log.info("an upload broke off: %s", type(error).__name__)
            raise ArchiveInvalid("the upload broke off", hint="send it again") from None
        if not chunk:
            return
        yield chunk


async def document(request: web.Request) -> web.StreamResponse:
    """GET /openapi.json"""
    query(request)
    return web.Response(body=context.parts(request).document, content_type="application/json")
