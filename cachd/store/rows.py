"""What the accounting counts: snapshots, ingests, pods' views, what is being unlinked. Pure."""

from __future__ import annotations

from array import array
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.store.damage import FileDamage
    from cachd.store.types import SnapshotInfo

State = Literal["ingest", "snapshot", "view", "trash"]
_PROMISED = ("ingest", "view")


@dataclass(eq=False, slots=True, kw_only=True)
class Row:
    """A snapshot, an ingest, the views of one pod, or what is being unlinked.

    ``allocated`` and ``inodes`` count all that it holds, shared inodes too. ``planned`` and
    ``planned_inodes`` are what an ingest was promised in all. ``last_used`` orders rows (ns of the
    hybrid clock), ``used_at`` measures idleness (monotonic seconds). ``leases`` and
    ``readers`` count who holds a snapshot, ``views`` names the views of it, and those in a pod's
    directory, as ``pod/name``. ``place``: where trash lies; the pod. ``is_active``: the ingest has
    a writer. ``is_stuck``: unlinking failed, so its bytes aren't about to become free.
    ``damage``: what is wrong with a snapshot on disk, by path;
    ``checked_at``: when it was last read against its checksums, in seconds since the epoch.
    ``is_doubtful``: a sync failed, so its journal isn't trusted.
    """

    key: str
    revision: str
    info: SnapshotInfo
    state: State
    allocated: int = 0
    inodes: int = 0
    planned: int = 0
    planned_inodes: int = 0
    last_used: int = 0
    used_at: float = 0.0
    leases: int = 0
    readers: int = 0
    views: tuple[str, ...] = ()
    is_current: bool = False
    is_active: bool = False
    is_stuck: bool = False
    is_doubtful: bool = False
    place: str = ""
    shared: set[int] = field(default_factory=set)
    shared_bytes: int = 0
    linkable: array[int] = field(default_factory=lambda: array("Q"))
    damage: dict[str, FileDamage] = field(default_factory=dict)
    checked_at: float = 0.0

    @contextmanager
    def read(self) -> Iterator[None]:
        """A reader that keeps it from being evicted."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    @property
    def reserved(self) -> int:
        """Promised bytes that aren't allocated yet."""
        return max(0, self.planned - self.allocated) if self.state in _PROMISED else 0

    @property
    def reserved_inodes(self) -> int:
        return max(0, self.planned_inodes - self.inodes) if self.state in _PROMISED else 0


@dataclass(slots=True)
class Shared:
    """One inode that more than one row holds."""

    bytes: int
    rows: set[Row]
