"""What a ref means where its origin can't tell: another cachd's current revision.

The administrator vouches for an upstream as for a mirror. Of what needed credentials nobody can
prove a pass there, so that it is left alone unless the node gives hits to everybody.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cachd.cache.mirrors import places
from cachd.cache.naming import lead, name
from cachd.cache.nearby import body_for, planned_at
from cachd.cache.resolve import resolve
from cachd.errors import (
    AccessError,
    CachdError,
    Forbidden,
    NotFound,
    OriginError,
    OriginUnreachable,
    UpstreamLoop,
)
from cachd.fetch.breaker import verdict_of
from cachd.fetch.upstream import DAEMON_ID
from cachd.model import Plan

if TYPE_CHECKING:
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Ask
    from cachd.fetch.upstream import Held
    from cachd.model import PlannedFile

log = logging.getLogger("cachd.cache")

HOPS_MOST = 4
"""Daemons that an ask may have come through: node, zone, region, and one to spare."""

_FAILURES = (OriginError, AccessError, NotFound)


def check_hops(ask: Ask) -> None:
    """Raises UpstreamLoop for an ask that has been here, or that came a long way."""
    if DAEMON_ID in ask.via or len(ask.via) >= HOPS_MOST:
        raise UpstreamLoop(
            f"the ask came through {len(ask.via)} daemons and would go in a circle",
            hint="see upstream.endpoints of each: no daemon needs its own downstream",
        )


def has_places(asked: Asked, parts: Parts) -> bool:
    """Whether there is anybody left to ask."""
    return bool(_origins(asked, parts) or _upstreams(asked, parts))


async def resolve_anywhere(asked: Asked, parts: Parts, patience: float) -> Plan:
    """What the ref means now, as its origin, a mirror or else an upstream says; see ``resolve``."""
    error: CachdError | None = None
    # Another cachd's current revision may be of what the registry named before.
    others = [] if asked.led else _upstreams(asked, parts)
    if _origins(asked, parts):
        try:
            return await resolve(asked, parts, 0.0 if others else patience)
        except OriginError as failure:
            if verdict_of(failure) not in ("busy", "bad") or not others:
                raise
            error = failure
    for place in others:
        try:
            plan = await _plan_at(place, asked, parts)
        except _FAILURES as failure:
            log.warning("%s: %s: %s", asked.ref.key, place, failure.message)
            error = error or failure
            continue
        if plan is not None:
            parts.freshness.record(asked.ref, plan.revision)
            return plan
    raise error or OriginUnreachable(
        f"no upstream holds {asked.ref.uri}, and this node has no way to its origin",
        hint="have it fetched there, or set upstream.fetch",
    )


async def plan_unseen(asked: Asked, parts: Parts, patience: float) -> Plan:
    """``resolve_anywhere`` for an ask of the daemon's own, which no rule concerns."""
    if asked.location.registries:
        check_way(asked, parts)
        asked = lead(asked, await name(asked, parts, patience), parts)
    return await resolve_anywhere(asked, parts, patience)


def check_way(asked: Asked, parts: Parts) -> None:
    """Raises OriginUnreachable where registries can't be asked: an upstream's word for what they
    name would be judged by no rule of this node."""
    if not parts.upstreams.has_way_to_origins:
        raise OriginUnreachable(
            f"{asked.ref.uri} is a registry's name, and this node has no way to registries",
            hint="ask for the artifact's own URI, or let the node call out (upstream.only)",
        )


def _origins(asked: Asked, parts: Parts) -> bool:
    return parts.upstreams.has_way_to_origins and bool(places(asked, parts.settings.sources))


def _upstreams(asked: Asked, parts: Parts) -> list[str]:
    upstreams = parts.upstreams
    return [p for p in upstreams.places if p not in asked.avoid and upstreams.is_called(p)]


async def _plan_at(place: str, asked: Asked, parts: Parts) -> Plan | None:
    """What the upstream has now, by its own word. Raises Forbidden, what the upstream says."""
    upstreams = parts.upstreams
    held = None
    if upstreams.has_way_to_origins:
        held = await upstreams.look(place, asked.ref, None)
    if held is None and upstreams.may_fetch and not asked.principal.credentials.query:
        body = body_for(asked.ref, parts)
        if body is not None:
            try:
                await upstreams.have_fetched(place, body, asked.ask.via, lambda count: None)
            except _FAILURES as failure:
                log.warning("%s: %s: %s", asked.ref.key, place, failure.message)
    held = held or await upstreams.look(place, asked.ref, None)
    if held is None:
        return None
    is_open = asked.has_open_hits or parts.settings.access.open_hits
    if held.is_credentialed and not is_open:
        raise Forbidden(
            f"{asked.ref.uri} needed credentials, and without its origin nobody can check yours",
            hint="set access.open_hits if every caller of this node may have it",
        )
    return await _plan_of(held, place, asked, parts)


async def _plan_of(held: Held, place: str, asked: Asked, parts: Parts) -> Plan:
    upstreams, ref = parts.upstreams, asked.ref
    auth, connect = await upstreams.pass_to(place)

    def plan_files() -> tuple[PlannedFile, ...]:
        def url(path: str) -> str:
            return upstreams.url_of(place, ref, held.revision, path)

        return tuple(planned_at(file, url) for file in held.files.values())

    return Plan(
        revision=held.revision,
        files=await asyncio.to_thread(plan_files),
        auth=auth,
        connect=connect,
        is_immutable=held.is_immutable,
        is_validated=held.is_validated,
        is_credentialed=held.is_credentialed,
        is_read_proven=True,
        identity=asked.principal.identity,
        mirror=place,
        metadata=held.metadata,
    )
