"""The store's and the flights' state in the words of the cache's callers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cachd.cache.types import Lease, ModelInfo, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachd.cache.flight import Flight
    from cachd.cache.parts import Parts
    from cachd.store.store import Store
    from cachd.store.types import StoredLease, StoredSnapshot, StoredView


def to_lease(stored: StoredLease) -> Lease:
    return Lease(
        id=stored.id,
        key=stored.key,
        revision=stored.revision,
        holder=stored.holder,
        ttl=stored.ttl,
        expires_in=stored.expires_in,
        pod=stored.pod,
    )


def to_view(stored: StoredView, pod_name: str = "") -> View:
    return View(
        pod=stored.pod,
        name=stored.name,
        key=stored.ref.key,
        uri=stored.ref.uri,
        revision=stored.revision,
        mode=stored.mode,
        path=str(stored.path),
        device=stored.device,
        inode=stored.inode,
        files=stored.files,
        bytes=stored.bytes,
        is_writable=stored.is_writable,
        expires_in=stored.expires_in,
        notes=stored.notes,
        pod_name=pod_name,
        is_new=stored.is_new,
    )


def usage(store: Store) -> dict[str, Any]:
    """The store's numbers: bytes and counts."""
    return {
        **asdict(store.usage()),
        "models": len({snapshot.key for snapshot in store.snapshots()}),
        "leases": store.lease_count(),
        "pins": len(store.pins()),
        "updates": len(store.updates.waiting()),
    }


def uris(store: Store, flights: Iterable[Flight]) -> tuple[list[str], list[str]]:
    """Of what may be given now, and of what is being fetched."""
    ready = [s.ref.uri for s in store.snapshots() if s.is_current and not s.damage]
    return ready, [flight.ref.uri for flight in flights]


def models(
    parts: Parts,
    flights: Iterable[Flight],
    may_see: Callable[[StoredSnapshot], bool],
    may_follow: Callable[[Flight], bool],
) -> list[ModelInfo]:
    """One row per key: what is current, else what is being fetched; newest use first."""
    revisions: dict[str, list[StoredSnapshot]] = {}
    for snapshot in parts.store.snapshots():
        if may_see(snapshot):
            revisions.setdefault(snapshot.key, []).append(snapshot)
    fetching = {flight.ref.key: flight for flight in flights if may_follow(flight)}
    rows = [
        ready_row(parts, snapshots[0], snapshots, fetching.pop(key, None))
        for key, snapshots in revisions.items()
    ]
    rows.sort(key=lambda row: row.last_used or 0.0, reverse=True)
    return [fetching_row(flight) for flight in fetching.values()] + rows


def ready_row(
    parts: Parts, shown: StoredSnapshot, snapshots: list[StoredSnapshot], flight: Flight | None
) -> ModelInfo:
    """The row of a key as of ``shown``. ``snapshots``: those of its revisions that may be told of;
    ``flight``: what is being fetched beside them."""
    key, info, store = shown.key, shown.info, parts.store
    return ModelInfo(
        key=key,
        ref=info.ref,
        state="ready",
        revision=shown.revision,
        revisions=tuple(s.revision for s in snapshots),
        files=info.files,
        bytes=info.bytes,
        allocated=sum(s.allocated for s in snapshots),
        last_used=max(s.last_used for s in snapshots),
        is_pinned=store.is_pinned(key),
        is_credentialed=info.is_credentialed,
        is_validated=info.is_validated,
        leases=store.lease_count(key),
        is_corrupt=bool(shown.damage),
        progress=flight.progress() if flight else None,
        namespace=info.namespace,
        update=parts.updates.of(shown.ref),
    )


def fetching_row(flight: Flight) -> ModelInfo:
    """The row of a key that has no revision yet."""
    return ModelInfo(
        key=flight.ref.key,
        ref=flight.ref,
        state="fetching",
        revision=None,
        files=len(flight.plan.files),
        bytes=flight.plan.size,
        allocated=0,
        last_used=None,
        is_pinned=False,
        is_credentialed=flight.plan.is_credentialed,
        is_validated=flight.plan.is_validated,
        leases=0,
        progress=flight.progress(),
        namespace=flight.plan.namespace,
    )
