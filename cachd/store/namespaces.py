"""Who pays for what, and what a namespace's own quota asks for. Pure.

The namespace whose ask began a fetch pays for the snapshot; hits are free. Of files that several
snapshots share, the oldest snapshot pays, whoever's it is, and when it goes the next one does; a
view pays for what only it has (private copies).
Nobody (None) pays for what the daemon fetched by itself or for administrators. Pods without a
service account's token are one namespace, "".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd import globs
from cachd.errors import NoSpace, TooLarge
from cachd.store import eviction
from cachd.store.types import Holder
from cachd.store.units import show_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from cachd.settings import Share
    from cachd.store.index import Index
    from cachd.store.rows import Row

REASON = "namespace"
MAX_TOLD = 100
"""Namespaces that usage tells of one by one."""
OTHERS = "other"


@dataclass(frozen=True, slots=True)
class OwnRoom:
    """What a namespace's quota says to ``needed`` more bytes. ``rows``: its own that go first, each
    with its reason and the bytes that become free on the disk. ``used``: bytes, promises included;
    ``shortfall``: those that are missing even then."""

    fits: bool
    rows: tuple[tuple[Row, str, int], ...]
    used: int
    shortfall: int


def quota_of(namespace: str | None, quotas: Mapping[str, Share], volume: int) -> int | None:
    """Bytes, by the first pattern that matches; None: no quota of its own."""
    if namespace is None:
        return None
    for pattern, share in quotas.items():
        if globs.matches(pattern, namespace):
            return share.resolve(volume)
    return None


def used_by(index: Index, rows: Iterable[Row]) -> int:
    """Bytes that ``rows`` have to pay for, promises included."""
    total = 0
    for row in rows:
        total += row.allocated + row.reserved
        for inode in row.shared:
            entry = index.table[inode]
            if _payer(entry.rows, ()) is not row:
                total -= entry.bytes
    return total


def spared_by(index: Index, row: Row, gone: Collection[Row] = ()) -> int:
    """Bytes that ``row``'s namespace no longer pays for if it goes after ``gone``: what another of
    its own pays for from then on isn't spared."""
    total = row.allocated + row.reserved
    after = {*gone, row} if row.shared else ()
    for inode in row.shared:
        entry = index.table[inode]
        is_paid = _payer(entry.rows, gone) is row
        heir = _payer(entry.rows, after) if is_paid else None
        if not is_paid or (heir is not None and heir.info.namespace == row.info.namespace):
            total -= entry.bytes
    return total


def _payer(rows: Collection[Row], without: Collection[Row]) -> Row | None:
    living = [row for row in rows if row.state != "trash" and row not in without]
    return min(living, key=_age, default=None)


def _age(row: Row) -> tuple[bool, str, str, str]:
    """Snapshots come first: what links to one, a view or an ingest, is younger."""
    return row.state != "snapshot", row.info.created, row.key or row.place, row.revision


def rows_of(index: Index, namespace: str) -> list[Row]:
    return [row for row in _paid(index) if row.info.namespace == namespace]


def _paid(index: Index) -> Iterator[Row]:
    yield from index.snapshots.values()
    yield from index.ingests.values()
    yield from index.views


def make_room(
    index: Index, namespace: str, quota: int, needed: int, for_row: Row | None = None
) -> OwnRoom:
    """The namespace's own idle rows that go for ``needed`` more bytes: by last use, superseded ones
    first. Those that turn out to be unnecessary are spared, the latest used first."""
    used = used_by(index, rows_of(index, namespace))
    missing = used + needed - quota
    chosen: dict[Row, int] = {}
    for row in eviction.candidates(index) if missing > 0 else ():
        if row.info.namespace == namespace and row is not for_row:
            chosen[row] = spared_by(index, row, chosen)
            missing -= chosen[row]
            if missing <= 0:
                break
    if missing > 0:
        return OwnRoom(False, (), used, missing)
    for row in reversed(list(chosen)):
        if index.replaces(row) in chosen:
            continue
        del chosen[row]
        back = spared_by(index, row, chosen)
        if missing + back > 0:
            chosen[row] = back
        else:
            missing += back
    victims = [row for row in eviction.candidates(index) if row in chosen] if chosen else []
    return OwnRoom(True, eviction.price(index, victims, REASON), used, 0)


def holders(index: Index, namespace: str, for_row: Row | None = None) -> tuple[Holder, ...]:
    """What of the namespace's can't go, largest first."""
    found = [
        Holder(what=what, key=row.key, bytes=row.allocated + row.reserved)
        for row in rows_of(index, namespace)
        if row is not for_row
        and (what := "view" if row.state == "view" else index.is_protected(row))
    ]
    found.sort(key=lambda holder: holder.bytes, reverse=True)
    return tuple(found[: eviction.MAX_HOLDERS])


def refusal(
    index: Index, namespace: str, quota: int, needed: int, room: OwnRoom, row: Row | None
) -> NoSpace:
    """Why it doesn't fit into the namespace's quota."""
    held = holders(index, namespace, row)
    facts: dict[str, Any] = {
        "namespace": namespace,
        "namespace_quota": quota,
        "namespace_used": room.used,
        "needed": needed,
        "shortfall": room.shortfall,
        "held_by": [{"what": h.what, "key": h.key, "bytes": h.bytes} for h in held],
    }
    whose = f"namespace {namespace!r}" if namespace else "callers without a service account"
    own = max(row.planned, row.allocated) if row is not None else 0
    if own + needed > quota:
        return TooLarge(
            f"the model needs {show_size(own + needed)}, and {whose} may hold no more than "
            f"{show_size(quota)} on this node",
            hint="an operator can raise store.namespace_quotas; or leave files out with an ignore "
            "pattern",
            **facts,
        )
    return NoSpace(
        f"no room for {show_size(needed)}: {whose} has {show_size(room.used)} of its "
        f"{show_size(quota)} on this node, and the rest of that is leased, pinned or being fetched",
        hint="let pods of the namespace end, release leases or pins, or have "
        "store.namespace_quotas raised",
        **facts,
    )


def usage(index: Index, quotas: Mapping[str, Share], volume: int) -> dict[str, dict[str, int]]:
    """Bytes and quota of the namespaces that have one, the largest first; the smallest together
    where there are many."""
    if not quotas:
        return {}
    by_name: dict[str, list[Row]] = {}
    for row in _paid(index):
        if row.info.namespace is not None:
            by_name.setdefault(row.info.namespace, []).append(row)
    found = []
    for name, rows in by_name.items():
        quota = quota_of(name, quotas, volume)
        if quota is not None:
            found.append((used_by(index, rows), name, quota))
    found.sort(reverse=True)
    told = {name: {"bytes": used, "quota": quota} for used, name, quota in found[:MAX_TOLD]}
    if rest := found[MAX_TOLD:]:
        told[OTHERS] = {
            "bytes": sum(used for used, _, _ in rest),
            "quota": sum(quota for _, _, quota in rest),
        }
    return told
