"""What the store gives back, as data. Sizes in bytes of allocated blocks unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cachd.model import Ref

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cachd.model import Identity, Manifest, Named
    from cachd.store.damage import FileDamage

ViewMode = Literal["link", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """What the index keeps of a manifest: the model, not its files. ``bytes`` is the sum of the
    files' sizes. ``namespace``: who pays for it; None: nobody. ``named``: what the registry's name
    led to."""

    ref: Ref
    files: int
    bytes: int
    created: str
    source: str
    is_credentialed: bool
    is_validated: bool
    is_immutable: bool
    identity: Identity
    namespace: str | None = None
    named: Named | None = None


NOBODY = SnapshotInfo(
    ref=Ref(uri="", origin="", key=""),
    files=0,
    bytes=0,
    created="",
    source="",
    is_credentialed=True,
    is_validated=False,
    is_immutable=False,
    identity="caller",
)
"""Of what is no model: trash of an earlier daemon, a pod's views."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A published revision. ``path`` holds ``manifest.json`` and ``tree/``; never changed.

    ``allocated`` counts blocks that it shares with other snapshots as well. ``last_used`` in
    seconds since the epoch. ``info`` is in memory; ``manifest`` is too for what was used lately,
    and is read from disk otherwise (blocking, milliseconds; ``Store.load_manifest`` reads it in a
    thread): a node may hold more manifests than a daemon should keep. With any ``damage`` it is
    corrupt: never given to anybody anew. ``checked_at``: last read against its checksums.
    """

    key: str
    revision: str
    path: Path
    tree: Path
    info: SnapshotInfo
    allocated: int
    last_used: float
    is_current: bool
    damage: tuple[FileDamage, ...] = ()
    checked_at: float = 0.0
    load: Callable[[], Manifest] = field(repr=False, compare=False)

    @property
    def ref(self) -> Ref:
        return self.info.ref

    @property
    def manifest(self) -> Manifest:
        """Raises StoreError if it was removed meanwhile."""
        return self.load()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLease:
    """``id`` is a pass, so it is only given to who brought it or has just got it; lists have "".

    ``handle`` names the lease without being a pass. ``ttl`` and ``expires_in`` in seconds;
    ``expires_in`` None: it lives as long as ``pod``.
    """

    id: str = field(repr=False)
    handle: str
    key: str
    revision: str
    holder: str
    ttl: float
    expires_in: float | None
    pod: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredView:
    """What one pod was given. ``path`` is the directory, ``device`` and ``inode`` are its own.

    ``files`` and ``bytes`` are the model's. ``is_writable``: whoever the pod runs as may create
    files at its top. ``expires_in`` in seconds, None: until the pod is gone. ``notes``: what a
    person should know, in sentences. ``is_new``: it was made just now.
    """

    pod: str
    name: str
    ref: Ref
    revision: str
    mode: ViewMode
    path: Path
    device: int
    inode: int
    files: int
    bytes: int
    is_writable: bool
    expires_in: float | None
    notes: tuple[str, ...] = ()
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """What goes, or went. ``bytes`` are those that become free with it (blocks shared with a
    survivor don't). ``reason``: superseded, quota, namespace, watermark, volume, expired,
    requested."""

    key: str
    revision: str
    uri: str
    bytes: int
    last_used: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Why space can't be freed. ``what``: view, lease, pin, reader, ingest, others, open-files;
    ``key`` empty where no model is to blame. ``views``: the pods that have it, as ``pod/name``."""

    what: str
    key: str
    bytes: int
    views: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePlan:
    """Would it fit, and who would go. ``shortfall``: bytes that are missing even then.

    ``needed`` and ``inodes`` are what was asked about. ``ceiling`` is the most that could ever be
    given.
    """

    fits: bool
    needed: int
    inodes: int
    victims: tuple[Victim, ...]
    shortfall: int
    held_by: tuple[Holder, ...]
    ceiling: int
    is_never: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    evicted: tuple[Victim, ...]
    freed: int
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The store's numbers: bytes, and counts of inodes.

    ``allocated`` is everything that the cache holds on disk, what is being unlinked (``trash``)
    and unfinished ingests (``ingests``) included, shared blocks once. ``reserved`` is promised to
    ingests and not yet allocated. ``free`` is the volume's, for anybody. ``high_watermark`` and
    ``low_watermark`` are bytes of ``allocated + reserved``. ``corrupt`` counts snapshots that are
    known to be damaged; ``scrub_pass``: when everything was last read once, since the epoch.
    ``view_bytes`` are held by views alone: copies, and links to snapshots that have gone.
    ``namespaces``: bytes and quota of those that have one.
    """

    quota: int
    allocated: int
    reserved: int
    free: int
    volume_size: int
    free_floor: int
    high_watermark: int
    low_watermark: int
    snapshots: int
    ingests: int
    trash: int
    inodes: int
    inodes_free: int
    pinned: int
    leased: int
    corrupt: int = 0
    scrub_pass: float = 0.0
    degraded: tuple[str, ...] = ()
    views: int = 0
    view_bytes: int = 0
    pod_leases: int = 0
    namespaces: dict[str, dict[str, int]] = field(default_factory=dict)
