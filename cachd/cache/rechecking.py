"""One more look at a source whose answers don't tell one state of a file from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.cache.mirrors import server_of
from cachd.cache.naming import NamedPlan
from cachd.cache.resolve import revision_for
from cachd.errors import OriginChanged

if TYPE_CHECKING:
    from cachd.cache.participant import Participant
    from cachd.cache.parts import Parts
    from cachd.model import Plan, Ref


async def recheck(parts: Parts, ref: Ref, plan: Plan, user: Participant | None) -> None:
    """Before what was fetched is published: is it what the source shows now? Asked with the pass in
    use, and only for plans that need it. Raises OriginChanged, and what the source says."""
    if not plan.needs_recheck or user is None:
        return
    seen = await parts.mover.gates.call(
        server_of(plan.named or ref, plan.mirror),
        parts.settings.fetch.origin_patience,
        lambda: parts.resolver.resolve(user.request),
    )
    revision = revision_for(seen, user.fingerprint)
    if isinstance(plan, NamedPlan):
        revision = plan.led.revision_of(revision, is_validated=seen.is_validated)
    if revision != plan.revision:
        raise OriginChanged(
            f"{ref.uri} changed at its source while it was fetched",
            hint="ask again: the new state will be fetched",
        )
