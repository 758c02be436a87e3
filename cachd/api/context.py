"""What a handler can reach: the application's parts, and the facts of its request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cachd import logs

if TYPE_CHECKING:
    from cachd.api.drain import Drain
    from cachd.api.identity import Identify
    from cachd.api.protocol import CacheApi
    from cachd.cache.types import Answer, Caller
    from cachd.metrics import Metrics
    from cachd.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """``identify`` None: a listener without callers (health)."""

    cache: CacheApi
    settings: Settings
    metrics: Metrics
    drain: Drain
    identify: Identify | None
    document: bytes


@dataclass(slots=True, kw_only=True)
class Facts:
    """What is known of one request; ``log`` goes into its summary line."""

    request_id: str
    caller: Caller | None = None
    endpoint: str = "unmatched"
    is_prepared: bool = False
    log: dict[str, Any] = field(default_factory=dict)


FACTS = web.RequestKey("cachd.facts", Facts)
PARTS = web.AppKey("cachd.parts", Parts)


def parts(request: web.Request) -> Parts:
    return request.app[PARTS]


def cache(request: web.Request) -> CacheApi:
    return request.app[PARTS].cache


def set_facts(request: web.Request, facts: Facts) -> None:
    request[FACTS] = facts


def facts(request: web.Request) -> Facts:
    return request[FACTS]


def has_facts(request: web.Request) -> bool:
    return FACTS in request


def caller(request: web.Request) -> Caller:
    found = facts(request).caller
    assert found is not None, "a route with callers on a listener without"
    return found


def note_key(request: web.Request, key: str) -> None:
    """Log lines of this request carry the key from now on."""
    logs.key.set(key)
    facts(request).log["key"] = key


def note_answer(request: web.Request, answer: Answer) -> None:
    """The summary line tells the result and the time of each phase."""
    note_key(request, answer.key)
    facts(request).log.update(
        result=answer.result,
        bytes=answer.bytes,
        fetched_bytes=answer.fetched_bytes,
        shared_flight=answer.is_shared_flight,
        phases=answer.timings,
    )


def note_sent(request: web.Request, status: int, count: int) -> None:
    """The whole body is out: a caller that goes away from now on has had its answer."""
    facts(request).log.update(sent=count, status=status)
