"""What happens round every handler: request id, who and may they, errors as problems, metrics, one
summary line."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from aiohttp import web

from cachd import logs
from cachd.api import context, problem
from cachd.errors import CachdError, Draining, Forbidden
from cachd.fetch.upstream import DAEMON_ID, ID_HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Middleware

    from cachd.api.routing import Route
    from cachd.cache.types import Caller

log = logging.getLogger("cachd.api")

GONE = 499
"""The code in metrics and logs when the caller went away before its answer."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def make_middleware(routes: Mapping[str, Route]) -> Middleware:
    """The one middleware, for an application that serves ``routes`` (by endpoint name)."""

    @web.middleware
    async def around(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        facts = context.Facts(request_id=choose_id(request.headers.get("X-Request-Id", "")))
        context.set_facts(request, facts)
        route = routes.get(request.match_info.route.name or "")
        if route is not None:
            facts.endpoint = route.name
        started = time.monotonic()
        drain = context.parts(request).drain
        code = 500
        drain.enter()
        with logs.bound(request=facts.request_id, model=""):
            try:
                response = await _answer(request, route, handler)
                code = response.status
                return response
            except asyncio.CancelledError:
                code = GONE
                raise
            except ConnectionError:
                code = facts.log.setdefault("status", GONE)
                raise
            finally:
                drain.leave()
                _conclude(request, code, time.monotonic() - started)

    return around


def choose_id(sent: str) -> str:
    """The caller's request id if it is harmless, else one of ours."""
    return sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)


async def _answer(
    request: web.Request,
    route: Route | None,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    facts = context.facts(request)
    try:
        await _admit(request, route)
        return await handler(request)
    except CachdError as error:
        facts.log["code"] = error.code
        if problem.lookup(type(error))[0] >= 500:
            facts.log["error"] = error.message
        response = problem.respond(problem.told(error, facts.request_id), facts.request_id)
    except web.HTTPException as error:
        response = problem.respond_http(error, facts.request_id)
    except Exception as error:
        if isinstance(error, ConnectionError) and _is_gone(request):
            raise
        log.exception("unexpected error in %s", facts.endpoint)
        facts.log["code"] = "internal"
        response = problem.respond(problem.internal(facts.request_id), facts.request_id)
    if facts.is_prepared:
        # The head is out: an answer cut short must not look whole.
        facts.log["status"] = response.status
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")
    return response


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _admit(request: web.Request, route: Route | None) -> None:
    """Who is it, and is the route for them? Raises AccessError, Draining."""
    parts = context.parts(request)
    if parts.identify is not None:
        context.facts(request).caller = await parts.identify(request)
    if route is None:
        return
    caller = context.facts(request).caller
    if route.is_admin and caller is not None and caller.role != "admin":
        parts.cache.admit(caller, route.verb, f"{route.method} {route.path}")
    if caller is not None and caller.role == "peer" and not route.is_for_peers:
        raise Forbidden(
            f"{route.method} {route.path} is not for other daemons",
            hint="their token lets them read what is cached, and ask; see listen.api.role",
        )
    if route.is_ask and parts.drain.is_begun:
        raise Draining("the daemon is shutting down", hint="ask again in a moment")


def _conclude(request: web.Request, code: int, seconds: float) -> None:
    facts = context.facts(request)
    code = facts.log.pop("status", code)
    # A stream's lines are made in tasks of their own, whose context ends with them.
    logs.key.set(facts.log.pop("key", ""))
    context.parts(request).metrics.requested(facts.endpoint, code, seconds)
    caller = facts.caller
    level = logging.DEBUG if facts.endpoint in ("livez", "readyz", "metrics") else logging.INFO
    log.log(
        level,
        "request",
        extra={
            "method": request.method,
            "endpoint": facts.endpoint,
            "status": code,
            "seconds": round(seconds, 6),
            "role": caller.role if caller else None,
            "uid": caller.uid if caller else None,
            "pid": caller.pid if caller else None,
            **_account(caller),
            **facts.log,
        },
    )


def _account(caller: Caller | None) -> dict[str, str]:
    if caller is None or not caller.namespace:
        return {}
    return {"account": f"{caller.namespace}/{caller.service_account}", "pod": caller.pod_name}


async def finish_head(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer, set as its head goes out."""
    response.headers["Server"] = "cachd"
    response.headers[ID_HEADER] = DAEMON_ID
    response.headers["X-Content-Type-Options"] = "nosniff"
    if context.has_facts(request):
        facts = context.facts(request)
        response.headers["X-Request-Id"] = facts.request_id
        facts.is_prepared = True
