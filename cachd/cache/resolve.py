"""From an ask to a ref, and from a ref to what it means now for one principal."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.cache.mirrors import places, server_of
from cachd.cache.naming import name_plan
from cachd.cache.types import Ask
from cachd.credentials import SourceOptions
from cachd.errors import AccessError, CachdError, OriginError
from cachd.fetch.breaker import verdict_of
from cachd.model import make_ref
from cachd.schemes import REGISTRIES, scheme_of
from cachd.sources.base import SourceRequest
from cachd.sources.endpoints import endpoint_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachd.cache.access import Principal
    from cachd.cache.naming import Led
    from cachd.cache.parts import Parts
    from cachd.cache.types import Caller
    from cachd.model import Plan, PlannedFile, Ref
    from cachd.sources.base import Location
    from cachd.sources.resolver import Resolver

log = logging.getLogger("cachd.cache")

_PROBES = 8
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An ask that was understood: its ref, where it leads, and whose pass it uses. ``avoid``: the
    endpoints that failed it already, "" for the origin's own. ``caller``: None for the daemon's own
    asks, which no rule concerns. ``is_own_pod``: the caller is proven to be the pod that is named.
    ``lending``: how far the daemon's identity serves the caller at registries and what they name;
    ``led``: what a registry's name led to, and then ``location`` and ``principal`` are that's.
    """

    ask: Ask
    ref: Ref
    location: Location
    principal: Principal
    avoid: frozenset[str] = frozenset()
    caller: Caller | None = None
    has_open_hits: bool = False
    is_own_pod: bool = False
    lending: str = ""
    led: Led | None = None

    @property
    def server(self) -> str:
        return server_of(self.led.named if self.led else self.ref, self.location.mirror)

    @property
    def prover(self) -> Principal:
        """Whose asks what is proven of the ref is good for."""
        return self.led.whole if self.led else self.principal

    @property
    def request(self) -> SourceRequest:
        return SourceRequest(
            location=self.location,
            allow=self.ref.allow,
            ignore=self.ref.ignore,
            identity=self.principal.identity,
            credentials=self.principal.credentials,
        )


def locate(ask: Ask, resolver: Resolver) -> tuple[Ref, Location]:
    """The ref that ``ask`` names. Raises UriInvalid, SchemeUnknown, PatternInvalid."""
    location = resolver.locate(ask.uri, ask.options)
    trust = _trust_suffix(location)
    ref = make_ref(
        uri=location.uri,
        origin=location.origin + trust,
        is_default_origin=location.is_default_origin and not trust,
        allow=ask.allow,
        ignore=ask.ignore,
    )
    return ref, location


def unseen(ask: Ask, ref: Ref, location: Location, principal: Principal) -> Asked:
    """An ask of the daemon's own."""
    lending = "daemon" if principal.identity == "daemon" else ""
    if lending and location.registries:
        # Who writes into a registry says where it leads.
        lending = "lent"
    return Asked(ask=ask, ref=ref, location=location, principal=principal, lending=lending)


def ask_for(ref: Ref, resolver: Resolver) -> Ask | None:
    """The ask that means just this ref; None where nothing but its caller's options would."""
    endpoint = SourceOptions(endpoint=endpoint_of(ref.origin))
    registry = SourceOptions(registry=ref.origin.partition("+")[2].partition(";")[0])
    for options in (
        (SourceOptions(), registry)
        if scheme_of(ref.uri) in REGISTRIES
        else (SourceOptions(), endpoint, replace(endpoint, addressing="virtual"))
    ):
        ask = Ask(uri=ref.uri, allow=ref.allow, ignore=ref.ignore, options=options)
        try:
            found, _ = locate(ask, resolver)
        except CachdError:
            continue
        if found == ref:
            return ask
    return None


def _trust_suffix(location: Location) -> str:
    """Bytes fetched with less or other trust than the daemon's are another origin's bytes.

    Otherwise one caller that switches TLS verification off, or brings an authority of its own,
    would decide what its neighbours get. Where there is no TLS there is nothing to trust; where a
    registry names the source, nobody knows yet whether there is.
    """
    options = location.options
    if location.registries:
        said = (options.verify, options.ca_pem, options.registry_verify, options.registry_ca_pem)
        if said == (None, None, None, None):
            return ""
        return "#trust=" + hashlib.sha256(repr(said).encode()).hexdigest()[:16]
    if location.origin.rpartition("+")[2].startswith("http://"):
        return ""
    if options.verify is False:
        return "#unverified"
    if options.ca_pem:
        return "#ca=" + hashlib.sha256(options.ca_pem.strip().encode()).hexdigest()[:16]
    return ""


