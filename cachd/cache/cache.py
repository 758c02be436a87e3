"""The cache: the only place that knows store, sources and fetch. Every call names its caller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from cachd.cache import admin, importing, listing
from cachd.cache.flight import Flight, FlightRefused, Participant
from cachd.cache.lookup import Found, Lookup
from cachd.cache.types import Answer, Caller, Event, Lease, Snapshot
from cachd.errors import DeadlineExceeded, Draining, Forbidden, ModelUnknown, OriginChanged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractContextManager

    from cachd.cache.flight import Stage
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Ask, LeaseRequest, ModelInfo, Result
    from cachd.model import Plan, Ref
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")

_PROGRESS_INTERVAL = 0.5
_STAGE_INTERVAL = 0.1
_REPLANS = 3


class Cache:
    """Asks, reads, leases and administration; see ``api.protocol`` for the contract."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.flights: dict[tuple[Ref, str], Flight] = {}
        self._lookup = Lookup(parts, os.getuid())
        self._draining = False

    # --- asking -----------------------------------------------------------------------------

    async def ask(self, ask: Ask, caller: Caller) -> AsyncIterator[Event]:
        """Events until the model is there; the last is ``ready``. Closing the iteration says that
        the caller went away. Raises CachdError."""
        asked = self._understand(ask, caller)
        started = time.monotonic()
        for attempt in range(_REPLANS + 1):
            try:
                async with contextlib.aclosing(self._ask_once(asked, caller, started)) as events:
                    async for event in events:
                        yield event
            except (OriginChanged, FlightRefused) as error:
                cause = error.error if isinstance(error, FlightRefused) else error
                if attempt == _REPLANS:
                    raise cause from None
                log.info("%s: %s; planning again", asked.ref.key, cause.message)
                yield Event(name="retry", data={"cause": cause.code, "message": cause.message})
            else:
                return

    def name(self, ask: Ask, caller: Caller) -> Ref:
        """The ref that the ask names, with its key. Nothing is asked of the source."""
        return self._lookup.understand(ask, caller).ref

    async def request(self, ask: Ask, caller: Caller) -> Answer | dict[str, Any]:
        """Without waiting: the answer if the model is there, else a fetch that goes on to its end,
        described by ``key``, ``state`` and ``progress``."""
        asked = self._understand(ask, caller)
        started = time.monotonic()
        found = await self._lookup.find(asked)
        if isinstance(found, Found):
            return await self._answer(asked, found.snapshot, found.result, started)
        flight = self._board(found, asked)
        flight.join(_participant(asked, found, caller, stays=True))
        return {"key": asked.ref.key, "state": "fetching", "progress": flight.progress()}

    def _understand(self, ask: Ask, caller: Caller) -> Asked:
        if self._draining:
            raise Draining(
                "the daemon is shutting down", hint="ask again in a moment", retry_after=5.0
            )
        return self._lookup.understand(ask, caller)

    async def _ask_once(
        self, asked: Asked, caller: Caller, started: float
    ) -> AsyncGenerator[Event, None]:
        yield Event(name="resolving", data={"key": asked.ref.key, "origin": asked.ref.origin})
        try:
            async with asyncio.timeout(_remaining(asked.ask, started)):
                found = await self._lookup.find(asked)
        except TimeoutError:
            raise _too_late(asked) from None
        if isinstance(found, Found):
            answer = await self._answer(asked, found.snapshot, found.result, started)
            yield Event(name="ready", answer=answer)
            return
        resolve_seconds = time.monotonic() - started
        plan = found
        is_shared = (asked.ref, plan.revision) in self.flights
        flight = self._board(plan, asked)
        participant = _participant(asked, plan, caller)
        flight.join(participant)
        stage: Stage | None = None
        told = 0
        try:
            while True:
                if flight.stage != stage:
                    stage = flight.stage
                    if stage != "fetching":
                        yield Event(name=stage, data=flight.progress())
                for retry in flight.retries[told:]:
                    yield Event(name="retry", data=retry)
                told = len(flight.retries)
                if stage == "fetching":
                    yield Event(name="progress", data=flight.progress())
                left = _remaining(asked.ask, started)
                if left is not None and left <= 0:
                    raise _too_late(asked)
                patience = _PROGRESS_INTERVAL if stage == "fetching" else _STAGE_INTERVAL
                snapshot = await flight.wait(
                    participant, patience if left is None else min(left, patience)
                )
                if snapshot is not None:
                    break
            timings = {"resolve": resolve_seconds, **flight.timings}
            answer = await self._answer(
                asked,
                snapshot,
                "miss",
                started,
                timings=timings,
                fetched_bytes=flight.fetched_bytes,
                is_shared=is_shared,
            )
        finally:
            flight.leave(participant)
        yield Event(name="ready", answer=answer)

    def _board(self, plan: Plan, asked: Asked) -> Flight:
        """The flight for this revision: the one that is under way, or a new one."""
        place = (asked.ref, plan.revision)
        flight = self.flights.get(place)
        if flight is None:
            flight = Flight(asked.ref, plan, self.parts, self._landed)
            self.flights[place] = flight
            self.parts.events.publish("fetch_started", key=asked.ref.key, revision=plan.revision)
            flight.start()
        return flight

    def _landed(self, flight: Flight, error: str | None) -> None:
        self.flights.pop((flight.ref, flight.revision), None)
        self.parts.events.publish(
            "fetch_failed" if error else "fetch_ended",
            key=flight.ref.key,
            revision=flight.revision,
            **({"code": error} if error else {}),
        )
        for phase, seconds in flight.timings.items():
            self.parts.metrics.phase(phase, seconds)

    async def _answer(
        self,
        asked: Asked,
        snapshot: StoredSnapshot,
        result: Result,
        started: float,
        *,
        timings: dict[str, float] | None = None,
        fetched_bytes: int = 0,
        is_shared: bool = False,
    ) -> Answer:
        store = self.parts.store
        store.touch(snapshot.key, snapshot.revision)
        lease = None
        if asked.ask.lease is not None:
            lease = await self._lease(snapshot.key, snapshot.revision, asked.ask.lease)
        self.parts.metrics.looked_up(result)
        total = time.monotonic() - started
        self.parts.metrics.phase("total", total)
        spent = dict(timings or {"resolve": total})
        spent["total"] = total
        return Answer(
            key=snapshot.key,
            revision=snapshot.revision,
            uri=asked.ref.uri,
            origin=asked.ref.origin,
            path=str(snapshot.tree),
            files=snapshot.info.files,
            bytes=snapshot.info.bytes,
            result=result,
            is_shared_flight=is_shared,
            is_validated=snapshot.info.is_validated,
            fetched_bytes=fetched_bytes,
            timings={name: round(seconds, 6) for name, seconds in spent.items()},
            lease=lease,
        )

    # --- reading ----------------------------------------------------------------------------

    async def readable(
        self, key: str, caller: Caller, *, revision: str | None, lease_id: str | None
    ) -> Snapshot:
        """The snapshot, if ``caller`` may read it. Raises ModelUnknown, Forbidden."""
        lease = self.parts.store.find_lease(lease_id) if lease_id else None
        if lease is not None and lease.key == key:
            snapshot = self.parts.store.get(key, revision or lease.revision)
        else:
            snapshot = self.parts.store.get(key, revision)
            if snapshot is not None and not self._lookup.may_see(snapshot, caller):
                raise Forbidden(
                    f"{key} needed credentials, and this caller has not shown any",
                    hint="ask for the model with POST /v1/models and a lease, then send the "
                    "lease's id in the header Cachd-Lease",
                )
        if snapshot is None:
            raise ModelUnknown(
                f"there is no model {key} in the cache" + (f" at {revision}" if revision else ""),
                hint="ask for it with POST /v1/models or `cachd pull`",
            )
        self.parts.store.touch(snapshot.key, snapshot.revision)
        return await self._to_snapshot(snapshot)

    def reading(self, snapshot: Snapshot) -> AbstractContextManager[object]:
        """Keeps the snapshot from being evicted while its bytes are sent. Raises ModelUnknown."""
        return self.parts.store.reading(snapshot.key, snapshot.revision)

    async def _to_snapshot(self, stored: StoredSnapshot) -> Snapshot:
        return Snapshot(
            key=stored.key,
            revision=stored.revision,
            tree=str(stored.tree),
            manifest=await self.parts.store.load_manifest(stored),
            allocated=stored.allocated,
        )

    def models(self, caller: Caller) -> list[ModelInfo]:
        """What is cached and what is being fetched, as far as ``caller`` may see it."""
        return listing.models(
            self.parts.store,
            self.flights.values(),
            lambda snapshot: self._lookup.may_see(snapshot, caller),
            lambda flight: _may_follow(flight, caller),
        )

    async def model(self, key: str, caller: Caller) -> tuple[ModelInfo, Snapshot | None]:
        """One key. Raises ModelUnknown (also for what the caller may not see: no oracle)."""
        for info in self.models(caller):
            if info.key == key:
                stored = self.parts.store.get(key, None)
                return info, await self._to_snapshot(stored) if stored else None
        raise ModelUnknown(
            f"there is no model {key} in the cache, or this caller may not see it",
            hint="`cachd ls` lists what there is; `cachd key URI` tells a URI's key",
        )

    # --- leases -----------------------------------------------------------------------------

    async def lease(
        self, key: str, caller: Caller, request: LeaseRequest, revision: str | None = None
    ) -> Lease:
        """Keep a revision from being evicted. Raises ModelUnknown, Forbidden."""
        snapshot = await self.readable(key, caller, revision=revision, lease_id=None)
        return await self._lease(snapshot.key, snapshot.revision, request)

    async def _lease(self, key: str, revision: str, request: LeaseRequest) -> Lease:
        settings = self.parts.settings.leases
        ttl = min(request.ttl or settings.ttl, settings.max_ttl)
        return listing.to_lease(await self.parts.store.lease(key, revision, request.holder, ttl))

    async def renew_lease(
        self, key: str, lease_id: str, ttl: float | None, caller: Caller
    ) -> Lease:
        """A lease's id is the right to renew it. Raises LeaseUnknown."""
        del caller
        admin.check_lease(self.parts.store, key, lease_id)
        limit = self.parts.settings.leases.max_ttl
        return listing.to_lease(
            await self.parts.store.renew(lease_id, None if ttl is None else min(ttl, limit))
        )

    async def release_lease(self, key: str, lease_id: str, caller: Caller) -> None:
        """Let go. Raises LeaseUnknown."""
        del caller
        admin.check_lease(self.parts.store, key, lease_id)
        await self.parts.store.release(lease_id)

    def lease_list(self, key: str) -> list[Lease]:
        """Leases of a key, their ids hidden: an id is a pass."""
        return [listing.to_lease(lease) for lease in self.parts.store.leases(key)]

    # --- administration ---------------------------------------------------------------------

    async def remove(self, key: str, caller: Caller, *, force: bool) -> int:
        """Bytes freed. Raises ModelUnknown, InUse."""
        admin.check_admin(caller)
        return await admin.remove(self.parts, self.flights, key, force=force)

    async def pin(self, key: str, caller: Caller) -> None:
        admin.check_admin(caller)
        await self.parts.store.pin(key)
        self.parts.events.publish("pinned", key=key)

    async def unpin(self, key: str, caller: Caller) -> None:
        admin.check_admin(caller)
        await self.parts.store.unpin(key)
        self.parts.events.publish("unpinned", key=key)

    async def plan(self, ask: Ask | None, needed: int | None, caller: Caller) -> dict[str, Any]:
        """Would it fit, and what would go and why. Changes nothing."""
        size, files = needed or 0, 0
        if ask is not None:
            found = await self._lookup.find(self._understand(ask, caller))
            if isinstance(found, Found):
                return admin.describe_plan(self.parts.store, "hit", 0, 0, self._sees_all(caller))
            size, files = found.size, len(found.files)
        return admin.describe_plan(self.parts.store, "miss", size, files, self._sees_all(caller))

    def _sees_all(self, caller: Caller) -> bool:
        return caller.role == "admin" or self.parts.settings.access.open_hits

    async def gc(self, caller: Caller, *, dry_run: bool, target: int | None) -> dict[str, Any]:
        admin.check_admin(caller)
        return await admin.collect(self.parts, dry_run=dry_run, target=target)

    async def import_tar(
        self, uri: str, caller: Caller, chunks: AsyncIterator[bytes], request_id: str
    ) -> Answer:
        """Take a model from a tar stream; verified against its manifest where it has one."""
        admin.check_admin(caller)
        del request_id
        return await importing.import_tar(self.parts, uri, chunks)

    def events(self, caller: Caller) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on; administrators only."""
        admin.check_admin(caller)
        return self.parts.events.follow()

    # --- state ------------------------------------------------------------------------------

    def usage(self) -> dict[str, Any]:
        """The store's numbers, and fetches in flight and queued."""
        stages = [flight.stage for flight in self.flights.values()]
        queued = stages.count("queued")
        return {
            **listing.usage(self.parts.store),
            "flights_in_flight": len(stages) - queued,
            "flights_queued": queued,
        }

    def readiness(self) -> list[str]:
        """Reasons why the daemon is not ready; empty: it is."""
        reasons = list(self.parts.store.unready())
        if self._draining:
            reasons.append("draining: the daemon is shutting down")
        return reasons

    async def drain(self) -> None:
        """Take no more asks; stop fetching at once and keep the journals."""
        self._draining = True
        flights = list(self.flights.values())
        for flight in flights:
            flight.cancel(
                Draining(
                    "the daemon is shutting down; what was fetched is kept",
                    hint="ask again when it is back: the fetch goes on where it stopped",
                    retry_after=5.0,
                )
            )
        for flight in flights:
            await flight.wait_ended()


def _participant(asked: Asked, plan: Plan, caller: Caller, *, stays: bool = False) -> Participant:
    return Participant(
        request=asked.request,
        fingerprint=asked.principal.fingerprint,
        auth=plan.auth,
        priority="prefetch" if stays else asked.ask.priority,
        uid=caller.uid,
        stays=stays,
    )


def _may_follow(flight: Flight, caller: Caller) -> bool:
    if caller.role == "admin" or not flight.plan.is_credentialed:
        return True
    return any(p.uid is not None and p.uid == caller.uid for p in flight.participants)


def _remaining(ask: Ask, started: float) -> float | None:
    if ask.timeout is None:
        return None
    return max(0.0, ask.timeout - (time.monotonic() - started))


def _too_late(asked: Asked) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{asked.ref.uri} was not there within {asked.ask.timeout:g} s",
        hint="ask again: the fetch lingers for a while and keeps what it has",
    )
