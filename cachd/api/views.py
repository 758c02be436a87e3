"""Pods' views: told of, and taken away. They are made by asking for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.api import context, wire
from cachd.api.body import query
from cachd.names import check_pod

if TYPE_CHECKING:
    from aiohttp import web


async def list_views(request: web.Request) -> web.StreamResponse:
    """GET /v1/views"""
    query(request)
    views = await context.cache(request).views(context.caller(request))
    return wire.reply({"views": [wire.view(view) for view in views]})


async def remove(request: web.Request) -> web.StreamResponse:
    """DELETE /v1/views/{pod}"""
    query(request)
    pod = check_pod(request.match_info["pod"])
    removed = await context.cache(request).remove_views(pod, context.caller(request))
    return wire.reply({"pod": pod, "removed": removed})
