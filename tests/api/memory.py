"""A small cache with the API's protocol: models in memory, their files on disk, fetches that wait
for a gate."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
import tarfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

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
    ViewRequest,
)
from cachd.errors import (
    ArchiveInvalid,
    CachdError,
    Forbidden,
    InUse,
    LeaseUnknown,
    ModelUnknown,
    NotFound,
)
from cachd.model import Ref, make_ref
from tests.api import canned
from tests.api.snapshots import show, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@dataclass
class Origin:
    """What a URI means. A fetch waits for ``gate``; ``error`` is raised instead of an answer."""

    files: dict[str, bytes]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None
    is_private: bool = False
    fetches: int = 0


class MemoryCache:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.origins: dict[str, Origin] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.refs: dict[str, Ref] = {}
        self.pins: set[str] = set()
        self.held: dict[str, Lease] = {}
        self.shown: dict[str, View] = {}
        self.flights: dict[str, asyncio.Task[Snapshot]] = {}
        self.waiting: dict[str, int] = {}
        self.asks: list[Ask] = []
        self.callers: list[Caller] = []
        self.reasons: list[str] = []
        self.readers = 0
        self.followers: list[asyncio.Queue[dict[str, Any]]] = []
        self.imported: list[bytes] = []

    def add(self, uri: str, files: dict[str, bytes], **options: Any) -> str:
        """A model that an origin has; its key."""
        self.origins[uri] = Origin(files, **options)
        return self.ref(uri).key

    def store(self, uri: str, files: dict[str, bytes], **options: Any) -> str:
        """A model that is there; its key."""
        key = self.add(uri, files, **options)
        self._keep(uri)
        return key

    def ref(self, uri: str) -> Ref:
        return make_ref(uri=uri, origin="memory", is_default_origin=True)

    def _keep(self, uri: str) -> Snapshot:
        ref = self.ref(uri)
        snapshot = write(self.root, ref, self.origins[uri].files)
        self.snapshots[ref.key] = snapshot
        self.refs[ref.key] = ref
        return snapshot

    # --- asking ---

    async def ask(self, ask: Ask, caller: Caller) -> AsyncIterator[Event]:
        self.asks.append(ask)
        self.callers.append(caller)
        if ask.uri not in self.origins:
            raise NotFound(f"there is nothing at {ask.uri}", hint="check the URI")
        key = self.ref(ask.uri).key
        yield Event(name="resolving", data={"key": key})
        result, snapshot = "hit", self.snapshots.get(key)
        if snapshot is None:
            result = "miss"
            flight = self._board(ask.uri)
            self.waiting[key] = self.waiting.get(key, 0) + 1
            try:
                yield Event(name="progress", data={"bytes": 0, "total": None})
                snapshot = await asyncio.shield(flight)
            finally:
                self.waiting[key] -= 1
        lease = self._grant(key, ask.lease) if ask.lease else None
        view = self._view(key, ask.view) if ask.view else None
        answer = replace(self._answer(ask.uri, snapshot, result, lease), view=view)
        yield Event(name="ready", answer=answer)

    def _board(self, uri: str) -> asyncio.Task[Snapshot]:
        key = self.ref(uri).key
        if key not in self.flights:
            self.flights[key] = asyncio.create_task(self._fetch(uri))
        return self.flights[key]

    async def _fetch(self, uri: str) -> Snapshot:
        origin = self.origins[uri]
        origin.fetches += 1
        await origin.gate.wait()
        if origin.error:
            raise origin.error
        return await asyncio.to_thread(self._keep, uri)

    def _answer(
        self, uri: str, snapshot: Snapshot, result: Any, lease: Lease | None = None
    ) -> Answer:
        return Answer(
            key=snapshot.key,
            revision=snapshot.revision,
            uri=uri,
            origin="memory",
            path=snapshot.tree,
            files=len(snapshot.manifest.files),
            bytes=snapshot.manifest.size,
            result=result,
            is_shared_flight=False,
            is_validated=True,
            fetched_bytes=snapshot.manifest.size if result == "miss" else 0,
            timings={"resolve": 0.001, "fetch": 0.002},
            lease=lease,
        )

    async def request(self, ask: Ask, caller: Caller) -> Answer | dict[str, Any]:
        self.asks.append(ask)
        key = self.ref(ask.uri).key
        if key in self.snapshots:
            return self._answer(ask.uri, self.snapshots[key], "hit")
        if ask.uri not in self.origins:
            raise NotFound(f"there is nothing at {ask.uri}", hint="check the URI")
        self._board(ask.uri)
        return {"key": key, "state": "fetching", "progress": None}

    # --- reading ---

    def models(self, caller: Caller) -> list[ModelInfo]:
        return [self._info(key) for key in self.snapshots if self._may(key, caller)]

    def _may(self, key: str, caller: Caller) -> bool:
        return caller.role == "admin" or not self.origins[self.refs[key].uri].is_private

    def _info(self, key: str) -> ModelInfo:
        snapshot = self.snapshots[key]
        return ModelInfo(
            key=key,
            ref=self.refs[key],
            state="ready",
            revision=snapshot.revision,
            revisions=(snapshot.revision,),
            files=len(snapshot.manifest.files),
            bytes=snapshot.manifest.size,
            allocated=snapshot.allocated,
            last_used=1_700_000_000.25,
            is_pinned=key in self.pins,
            is_credentialed=False,
            is_validated=True,
            leases=len(self.lease_list(key)),
        )

    def _known(self, key: str) -> Snapshot:
        if key not in self.snapshots:
            raise ModelUnknown(f"no model {key}", hint="ask for it")
        return self.snapshots[key]

    async def model(
        self,
        key: str,
        caller: Caller,
        *,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> tuple[ModelInfo, Snapshot | None]:
        try:
            snapshot = await self.readable(key, caller, revision=revision, lease_id=lease_id)
        except Forbidden:
            raise ModelUnknown(f"no model {key}", hint="ask for it") from None
        return self._info(key), snapshot

    async def readable(
        self, key: str, caller: Caller, *, revision: str | None, lease_id: str | None
    ) -> Snapshot:
        snapshot = self._known(key)
        if revision not in (None, snapshot.revision):
            raise ModelUnknown(f"no revision {revision}", hint="ask for it")
        if not self._may(key, caller) and lease_id not in self.held:
            raise Forbidden("not yours", hint="ask for it with a lease")
        return snapshot

    # --- views ---

    async def views(self, caller: Caller) -> list[View]:
        return [v for v in self.shown.values() if caller.role == "admin" or v.pod == caller.pod_uid]

    async def remove_views(self, pod: str, caller: Caller) -> int:
        return int(self.shown.pop(pod, None) is not None)

    def _view(self, key: str, request: ViewRequest) -> View:
        view = show(self.root, self.snapshots[key], request)
        self.shown[request.pod] = view
        return view

    # --- changing ---

    async def remove(self, key: str, caller: Caller, *, force: bool) -> int:
        snapshot = self._known(key)
        if (key in self.pins or self.lease_list(key)) and not force:
            raise InUse(f"{key} is in use", hint="use force")
        del self.snapshots[key]
        return snapshot.allocated

    async def pin(self, key: str, caller: Caller) -> None:
        self._known(key)
        self.pins.add(key)

    async def unpin(self, key: str, caller: Caller) -> None:
        self._known(key)
        self.pins.discard(key)

    async def promote(self, key: str, revision: str | None, caller: Caller) -> dict[str, str]:
        current = self._known(key).revision
        state = "promoted" if revision in (None, current) else "approved"
        return {
            "key": key,
            "revision": revision or current,
            "previous": current,
            "state": state,
        }

    async def lease(
        self,
        key: str,
        caller: Caller,
        request: LeaseRequest,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> Lease:
        snapshot = await self.readable(key, caller, revision=revision, lease_id=lease_id)
        return self._grant(snapshot.key, request)

    def _grant(self, key: str, request: LeaseRequest) -> Lease:
        ttl = request.ttl or 3600.0
        lease = Lease(
            id=secrets.token_urlsafe(16),
            key=key,
            revision=self.snapshots[key].revision,
            holder=request.holder,
            ttl=ttl,
            expires_in=ttl,
        )
        self.held[lease.id] = lease
        return lease

    def _lease(self, key: str, lease_id: str) -> Lease:
        lease = self.held.get(lease_id)
        if lease is None or lease.key != key:
            raise LeaseUnknown("no such lease", hint="take one")
        return lease

    async def renew_lease(
        self, key: str, lease_id: str, ttl: float | None, caller: Caller
    ) -> Lease:
        lease = self._lease(key, lease_id)
        lease = replace(lease, ttl=ttl or lease.ttl, expires_in=ttl or lease.ttl)
        self.held[lease_id] = lease
        return lease

    async def release_lease(self, key: str, lease_id: str, caller: Caller) -> None:
        del self.held[self._lease(key, lease_id).id]

    def lease_list(self, key: str) -> list[Lease]:
        return [replace(e, id=e.id[:4] + "…") for e in self.held.values() if e.key == key]

    @contextlib.contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[None]:
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1

    def name(self, ask: Ask, caller: Caller) -> Ref:
        return self.ref(ask.uri)

    def admit(self, caller: Caller, verb: str, what: str) -> None:
        if caller.role != "admin":
            raise Forbidden(f"{what} is for administrators", hint="use the administrators' socket")

    def authorize(self, caller: Caller, verb: str) -> None:
        self.admit(caller, verb, verb)

    def may(self, caller: Caller, verb: str, uri: str | None) -> dict[str, Any]:
        return canned.verdict(verb, uri)

    async def plan(self, ask: Ask | None, needed: int | None, caller: Caller) -> dict[str, Any]:
        is_hit = ask is not None and self.ref(ask.uri).key in self.snapshots
        return canned.plan(is_hit=is_hit, needed=needed)

    async def gc(self, caller: Caller, *, dry_run: bool, target: int | None) -> dict[str, Any]:
        return {"evicted": [], "freed": target or 0, "dry_run": dry_run}

    async def verify(
        self, key: str | None, caller: Caller, *, repair: bool, rate: int | None
    ) -> AsyncIterator[dict[str, Any]]:
        for event in canned.verification(key, repair=repair, rate=rate):
            yield event

    def publish(self, event: str, **data: Any) -> None:
        for queue in self.followers:
            queue.put_nowait({"event": event, "time": "2026-01-01T00:00:00Z", **data})

    def prefetched(self, caller: Caller) -> list[dict[str, Any]]:
        del caller
        return []

    async def events(self, caller: Caller) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.followers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.followers.remove(queue)

    def usage(self, caller: Caller | None = None) -> dict[str, Any]:
        return {
            "allocated": 4096 * len(self.snapshots),
            "reserved": 0,
            "quota": 1_000_000,
            "free": 500_000,
            "free_floor": 1000,
            "high_watermark": 950_000,
            "low_watermark": 850_000,
            "snapshots": len(self.snapshots),
            "models": len(self.snapshots),
            "leases": len(self.held),
            "pins": len(self.pins),
            "flights_in_flight": len(self.flights),
            "flights_queued": 0,
            "listings_queued": 0,
        }

    def degraded(self) -> list[str]:
        return []

    def readiness(self) -> list[str]:
        return self.reasons

    async def import_tar(
        self, uri: str, caller: Caller, chunks: AsyncIterator[bytes], request_id: str
    ) -> Answer:
        data = b"".join([chunk async for chunk in chunks])
        self.imported.append(data)
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        except tarfile.TarError:
            raise ArchiveInvalid("no tar") from None
        self.origins[uri] = Origin(files)
        return self._answer(uri, self._keep(uri), "miss")

    async def close(self) -> None:
        for flight in self.flights.values():
            flight.cancel()
        ends = await asyncio.gather(*self.flights.values(), return_exceptions=True)
        for end in ends:
            assert end is None or isinstance(
                end, (Snapshot, CachdError, ValueError, asyncio.CancelledError)
            )
