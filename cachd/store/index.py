"""Accounting: who holds how many bytes, who used what when, what is promised. Pure: no I/O, no
await, so that every decision is made on one consistent state.

Bytes are allocated blocks, and an inode that several rows hold is counted once. Rows describe
models, not files: inodes are in a table only while more than one row holds them; beyond that a row
keeps 8 bytes for each of its files that has a second name (in ``blobs/``), so that a later row that
links it can find out whom it shares with.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from cachd.store.rows import Row, Shared
from cachd.store.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cachd.store.types import SnapshotInfo


class Index:
    """All rows and their sums. Sums are kept as rows change; ``recount`` computes them anew."""

    def __init__(self) -> None:
        self.snapshots: dict[tuple[str, str], Row] = {}
        self.ingests: dict[tuple[str, str], Row] = {}
        self.views: set[Row] = set()
        """One row per pod: all that is in its directory."""
        self.trash: set[Row] = set()
        self.pins: set[str] = set()
        self.waiting: dict[str, str] = {}
        """By key: the revision that its source has and that isn't current yet."""
        self.table: dict[int, Shared] = {}
        self.written = 0
        """Bytes that our ingests have taken since the start; only grows."""
        self._current: dict[str, Row] = {}
        self._revisions: dict[str, set[Row]] = {}
        self._uris: dict[tuple[str, str], set[str]] = {}
        self._bytes = 0
        self._inodes = 0
        self._reserved = 0
        self._reserved_inodes = 0
        self._last = 0
        self._quarantine = (0, 0)

    # --- sums ---------------------------------------------------------------------------------

    @property
    def allocated(self) -> int:
        """Bytes on disk: snapshots, ingests, quarantine, and trash until it is gone."""
        return self._bytes

    @property
    def inodes(self) -> int:
        return self._inodes

    @property
    def reserved(self) -> int:
        """Bytes promised to ingests and not yet allocated."""
        return self._reserved

    @property
    def reserved_inodes(self) -> int:
        return self._reserved_inodes

    @property
    def charged(self) -> int:
        """What counts against the quota."""
        return self._bytes + self._reserved

    def sums(self) -> tuple[int, int, int, int]:
        """Allocated, inodes, reserved, reserved inodes, as kept."""
        return self._bytes, self._inodes, self._reserved, self._reserved_inodes

    def recount(self) -> tuple[int, int, int, int]:
        """The same computed anew from the rows and the table: what ``sums`` must be."""
        size, inodes = self._quarantine
        size += sum(row.allocated for row in self.rows())
        inodes += sum(row.inodes for row in self.rows())
        for entry in self.table.values():
            size -= entry.bytes * (len(entry.rows) - 1)
            inodes -= len(entry.rows) - 1
        reserved = sum(row.reserved for row in self.rows())
        return size, inodes, reserved, sum(row.reserved_inodes for row in self.rows())

    def rows(self) -> Iterator[Row]:
        yield from self.snapshots.values()
        yield from self.ingests.values()
        yield from self.views
        yield from self.trash

    def note_quarantine(self, allocated: int, inodes: int) -> None:
        """What the quarantine has now."""
        self._bytes += allocated - self._quarantine[0]
        self._inodes += inodes - self._quarantine[1]
        self._quarantine = allocated, inodes

    def marginal(self, rows: Iterable[Row]) -> tuple[int, int]:
        """Bytes and inodes that become free if all of ``rows`` go together."""
        tally = Tally(self)
        for row in rows:
            tally.add(row)
        return tally.bytes, tally.inodes

    # --- time ---------------------------------------------------------------------------------

    def tick(self, time_ns: int) -> int:
        """The hybrid clock: wall time, but always later than the last tick or row."""
        self._last = max(time_ns, self._last + 1)
        return self._last

    def touch(self, row: Row, time_ns: int, monotonic: float) -> None:
        row.last_used = self.tick(time_ns)
        row.used_at = monotonic

    # --- rows ---------------------------------------------------------------------------------

    def add(self, row: Row, linked: Mapping[int, int]) -> None:
        """Add a row as found. ``linked``: bytes by inode of its files with more than one name; call
        ``find_shared`` when all rows of a scan are in."""
        self._last = max(self._last, row.last_used)
        row.linkable = array("Q", linked)
        if row.state == "trash":
            self.trash.add(row)
        elif row.state == "view":
            self.views.add(row)
        else:
            place = self.snapshots if row.state == "snapshot" else self.ingests
            place[row.key, row.revision] = row
        self._count(row, 1)
        self._note_names(row)

    def _note_names(self, row: Row) -> None:
        if row.state == "snapshot":
            self._revisions.setdefault(row.key, set()).add(row)
            self._uris.setdefault((row.info.ref.origin, row.info.ref.uri), set()).add(row.key)

    def _count(self, row: Row, sign: int) -> None:
        self._bytes += sign * row.allocated
        self._inodes += sign * row.inodes
        self._reserved += sign * row.reserved
        self._reserved_inodes += sign * row.reserved_inodes

    def share(self, row: Row, inode: int, size: int, others: Iterable[Row]) -> None:
        """``row`` and ``others`` hold ``inode`` of ``size`` bytes; each counts it in its own
        ``allocated`` already, and from now on it is counted once."""
        entry = self.table.setdefault(inode, Shared(size, set()))
        for holder in (row, *others):
            if holder not in entry.rows:
                if entry.rows:
                    self._bytes -= entry.bytes
                    self._inodes -= 1
                entry.rows.add(holder)
                holder.shared.add(inode)
                holder.shared_bytes += entry.bytes
        if len(entry.rows) < 2:
            self._unshare(inode, entry)

    def take_over(self, row: Row, inode: int, size: int, others: Iterable[Row]) -> None:
        """An ingest linked a file of ``others``; it is in its ``allocated`` from now on."""
        self.measured(row, row.allocated + size, row.inodes + 1)
        self.share(row, inode, size, others)

    def find_holders(self, inodes: Iterable[int]) -> dict[int, Row]:
        """One snapshot for each of ``inodes`` that some snapshot holds, one that needed no
        credentials if there is such; a pass over all rows."""
        wanted = set(inodes)
        found: dict[int, Row] = {}
        if wanted:
            for row in self.snapshots.values():
                for inode in wanted.intersection(row.linkable):
                    if inode not in found or found[inode].info.is_credentialed:
                        found[inode] = row
        return found

    def find_shared(self, linked: Iterable[tuple[Row, Mapping[int, int]]]) -> None:
        """Build the table of shared inodes from the ``linked`` of all rows of a scan."""
        first: dict[int, Row] = {}
        for row, inodes in linked:
            for inode, size in inodes.items():
                other = first.setdefault(inode, row)
                if other is not row:
                    self.share(row, inode, size, (other,))

    def _release(self, row: Row, inode: int) -> None:
        """``row`` doesn't hold ``inode`` any more and has already left ``allocated`` behind."""
        entry = self.table[inode]
        entry.rows.remove(row)
        row.shared.remove(inode)
        row.shared_bytes -= entry.bytes
        self._bytes += entry.bytes
        self._inodes += 1
        if len(entry.rows) < 2:
            self._unshare(inode, entry)

    def _unshare(self, inode: int, entry: Shared) -> None:
        for row in entry.rows:
            row.shared.discard(inode)
            row.shared_bytes -= entry.bytes
        del self.table[inode]

    def discard(self, row: Row) -> None:
        """The row's bytes are gone from the disk, or it never came to be."""
        if not self.holds(row):
            return
        self._forget_names(row)
        self.trash.discard(row)
        self._count(row, -1)
        for inode in list(row.shared):
            self._release(row, inode)
        row.state = "trash"

    def holds(self, row: Row) -> bool:
        """Whether ``row`` is still here: its bytes are on the disk."""
        identity = row.key, row.revision
        return (
            row in self.trash
            or row in self.views
            or self.snapshots.get(identity) is row
            or self.ingests.get(identity) is row
        )

    def _forget_names(self, row: Row) -> None:
        identity = row.key, row.revision
        self.views.discard(row)
        if self.ingests.get(identity) is row:
            del self.ingests[identity]
        if self.snapshots.get(identity) is row:
            del self.snapshots[identity]
            revisions = self._revisions[row.key]
            revisions.discard(row)
            if not revisions:
                del self._revisions[row.key]
                place = row.info.ref.origin, row.info.ref.uri
                keys = self._uris.get(place, set())
                keys.discard(row.key)
                if not keys:
                    self._uris.pop(place, None)
            if self._current.get(row.key) is row:
                del self._current[row.key]
        row.is_current = False

    def condemn(self, row: Row, place: str) -> None:
        """From now on ``row`` is trash at ``place``: no reader finds it, its bytes still count."""
        self._forget_names(row)
        self._count(row, -1)
        row.state = "trash"
        row.is_active = False
        row.place = place
        self._count(row, 1)
        self.trash.add(row)

    # --- ingests ------------------------------------------------------------------------------

    def reserve(self, row: Row, size: int, inodes: int) -> None:
        """Promise ``size`` more bytes and ``inodes`` to an ingest; negative to take back."""
        self._reserved -= row.reserved
        self._reserved_inodes -= row.reserved_inodes
        row.planned += size
        row.planned_inodes += inodes
        self._reserved += row.reserved
        self._reserved_inodes += row.reserved_inodes

    def settle(self, row: Row) -> None:
        """Take back what an ingest was promised beyond what it has."""
        self.reserve(row, row.allocated - row.planned, row.inodes - row.planned_inodes)

    def grew(self, row: Row, size: int) -> None:
        """An ingest wrote ``size`` bytes to blocks that it didn't have before."""
        self.written += size
        self.measured(row, row.allocated + size, row.inodes)

    def measured(self, row: Row, allocated: int, inodes: int) -> None:
        """What was found on disk for a row, shared inodes included."""
        self._count(row, -1)
        row.allocated, row.inodes = allocated, inodes
        self._count(row, 1)

    def remeasured(self, row: Row, allocated: int, inodes: int, linked: Mapping[int, int]) -> None:
        """Files of ``row`` were replaced, added or taken away; it was measured so."""
        for inode in list(row.shared - set(linked)):
            self._release(row, inode)
        self.measured(row, allocated, inodes)
        row.linkable = array("Q", linked)

    def publish(
        self, row: Row, info: SnapshotInfo, allocated: int, inodes: int, linked: Mapping[int, int]
    ) -> None:
        """An ingest has become a snapshot that was measured so."""
        for inode in list(row.shared - set(linked)):
            self._release(row, inode)
        self._count(row, -1)
        del self.ingests[row.key, row.revision]
        row.state, row.info, row.is_active = "snapshot", info, False
        row.allocated, row.inodes = allocated, inodes
        row.planned = row.planned_inodes = 0
        self._count(row, 1)
        row.linkable = array("Q", linked)
        self.snapshots[row.key, row.revision] = row
        self._note_names(row)

    # --- keys ---------------------------------------------------------------------------------

    def current(self, key: str) -> Row | None:
        return self._current.get(key)

    def set_current(self, row: Row) -> None:
        old = self._current.get(row.key)
        if old is not None:
            old.is_current = False
        row.is_current = True
        self._current[row.key] = row

    def revisions(self, key: str) -> list[Row]:
        """The key's snapshots, latest use first."""
        rows = self._revisions.get(key, set())
        return sorted(rows, key=lambda row: row.last_used, reverse=True)

    def keys_of(self, origin: str, uri: str) -> frozenset[str]:
        """Keys (other patterns, other revisions) of one URI at one origin."""
        return frozenset(self._uris.get((origin, uri), ()))

    def is_wanted(self, row: Row) -> bool:
        """Whether ``row`` is what is given, or what will be: no older revision."""
        return row.is_current or self.waiting.get(row.key) == row.revision

    def replaces(self, row: Row) -> Row | None:
        """The current snapshot that ``row`` waits to take the place of."""
        current = self.current(row.key)
        is_waiting = row.state == "snapshot" and self.waiting.get(row.key) == row.revision
        return current if is_waiting and current is not row else None

    def is_protected(self, row: Row) -> str:
        """Why ``row`` may not be evicted: view, lease, reader, pin, ingest; empty if it may.

        A pin keeps the current revision, and the one that waits; older ones are let go.
        """
        if row.views:
            return "view"
        if row.leases:
            return "lease"
        if row.readers:
            return "reader"
        if row.is_active:
            return "ingest"
        if row.key in self.pins and self.is_wanted(row):
            return "pin"
        return ""
