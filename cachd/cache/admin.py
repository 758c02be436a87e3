"""What administrators do: remove, plan, collect."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachd.errors import CachdError, Cancelled, InUse, LeaseUnknown, ModelUnknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.cache.asking import Asking
    from cachd.cache.flight import Flight
    from cachd.cache.parts import Parts
    from cachd.cache.types import Caller
    from cachd.model import Ref
    from cachd.store.store import Store
    from cachd.store.types import SpacePlan, Victim


@contextmanager
def without_pods(caller: Caller) -> Iterator[None]:
    """Errors for a pod don't name the pods that hold the space: who knows a pod's uid may speak for
    it, where no proof is wanted."""
    try:
        yield
    except CachdError as error:
        held = error.detail.get("held_by")
        if caller.role == "admin" or not any(isinstance(each, dict) for each in held or ()):
            raise
        told = CachdError.from_wire(error.to_wire())
        told.detail["held_by"] = [
            {name: value for name, value in each.items() if name != "views"} for each in held or ()
        ]
        raise told from None


def check_lease(store: Store, key: str, lease_id: str) -> None:
    """Raises LeaseUnknown unless the lease exists and is of that key."""
    lease = store.find_lease(lease_id)
    if lease is None or lease.key != key:
        raise LeaseUnknown(
            "there is no such lease on this model; it may have expired",
            hint="take a new one with POST /v1/models or POST /v1/models/{key}/leases",
        )


async def pin(parts: Parts, key: str) -> None:
    """Raises ModelUnknown."""
    await parts.store.pin(key)
    parts.events.publish("pinned", key=key)


async def unpin(parts: Parts, key: str) -> None:
    """Raises ModelUnknown."""
    await parts.store.unpin(key)
    parts.events.publish("unpinned", key=key)


async def promote(
    parts: Parts, asking: Asking, key: str, revision: str | None, caller: Caller
) -> dict[str, str]:
    """The answer of POST /v1/models/{key}/promote. What isn't here yet is approved, and its fetch
    is begun where that needs no caller's pass."""
    target, previous, state = await parts.updates.promote(key, revision, caller.describe())
    current = parts.store.get(key)
    if state == "approved" and current is not None and not parts.settings.offline:
        await asking.refresher.look(current)
        now = parts.store.get(key)
        if (current.ref, target) in asking.flights:
            state = "fetching"
        elif now is not None and now.revision == target:
            state = "promoted"
        elif not parts.updates.is_approved(current.ref, target):
            raise ModelUnknown(
                f"the source of {key} has another revision than {target} by now",
                hint=f"see what it has: cachd show {key}",
                revision=target,
            )
    return {"key": key, "revision": target, "previous": previous, "state": state}


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


def describe_plan(
    store: Store, result: str, space: SpacePlan, *, see_all: bool, caller: Caller
) -> dict[str, Any]:
    """The answer of POST /v1/plan. Callers that don't see every model get numbers without names,
    and none but administrators are told of pods."""
    usage = store.usage()
    victims = [_victim(v) for v in space.victims]
    held = [asdict(h) for h in space.held_by]
    if caller.role != "admin":
        held = [{k: v for k, v in h.items() if k != "views"} for h in held]
    if not see_all:
        victims = [{"bytes": v["bytes"], "reason": v["reason"]} for v in victims]
        held = [{k: v for k, v in h.items() if k != "key"} for h in held]
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