async def resolve(asked: Asked, parts: Parts, patience: float) -> Plan:
    """What the ref means now: as its origin says, or the first of its mirrors if that is down.

    Raises what the origin said, if none of them can tell; see ``resolve_at``.
    """
    everywhere = places(asked, parts.settings.sources)
    first: OriginError | None = None
    for place in everywhere:
        try:
            return await resolve_at(place, parts, 0.0 if place is not everywhere[-1] else patience)
        except OriginError as error:
            if verdict_of(error) not in ("busy", "bad"):
                raise
            first = first or error
            if len(everywhere) > 1:
                log.warning("%s: %s: %s", asked.ref.key, place.server, error.message)
    assert first is not None
    raise first


async def resolve_at(asked: Asked, parts: Parts, patience: float) -> Plan:
    """What the ref means now, seen with the principal's pass; proves that it may *read* it.

    Listing is not reading, so that some files are probed as well, whoever asks. An origin that is
    left alone is waited for, ``patience`` seconds at most. Raises AccessError, NotFound,
    OriginError.
    """
    started = time.monotonic()
    call = parts.mover.gates.call
    try:
        seen = await call(asked.server, patience, lambda: _list(asked, parts))
        plan = replace(_of_principal(seen, asked), mirror=asked.location.mirror)
        plan = name_plan(plan, asked)
        parts.metrics.phase("resolve", time.monotonic() - started)
        if not plan.is_read_proven and not parts.proofs.holds(
            asked.prover, asked.ref, plan.revision
        ):
            await call(asked.server, patience, lambda: _probe(asked, plan, parts))
    except AccessError:
        parts.metrics.probe("denied")
        parts.proofs.revoke_fingerprint(asked.prover.fingerprint, asked.ref)
        raise
    parts.proofs.record(asked.prover, asked.ref, plan.revision)
    parts.freshness.record(asked.ref, plan.revision)
    return plan


async def prove(asked: Asked, parts: Parts) -> None:
    """See that the ask's principal may read what its source has there, whatever that is by now.
    Raises AccessError, NotFound, OriginError."""
    call, patience = parts.mover.gates.call, parts.settings.fetch.origin_patience
    plan = await call(asked.server, patience, lambda: _list(asked, parts))
    if not plan.is_read_proven:
        await call(asked.server, patience, lambda: _probe(asked, plan, parts))


async def _list(asked: Asked, parts: Parts) -> Plan:
    caller = asked.caller
    whose = (caller.uid, caller.namespace, caller.pod_uid) if caller is not None else None
    async with parts.listings.taken(whose):
        return await parts.resolver.resolve(asked.request)


def _of_principal(plan: Plan, asked: Asked) -> Plan:
    """The plan with whose pass saw it."""
    revision = revision_for(plan, asked.prover.fingerprint)
    return replace(plan, revision=revision, identity=asked.principal.identity)


def revision_for(plan: Plan, fingerprint: str) -> str:
    """The revision of what the principal of that fingerprint was shown.

    Where a source shows different callers different things and nothing tells their states apart
    (no validator), what one of them was shown is another revision than what others are.
    """
    if plan.is_credentialed and not plan.is_validated:
        mixed = hashlib.sha256(f"{plan.revision} {fingerprint}".encode())
        return mixed.hexdigest()[:32]
    return plan.revision


async def _probe(asked: Asked, plan: Plan, parts: Parts) -> None:
    started = time.monotonic()
    paths = choose_probes(plan.files, _random)
    await asyncio.gather(*(parts.resolver.probe(asked.request, path) for path in paths))
    parts.metrics.phase("probe", time.monotonic() - started)
    parts.metrics.probe("allowed")


def choose_probes(files: Sequence[PlannedFile], chance: random.Random) -> list[str]:
    """The files whose readability stands for all: the largest, one of each top-level directory (at
    most _PROBES in all), and one that nobody can foresee. Pure but for ``chance``.

    A caller that may read these and not others of the same model would be given the others: rights
    that differ within a model are not what stores have, and docs/behaviour.md says so.
    """
    if not files:
        return []
    chosen = {max(files, key=lambda file: file.size or 0).path, chance.choice(files).path}
    tops: set[str] = set()
    for file in files:
        top = file.path.partition("/")[0] if "/" in file.path else ""
        if top not in tops and len(chosen) < _PROBES:
            tops.add(top)
            chosen.add(file.path)
    return sorted(chosen)
