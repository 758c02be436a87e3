"""What administrators do: remove, plan, collect."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachd.errors import Cancelled, InUse, LeaseUnknown, ModelUnknown

if TYPE_CHECKING:
    from cachd.cache.flight import Flight
    from cachd.cache.parts import Parts
    from cachd.model import Ref
    from cachd.store.store import Store
    from cachd.store.types import SpacePlan, Victim


def check_lease(store: Store, key: str, lease_id: str) -> None:
    """Raises LeaseUnknown unless the lease exists and is of that key."""
    lease = store.find_lease(lease_id)
    if lease is None or lease.key != key:
        raise LeaseUnknown(
            "there is no such lease on this model; it may have expired",
            hint="take a new one with POST /v1/models or POST /v1/models/{key}/leases",
        )


async def remove(
    parts: Parts, flights: dict[tuple[Ref, str], Flight], key: str, *, force: bool
) -> int:
    """Bytes freed by removing every revision of ``key``, and its fetch with ``force``."""
    running = [flight for flight in flights.values() if flight.ref.key == key]
    if running and not force:
        raise InUse(
            f"{key} is being fetched",
            hint=f"wait for it; or end the fetch: cachd rm --force {key} (?force=true)",
        )
    for flight in running:
        flight.cancel(Cancelled("an administrator removed the model"))
        await flight.wait_ended()
    known = any(snapshot.key == key for snapshot in parts.store.snapshots())
    if not known and not running:
        raise ModelUnknown(f"there is no model {key} in the cache", hint="`cachd ls` lists them")
    freed = await parts.store.remove(key, force=force)
    parts.events.publish("removed", key=key, freed=freed)
    return freed


def describe_plan(store: Store, result: str, space: SpacePlan, *, see_all: bool) -> dict[str, Any]:
    """The answer of POST /v1/plan. Callers that don't see every model get numbers without names."""
    usage = store.usage()
    victims = [_victim(v) for v in space.victims]
    held = [asdict(h) for h in space.held_by]
    if not see_all:
        victims = [{"bytes": v["bytes"], "reason": v["reason"]} for v in victims]
        held = [{k: v for k, v in h.items() if k not in ("key", "uri")} for h in held]
    return {
        "result": result,
        "fits": space.fits,
        "needed": space.needed,
        "free": usage.free,
        "quota": usage.quota,
        "free_floor": usage.free_floor,
        "allocated": usage.allocated,
        "reserved": usage.reserved,
        "evict": victims,
        "shortfall": space.shortfall,
        "held_by": held,
    }


async def collect(parts: Parts, *, dry_run: bool, target: int | None) -> dict[str, Any]:
    """The answer of POST /v1/gc. ``target``: bytes to get down to; None: the low watermark."""
    report = await parts.store.collect(dry_run=dry_run, target=target)
    if not dry_run:
        for victim in report.evicted:
            parts.events.publish("evicted", key=victim.key, reason=victim.reason)
    return {
        "evicted": [_victim(v) for v in report.evicted],
        "freed": report.freed,
        "dry_run": dry_run,
    }


def _victim(victim: Victim) -> dict[str, Any]:
    return {
        "key": victim.key,
        "revision": victim.revision,
        "uri": victim.uri,
        "bytes": victim.bytes,
        "last_used": victim.last_used,
        "reason": victim.reason,
    }
