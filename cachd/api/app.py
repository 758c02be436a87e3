"""The applications: for pods, for administrators, for health; from one table of routes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from cachd.api import context, middleware, openapi
from cachd.api.body import MAX_BODY
from cachd.api.drain import Drain
from cachd.api.identity import PeerIdentity
from cachd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from cachd.api.identity import Identify
    from cachd.api.protocol import CacheApi
    from cachd.metrics import Metrics
    from cachd.settings import Settings

KEEPALIVE = 30.0
"""Seconds in which a connection must send a whole request head: its first, or the next one."""


def build_app(
    cache: CacheApi,
    *,
    role: Literal["pod", "admin", "peer", "health"],
    settings: Settings,
    metrics: Metrics,
    identity: Identify | None = None,
    drain: Drain | None = None,
) -> web.Application:
    """An application for one listener.

    ``role`` "health" carries the probes and metrics alone, and asks nobody who they are. Otherwise
    ``identity`` finds the caller; None: by the kernel, on a Unix socket, with this role. Listeners
    of one daemon share ``drain``.
    """
    routes = [route for route in ROUTES if role != "health" or route.is_health]
    if role == "health":
        identity = None
    elif identity is None:
        identity = PeerIdentity(role)
    app = web.Application(
        middlewares=[middleware.make_middleware({route.name: route for route in routes})],
        client_max_size=MAX_BODY,
        logger=logging.getLogger("cachd.api"),
    )
    app[context.PARTS] = context.Parts(
        cache=cache,
        settings=settings,
        metrics=metrics,
        drain=drain or Drain(),
        identify=identity,
        document=json.dumps(openapi.build_document(ROUTES), indent=1).encode() + b"\n",
    )
    for route in routes:
        app.router.add_route(route.method, route.pattern, route.handler, name=route.name)
    app.on_response_prepare.append(middleware.finish_head)
    return app


class _ServerLog(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's own messages. Those about a request that can't be parsed quote it, headers and
    all; only the kind of error is told."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # A caller that goes away in the middle is no fault of ours; the summary line tells of it.
        if isinstance(kwargs.get("exc_info"), ConnectionError):
            level = logging.DEBUG
        super().log(level, msg, *args, **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        error = kwargs.get("exc_info")
        if isinstance(error, BaseException):
            kwargs["exc_info"] = None
            msg = f"{msg} ({type(error).__name__})"
        return msg, kwargs


def make_runner(app: web.Application, *, shutdown_timeout: float) -> web.AppRunner:
    """The server of ``app``.

    ``handler_cancellation``: a caller that goes away cancels its handler, which is how the cache
    learns that nobody waits any more. ``shutdown_timeout`` in seconds bounds each of the waits in
    ``cleanup``.
    """
    return web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=shutdown_timeout, **connection_options()
    )


def connection_options() -> dict[str, Any]:
    """What every connection's protocol is made with."""
    return {
        "access_log": None,
        "logger": _ServerLog(logging.getLogger("cachd.api.server"), {}),
        "keepalive_timeout": KEEPALIVE,
    }
