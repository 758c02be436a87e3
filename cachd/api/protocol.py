"""What the API needs of the cache. The handlers parse, call one of these and write the answer; no
rule about who may have what, or what is kept, lives in this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cachd.cache.types import (
        Answer,
        Ask,
        Caller,
        Event,
        Lease,
        LeaseRequest,
        ModelInfo,
        Snapshot,
        View,
    )
    from cachd.model import Ref
    from cachd.settings import Verb


class CacheApi(Protocol):
    """Every method may raise CachdError; ModelUnknown also stands for "this caller may not know"
    where telling would give something away."""

    def ask(self, ask: Ask, caller: Caller) -> AsyncIterator[Event]:
        """An async generator; the last event is ``ready`` and has the answer. Cancelling or
        closing it says that the caller went away."""
        ...

    def name(self, ask: Ask, caller: Caller) -> Ref:
        """The ref, with its key; nothing is asked of the source. Raises UriInvalid."""
        ...

    async def request(self, ask: Ask, caller: Caller) -> Answer | dict[str, Any]:
        """Without waiting: the answer if it is there, else ``{"key", "state", "progress"}`` of the
        fetch that goes on by itself."""
        ...

    def models(self, caller: Caller) -> list[ModelInfo]:
        """What this caller may read."""
        ...

    async def model(
        self,
        key: str,
        caller: Caller,
        *,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> tuple[ModelInfo, Snapshot | None]:
        """The model as of ``revision``; None: the lease's, else the current one. ``lease_id`` is a
        pass. Raises ModelUnknown."""
        ...

    async def readable(
        self, key: str, caller: Caller, *, revision: str | None, lease_id: str | None
    ) -> Snapshot:
        """A snapshot that this caller may read; counts as a use. ``revision`` None: the current
        one. ``lease_id`` is a pass. Raises ModelUnknown, Forbidden."""
        ...

    def reading(self, snapshot: Snapshot) -> AbstractContextManager[object]:
        """Keeps the snapshot from being evicted. Raises ModelUnknown if it went meanwhile."""
        ...

    async def remove(self, key: str, caller: Caller, *, force: bool) -> int:
        """Freed bytes. Raises InUse, ModelUnknown."""
        ...

    async def pin(self, key: str, caller: Caller) -> None: ...

    async def unpin(self, key: str, caller: Caller) -> None: ...

    async def promote(self, key: str, revision: str | None, caller: Caller) -> Mapping[str, Any]:
        """``revision`` None: what waits. Raises ModelUnknown, ModelCorrupt, InvalidError."""
        ...

    async def lease(
        self,
        key: str,
        caller: Caller,
        request: LeaseRequest,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> Lease:
        """``lease_id`` is a pass. Raises ModelUnknown, Forbidden, TooManyLeases."""
        ...

    async def renew_lease(
        self, key: str, lease_id: str, ttl: float | None, caller: Caller
    ) -> Lease:
        """Raises LeaseUnknown."""
        ...

    async def release_lease(self, key: str, lease_id: str, caller: Caller) -> None:
        """Raises LeaseUnknown."""
        ...

    def lease_list(self, key: str) -> list[Lease]:
        """For administrators; the ids are shortened, for a whole one is a pass."""
        ...

    async def views(self, caller: Caller) -> list[View]:
        """All for administrators, else those of the caller's own pod."""
        ...

    async def remove_views(self, pod: str, caller: Caller) -> int:
        """How many there were. Raises Forbidden."""
        ...

    async def plan(
        self, ask: Ask | None, needed: int | None, caller: Caller
    ) -> Mapping[str, Any]: ...

    async def gc(
        self, caller: Caller, *, dry_run: bool, target: int | None
    ) -> Mapping[str, Any]: ...

    def prefetched(self, caller: Caller) -> Sequence[Mapping[str, Any]]:
        """What should be here without being asked for, and how far it is; administrators only."""
        ...

    def events(self, caller: Caller) -> AsyncIterator[Mapping[str, Any]]:
        """What happens from now on, for ever: ``{"time", "event", "key", …}``; administrators
        only."""
        ...

    def admit(self, caller: Caller, verb: Verb, what: str) -> None:
        """Raises Forbidden where no rule could let the caller do that to any model."""
        ...

    def authorize(self, caller: Caller, verb: Verb) -> None:
        """Raises Forbidden unless the caller may ``verb`` whatever there is."""
        ...

    def may(self, caller: Caller, verb: Verb, uri: str | None) -> Mapping[str, Any]:
        """``{"allowed", "rule", "reason", …}`` for somebody that an administrator asks about."""
        ...

    def usage(self, caller: Caller | None = None) -> Mapping[str, Any]:
        """What ``caller`` may know of the store; None: everything, for metrics.

        Bytes: allocated, reserved, quota, free, free_floor, high_watermark, low_watermark; counts:
        models, leases, pins, flights_in_flight, flights_queued, listings_queued."""
        ...

    def degraded(self) -> list[str]:
        """What is wrong with the store though it serves, in sentences."""
        ...

    def readiness(self) -> list[str]:
        """Why the daemon isn't ready, in sentences; empty: it is."""
        ...

    def verify(
        self, key: str | None, caller: Caller, *, repair: bool, rate: int | None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Read a model (None: all) against its checksums: ``{"event", "key", …}``; the last is
        ``ready``. ``rate`` in bytes/s, 0 without limit, None as configured. Raises ModelUnknown."""
        ...

    async def import_tar(
        self, uri: str, caller: Caller, chunks: AsyncIterator[bytes], request_id: str
    ) -> Answer:
        """Raises ArchiveInvalid, DigestMismatch, NoSpace …; nothing of a failed import stays."""
        ...
