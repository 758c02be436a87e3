"""What operators are told of the whole: numbers, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachd.cache import listing

if TYPE_CHECKING:
    from collections.abc import Collection

    from cachd.cache.flight import Flight
    from cachd.cache.parts import Parts
    from cachd.cache.types import Caller


def usage(parts: Parts, flights: Collection[Flight], caller: Caller | None) -> dict[str, Any]:
    """``caller`` None: for operators."""
    queued = sum(1 for flight in flights if flight.stage == "queued")
    told = listing.usage(parts.store)
    if caller is not None and caller.role != "admin":
        # Who else is on the node, and how much they have, is none of a pod's business.
        own = told["namespaces"].get(caller.namespace)
        told["namespaces"] = {} if own is None else {caller.namespace: own}
    return {
        **told,
        "flights_in_flight": len(flights) - queued,
        "flights_queued": queued,
        "listings_queued": parts.listings.waiting,
        **parts.pods.usage(),
    }


def degraded(parts: Parts) -> list[str]:
    return [*parts.store.degraded(), *parts.policy.complaints(), *parts.pods.complaints()]
