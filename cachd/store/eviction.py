"""Who goes. Pure: it reads the index, and says what it would do.

Least recently used first; revisions that are no longer current before current ones. Never what is
leased, pinned, read or being written. A victim counts for the bytes that really become free with
it: blocks that it shares with a survivor free nothing. Of the victims found so, those that turn out
to be unnecessary are spared again, the latest used first: one big cold model rather than it and
three small ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachd.store.tally import Tally
from cachd.store.types import Holder, SpacePlan, Victim

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cachd.store.index import Index
    from cachd.store.rows import Row

MAX_HOLDERS = 50
_SMALLEST_COPY = 1024 * 1024
"""Bytes of a pod's views that are worth telling of: less are but their directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes and inodes. ``quota``: most that may be charged. ``free`` and ``free_inodes``: what the
    volume has now; ``floor`` and ``inode_floor``: what must stay free. ``volume_size``: the whole.

    ``may_evict_for_volume`` is False after evictions freed nothing there.
    """

    quota: int
    volume_size: int
    free: int
    floor: int
    free_inodes: int
    inode_floor: int
    has_inodes: bool = True
    may_evict_for_volume: bool = True

    @property
    def ceiling(self) -> int:
        """The most that one model could ever be given."""
        return max(0, min(self.quota, self.volume_size - self.floor))


@dataclass(frozen=True, slots=True)
class Shortage:
    """What is missing, once everything in the trash is gone; 0 or less: nothing."""

    quota: int
    volume: int
    inodes: int

    def is_met(self, size: int, inodes: int) -> bool:
        return self.quota <= size and self.volume <= size and self.inodes <= inodes

    @property
    def is_volume_short(self) -> bool:
        return self.volume > 0 or self.inodes > 0

    @property
    def bytes(self) -> int:
        return max(0, self.quota, self.volume)


@dataclass(frozen=True, slots=True)
class Decision:
    """``rows`` are the victims, in the order in which they go, each with its reason and bytes."""

    fits: bool
    rows: tuple[tuple[Row, str, int], ...]
    shortage: Shortage
    shortfall: int
    is_waiting: bool
    """Whether it fits only once the trash is gone."""


def shortage(index: Index, limits: Limits, needed: int = 0, inodes: int = 0) -> Shortage:
    """What is missing for ``needed`` more bytes and ``inodes``, beyond what is promised already."""
    going, going_inodes = index.marginal(_going(index))
    return Shortage(
        quota=index.charged - going + needed - limits.quota,
        volume=index.reserved + needed + limits.floor - limits.free - going,
        inodes=(
            index.reserved_inodes + inodes + limits.inode_floor - limits.free_inodes - going_inodes
            if limits.has_inodes
            else 0
        ),
    )


def make_room(
    index: Index, limits: Limits, *, needed: int = 0, inodes: int = 0, for_row: Row | None = None
) -> Decision:
    """The victims for ``needed`` more bytes: any idle row may go at once, for somebody waits."""
    short = shortage(index, limits, needed, inodes)
    if short.is_met(0, 0):
        now = _without_trash(index, limits, needed, inodes)
        return Decision(True, (), short, 0, not now.is_met(0, 0))
    if short.is_volume_short and not limits.may_evict_for_volume:
        return Decision(False, (), short, max(0, short.volume, short.quota), False)
    reason = "volume" if short.quota <= 0 else "quota"
    rows = [row for row in candidates(index) if row is not for_row]
    return _choose(index, rows, short, reason)


def _without_trash(index: Index, limits: Limits, needed: int, inodes: int) -> Shortage:
    return Shortage(
        quota=index.charged + needed - limits.quota,
        volume=index.reserved + needed + limits.floor - limits.free,
        inodes=(
            index.reserved_inodes + inodes + limits.inode_floor - limits.free_inodes
            if limits.has_inodes
            else 0
        ),
    )


def in_background(
    index: Index, limits: Limits, *, high: int, low: int, idle_since: float
) -> Decision:
    """The victims of a background round: none that was used after ``idle_since`` (monotonic). What
    waits counts as used no later than what it is to take the place of.

    Above ``high`` charged bytes down to ``low``; and as many as the free-space floor needs.
    """
    short = shortage(index, limits)
    over_quota = short.quota + limits.quota - low if short.quota + limits.quota > high else 0
    may_help = limits.may_evict_for_volume
    target = Shortage(
        quota=over_quota,
        volume=short.volume if may_help else 0,
        inodes=short.inodes if may_help else 0,
    )
    if target.is_met(0, 0):
        return Decision(True, (), target, 0, False)
    reason = "watermark" if over_quota > 0 else "volume"
    rows = [row for row in candidates(index) if _oldest(index, row).used_at <= idle_since]
    return _choose(index, rows, target, reason)


def down_to(index: Index, target: int, without: Sequence[Row] = ()) -> Decision:
    """The victims that a person asks for: until at most ``target`` bytes are charged. ``without``
    are going anyway."""
    going, _ = index.marginal([*_going(index), *without])
    short = Shortage(quota=index.charged - going - target, volume=0, inodes=0)
    if short.is_met(0, 0):
        return Decision(True, (), short, 0, False)
    rows = [row for row in candidates(index) if row not in without]
    return _choose(index, rows, short, "requested")


def by_force(index: Index, target: int, without: Row | None) -> tuple[tuple[Row, str, int], ...]:
    """Victims for about ``target`` bytes, for a volume that refuses bytes whatever it says that it
    has; fewer if there are no more."""
    rows = [row for row in candidates(index) if row is not without]
    return _choose(index, rows, Shortage(quota=0, volume=target, inodes=0), "volume").rows


def superseded(index: Index, idle_since: float) -> list[Row]:
    """Revisions that are no longer current and that nobody has used after ``idle_since``."""
    return [
        row
        for row in index.snapshots.values()
        if not index.is_wanted(row) and row.used_at <= idle_since and not index.is_protected(row)
    ]


def expired(index: Index, idle_since: float) -> list[Row]:
    """Ingests without a writer since before ``idle_since``."""
    return [
        row for row in index.ingests.values() if not row.is_active and row.used_at <= idle_since
    ]


def _going(index: Index) -> list[Row]:
    return [row for row in index.trash if not row.is_stuck]


def _tally_of_trash(index: Index) -> Tally:
    """What a victim frees is judged as if all that is in the trash were gone already."""
    tally = Tally(index)
    for row in _going(index):
        tally.add(row)
    return tally


def _oldest(index: Index, row: Row) -> Row:
    """By whose use ``row`` goes: what waits goes no later than what it is to take the place of, or
    it would be given because it alone is left."""
    current = index.replaces(row)
    return row if current is None or row.last_used < current.last_used else current


def candidates(index: Index) -> list[Row]:
    """What may go at all, in the order in which it goes."""
    rows = [
        row
        for place in (index.snapshots, index.ingests)
        for row in place.values()
        if not index.is_protected(row)
    ]

    def turn(row: Row) -> tuple[bool, int, bool]:
        is_last = row.state == "ingest" or index.is_wanted(row)
        return is_last, _oldest(index, row).last_used, row.is_current

    rows.sort(key=turn)
    return rows


def _choose(index: Index, rows: list[Row], short: Shortage, reason: str) -> Decision:
    tally = _tally_of_trash(index)
    base_bytes, base_inodes = tally.bytes, tally.inodes

    def is_met() -> bool:
        return short.is_met(tally.bytes - base_bytes, tally.inodes - base_inodes)

    chosen: list[Row] = []
    for row in rows:
        if is_met():
            break
        tally.add(row)
        chosen.append(row)
    fits = is_met()
    shortfall = max(0, short.bytes - (tally.bytes - base_bytes))
    if fits:
        for row in reversed(list(chosen)):
            if index.replaces(row) in chosen:
                continue
            tally.remove(row)
            if is_met():
                chosen.remove(row)
            else:
                tally.add(row)
    return Decision(fits, price(index, chosen, reason), short, shortfall, False)


def price(index: Index, rows: Iterable[Row], reason: str) -> tuple[tuple[Row, str, int], ...]:
    """``rows`` as victims for ``reason``, each with the bytes that become free with it."""
    tally = _tally_of_trash(index)
    priced = []
    for row in rows:
        before = tally.bytes
        tally.add(row)
        is_old = row.state == "snapshot" and not index.is_wanted(row)
        priced.append((row, "superseded" if is_old else reason, tally.bytes - before))
    return tuple(priced)


def to_victim(row: Row, reason: str, size: int) -> Victim:
    return Victim(
        key=row.key,
        revision=row.revision,
        uri=row.info.ref.uri,
        bytes=size,
        last_used=row.last_used / 1e9,
        reason=reason,
    )


def explain(
    index: Index,
    limits: Limits,
    decision: Decision,
    needed: int,
    inodes: int,
    for_row: Row | None = None,
) -> SpacePlan:
    """``decision`` as an answer for people and programs."""
    held_by: tuple[Holder, ...] = ()
    own = max(for_row.planned, for_row.allocated) if for_row is not None else 0
    is_never = own + needed > limits.ceiling
    if not decision.fits:
        held_by = tuple(_holders(index, limits, decision.shortage, for_row))
    return SpacePlan(
        fits=decision.fits,
        needed=needed,
        inodes=inodes,
        victims=tuple(to_victim(*item) for item in decision.rows) if decision.fits else (),
        shortfall=decision.shortfall,
        held_by=held_by,
        ceiling=limits.ceiling,
        is_never=is_never,
    )


def _holders(index: Index, limits: Limits, short: Shortage, for_row: Row | None) -> list[Holder]:
    holders = []
    for row in index.rows():
        what = index.is_protected(row)
        size = row.allocated + row.reserved
        if row.state == "view":
            # Links are told of with their snapshot.
            size -= row.shared_bytes
            what = "view" if size >= _SMALLEST_COPY else ""
        if what and row is not for_row and row.state != "trash":
            holders.append(Holder(what=what, key=row.key, bytes=size, views=row.views))
    holders.sort(key=lambda holder: holder.bytes, reverse=True)
    del holders[MAX_HOLDERS:]
    if short.is_volume_short:
        others = limits.volume_size - limits.free - index.allocated
        what = "others" if limits.may_evict_for_volume else "open-files"
        holders.append(Holder(what=what, key="", bytes=max(0, others)))
    return holders
