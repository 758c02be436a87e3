"""From an ask to a ref, and from a ref to what it means now for one principal."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.errors import AccessError
from cachd.model import make_ref
from cachd.sources.base import SourceRequest

if TYPE_CHECKING:
    from cachd.cache.access import Principal
    from cachd.cache.parts import Parts
    from cachd.cache.types import Ask
    from cachd.model import Plan, Ref, SourceOptions
    from cachd.sources.base import Location
    from cachd.sources.resolver import Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An ask that was understood: its ref, where it leads, and whose pass it uses."""

    ask: Ask
    ref: Ref
    location: Location
    principal: Principal

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
    trust = _trust_suffix(location.origin, location.options)
    ref = make_ref(
        uri=location.uri,
        origin=location.origin + trust,
        is_default_origin=location.is_default_origin and not trust,
        allow=ask.allow,
        ignore=ask.ignore,
    )
    return ref, location


def _trust_suffix(origin: str, options: SourceOptions) -> str:
    """Bytes fetched with less or other trust than the daemon's are another origin's bytes.

    Otherwise one caller that switches TLS verification off, or brings an authority of its own,
    would decide what its neighbours get. Where there is no TLS there is nothing to trust.
    """
    if origin.rpartition("+")[2].startswith("http://"):
        return ""
    if options.verify is False:
        return "#unverified"
    if options.ca_pem:
        return "#ca=" + hashlib.sha256(options.ca_pem.strip().encode()).hexdigest()[:16]
    return ""


async def resolve(asked: Asked, parts: Parts) -> Plan:
    """What the ref means now, seen with the principal's pass; proves that it may *read* it.

    Listing is not reading: content that needed credentials is probed as well.
    Raises AccessError, NotFound, OriginError.
    """
    started = time.monotonic()
    try:
        plan = await parts.resolver.resolve(asked.request)
        parts.metrics.phase("resolve", time.monotonic() - started)
        proven = parts.proofs.holds(asked.principal, asked.ref, plan.revision)
        if plan.is_credentialed and plan.files and not proven:
            probed = time.monotonic()
            await parts.resolver.probe(asked.request, plan.files[0].path)
            parts.metrics.phase("probe", time.monotonic() - probed)
            parts.metrics.probe("allowed")
    except AccessError:
        parts.metrics.probe("denied")
        parts.proofs.revoke_fingerprint(asked.principal.fingerprint, asked.ref)
        raise
    parts.proofs.record(asked.principal, asked.ref, plan.revision)
    parts.freshness.record(asked.ref, plan.revision)
    return replace(plan, identity=asked.principal.identity)
