"""What goes into the cache's calls and what comes out, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cachd.cache.digest_pins import DigestPins
from cachd.credentials import Credentials, SourceOptions

if TYPE_CHECKING:
    from cachd.model import Manifest, Ref
    from cachd.store.types import ViewMode

Role = Literal["pod", "admin", "peer"]
Priority = Literal["interactive", "prefetch", "scrub"]
Result = Literal["hit", "miss", "stale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: from the kernel (SO_PEERCRED), or a token over TCP (uid None).

    ``role`` is decided by the socket, never by the uid: root in a pod is uid 0 too. A ``peer`` is
    another daemon, whose callers' passes their origins have proven to it. The rest is
    what the API server says of the caller's token, "" where none was sent. ``unproven``: why it
    couldn't be asked about the token, "" where it was or where there is none.
    """

    role: Role
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    namespace: str = ""
    service_account: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    unproven: str = ""

    @property
    def payer(self) -> str | None:
        """The namespace that pays for what this caller has fetched; nobody does for an
        administrator's asks, and pods without a token are one namespace, ""."""
        return self.namespace if self.role == "pod" else None

    def describe(self) -> str:
        """For messages and the log."""
        names: list[str] = [self.role]
        if self.uid is not None:
            names.append(f"uid {self.uid}")
        if self.namespace:
            names.append(f"service account {self.namespace}/{self.service_account}")
        return ", ".join(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRequest:
    """``ttl`` in seconds, None for the configured one. ``pod``: the uid of the pod that the lease
    is to live as long as."""

    holder: str = ""
    ttl: float | None = None
    pod: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """A directory for one pod to mount. ``name``: below the pod's own, "" for that itself. ``copy``
    gives files of its own, which any uid may write."""

    pod: str
    name: str = ""
    mode: ViewMode = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for a model. ``timeout`` in seconds, None for no limit. ``pins``: the bytes that
    are taken, and no others. ``via``: the daemons that it came through."""

    uri: str
    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    credentials: Credentials = field(default=Credentials(), repr=False)
    options: SourceOptions = SourceOptions()
    priority: Priority = "interactive"
    lease: LeaseRequest | None = None
    view: ViewRequest | None = None
    timeout: float | None = None
    pins: DigestPins = DigestPins()
    via: tuple[str, ...] = ()
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A promise not to evict. ``id`` is unguessable: it is also a pass to read the model's files.

    ``expires_in`` in seconds from now; None: it lives as long as ``pod``.
    """

    id: str
    key: str
    revision: str
    holder: str
    ttl: float
    expires_in: float | None
    pod: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a pod was given. ``pod_name``: namespace and name, "" if not known. ``path`` as the
    daemon sees it, ``device`` and ``inode`` of that directory. ``is_writable``: any uid may create
    files at its top. ``expires_in`` in seconds from now; None: it lives as long as ``pod``.
    ``is_new``: the ask that is answered made it."""

    pod: str
    name: str
    key: str
    uri: str
    revision: str
    mode: ViewMode
    path: str
    device: int
    inode: int
    files: int
    bytes: int
    is_writable: bool
    expires_in: float | None
    notes: tuple[str, ...] = ()
    pod_name: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A newer revision than the one that is given. ``state``: it is here, or only known of.
    ``seen``: since when, in seconds since the epoch. ``move`` and ``window``: what makes it
    current; ``is_approved``: its arrival does."""

    revision: str
    state: Literal["seen", "ready"]
    seen: float
    move: Literal["on_ready", "manual", "schedule"]
    window: tuple[str, ...] = ()
    is_approved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """Who made a revision current, and when (seconds since the epoch). ``refused``: revisions that
    no rule makes current again."""

    revision: str
    by: str
    at: float
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model that is there. Sizes in bytes, timings in seconds by phase. ``mirror``: the endpoint
    that it was fetched from now in its origin's place, "" for none; another cachd's has ``cachd+``
    in front. ``upstream``: another cachd that gave ``upstream_bytes`` of ``fetched_bytes``.
    ``update``: what its source has beyond that and isn't given yet."""

    key: str
    revision: str
    uri: str
    origin: str
    path: str
    files: int
    bytes: int
    result: Result
    is_shared_flight: bool
    is_validated: bool
    fetched_bytes: int
    timings: dict[str, float]
    lease: Lease | None = None
    view: View | None = None
    mirror: str = ""
    upstream: str = ""
    upstream_bytes: int = 0
    update: Update | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of an ask. ``name``: resolving, queued, progress, retry, verifying, ready.

    ``data`` is JSON-serialisable; a progress event has ``bytes``, ``total`` (None: not known),
    ``rate`` (bytes/s), ``eta`` (s, None: not known), ``files_done``, ``files_total`` and ``files``
    (the active ones: path, bytes, size). A ready event has ``answer``.
    """

    name: Literal["resolving", "queued", "progress", "retry", "verifying", "ready"]
    data: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One key, for lists. ``last_used`` in seconds since the epoch. ``checked_ago`` and
    ``refresh_in``: seconds since its source was last looked at, and until it is by schedule; told
    of one model alone. ``namespace``: who pays for it; None: nobody, or it isn't told. ``promoted``
    is told to administrators.
    """

    key: str
    ref: Ref
    state: Literal["ready", "fetching"]
    revision: str | None
    files: int
    bytes: int
    allocated: int
    last_used: float | None
    is_pinned: bool
    is_credentialed: bool
    is_validated: bool
    leases: int
    revisions: tuple[str, ...] = ()
    is_corrupt: bool = False
    progress: dict[str, Any] | None = None
    checked_ago: float | None = None
    refresh_in: float | None = None
    namespace: str | None = None
    update: Update | None = None
    promoted: Promoted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A published revision on disk. ``tree`` is an absolute path; never written to."""

    key: str
    revision: str
    tree: str
    manifest: Manifest
    allocated: int
