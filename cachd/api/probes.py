"""Alive, ready, measured. None of them waits for a disk or an origin."""

from __future__ import annotations

from aiohttp import web

from cachd.api import context, wire


async def livez(request: web.Request) -> web.StreamResponse:
    """GET /livez"""
    return wire.reply({"alive": True})


async def readyz(request: web.Request) -> web.StreamResponse:
    """GET /readyz"""
    reasons = list(context.cache(request).readiness())
    if context.parts(request).drain.is_begun and not any("drain" in r for r in reasons):
        reasons.append("draining: the daemon is shutting down")
    degraded = list(context.cache(request).degraded())
    body = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
    return wire.reply(body, status=503 if reasons else 200)


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics"""
    parts = context.parts(request)
    if (caller := context.facts(request).caller) is not None:
        parts.cache.authorize(caller, "admin")
    body, content_type = parts.metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})
