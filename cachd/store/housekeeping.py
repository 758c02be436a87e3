"""Letting go on purpose: what a person asks for, and what is only old."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.errors import InUse
from cachd.store import eviction, namespaces
from cachd.store.health import REASONS
from cachd.store.types import GcReport, Usage
from cachd.store.units import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.store.index import Index
    from cachd.store.rows import Row
    from cachd.store.startup import Opened

_WAYS_OUT = {
    "pin": "unpin it: cachd unpin {key}",
    "view": "wait until the pods that have it are gone (GET /v1/views names them)",
    "lease": "have its leases released (cachd show {key} tells whose they are)",
    "reader": "wait until nobody reads it",
    "ingest": "wait for its fetch",
}


async def collect(opened: Opened, *, dry_run: bool, target: int | None) -> GcReport:
    """See ``Store.collect``."""
    context, index, room = opened.context, opened.context.index, opened.room
    now = context.clock.monotonic()
    old = eviction.superseded(index, now)
    partial = eviction.expired(index, now - context.settings.partial_ttl)
    limit = room.watermarks()[1] if target is None else target
    rest = eviction.down_to(index, limit, without=[*old, *partial])
    victims = (
        *eviction.price(index, old, "superseded"),
        *eviction.price(index, partial, "expired"),
        *rest.rows,
    )
    report = GcReport(
        evicted=tuple(eviction.to_victim(*item) for item in victims),
        freed=index.marginal(row for row, _, _ in victims)[0],
        dry_run=dry_run,
    )
    if victims and not dry_run:
        await room.evict(victims)
    return report


async def remove(opened: Opened, key: str, rows: list[Row], *, force: bool) -> int:
    """See ``Store.remove``; ``rows`` are all of the key."""
    index = opened.context.index
    reasons = [reason for reason in _WAYS_OUT if any(_holds(index, row, reason) for row in rows)]
    if reasons and not force:
        ways = "; ".join(_WAYS_OUT[reason].format(key=key) for reason in reasons)
        raise InUse(
            f"{key} is in use: {', '.join(reasons)}",
            hint=f"{ways}; or remove it all the same: cachd rm --force {key} (?force=true)",
            held_by=reasons,
        )
    rows = [row for row in rows if not row.is_active]
    victims = eviction.price(index, rows, "requested")
    freed = index.marginal(rows)[0]
    await opened.room.evict(tuple((row, "requested", size) for row, _, size in victims))
    for row in rows:
        await opened.leases.break_all(row)
    return freed


def _holds(index: Index, row: Row, reason: str) -> bool:
    """A row may be held in several ways at once; all of them are worth knowing."""
    return {
        "view": bool(row.views),
        "lease": bool(row.leases),
        "pin": row.key in index.pins and index.is_wanted(row),
        "reader": bool(row.readers),
        "ingest": row.is_active,
    }[reason]


async def tidy(opened: Opened) -> None:
    """Let go of old revisions and of ingests that nobody came back for; try again to unlink what
    couldn't be."""
    context, index = opened.context, opened.context.index
    now = context.clock.monotonic()
    opened.trash.retry()
    await opened.updates.tidy(key for key, _ in index.snapshots)
    await opened.quarantine.trim()
    await opened.views.sweep()
    old = eviction.superseded(index, now - context.settings.min_idle)
    partial = eviction.expired(index, now - context.settings.partial_ttl)
    victims = eviction.price(index, [*old, *partial], "expired")
    if victims:
        await opened.room.evict(victims)


def usage(opened: Opened) -> Usage:
    """See ``Store.usage``."""
    context, index = opened.context, opened.context.index
    limits, (high, low) = opened.room.limits(), opened.room.watermarks()
    pinned = [r for key in index.pins for r in index.revisions(key) if index.is_wanted(r)]
    return Usage(
        quota=limits.quota,
        allocated=index.allocated,
        reserved=index.reserved,
        free=context.volume.free,
        volume_size=context.volume.size,
        free_floor=limits.floor,
        high_watermark=high,
        low_watermark=low,
        snapshots=len(index.snapshots),
        ingests=sum(row.allocated for row in index.ingests.values()),
        trash=index.marginal(index.trash)[0],
        inodes=index.inodes,
        inodes_free=context.volume.inodes_free,
        pinned=sum(row.allocated for row in pinned),
        leased=sum(row.allocated for row in index.snapshots.values() if row.leases or row.views),
        corrupt=sum(1 for row in index.snapshots.values() if row.damage),
        scrub_pass=opened.checks.progress.pass_ended,
        degraded=tuple(degraded(opened)),
        views=opened.views.count(),
        view_bytes=index.marginal(index.views)[0],
        pod_leases=opened.leases.pod_count(),
        namespaces=namespaces.usage(index, context.settings.namespace_quotas, context.volume.size),
    )


def tell(opened: Opened) -> None:
    """Set the gauge of what is wrong now."""
    found = set(opened.context.health.faults())
    limits = opened.room.limits()
    if limits.free < limits.floor or limits.free_inodes < limits.inode_floor:
        found.add("below_floor")
    if opened.room.is_paused:
        found.add("eviction_paused")
    if any(row.is_stuck for row in opened.context.index.trash):
        found.add("trash_stuck")
    for reason in REASONS:
        opened.context.metrics.degraded(reason, reason in found)


def degraded(opened: Opened) -> Iterator[str]:
    """What an operator should know, in sentences."""
    yield from opened.context.health.faults().values()
    yield from opened.context.capabilities.lacks()
    yield from opened.room.complaints()
    if opened.views.complaint:
        yield opened.views.complaint
    corrupt = sum(1 for row in opened.context.index.snapshots.values() if row.damage)
    if corrupt:
        yield f"{corrupt} snapshots are corrupt and given to nobody: cachd verify --all says where"
    stuck = sum(row.allocated for row in opened.context.index.trash if row.is_stuck)
    if stuck:
        yield f"{show_size(stuck)} in the trash can't be unlinked; see the log"
