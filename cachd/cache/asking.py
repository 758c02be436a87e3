"""The way of one ask: look up, board a flight, follow it, answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.cache import listing, mirrors
from cachd.cache.anywhere import has_places
from cachd.cache.digest_pins import DigestPins
from cachd.cache.flight import Flight
from cachd.cache.lookup import Found
from cachd.cache.naming import follow
from cachd.cache.participant import EndpointFailed, FlightRefused, Participant
from cachd.cache.refreshing import Refresher
from cachd.cache.types import Answer, Event
from cachd.cache.viewing import Viewing
from cachd.errors import (
    CachdError,
    DeadlineExceeded,
    DigestMismatch,
    Draining,
    OriginChanged,
    OriginError,
    Overloaded,
    UpstreamLoop,
)
from cachd.fetch.breaker import verdict_of
from cachd.fetch.job import is_upstream
from cachd.model import Plan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cachd.cache.flight import Stage
    from cachd.cache.lookup import Lookup
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Ask, Lease, LeaseRequest, Result
    from cachd.model import Ref
    from cachd.store.types import StoredSnapshot, StoredView

log = logging.getLogger("cachd.cache")

_PROGRESS_INTERVAL = 0.5
_STAGE_INTERVAL = 0.1
_REPLANS = 3


class Asking:
    """Holds the flights that are under way, by ref and revision."""

    def __init__(self, parts: Parts, lookup: Lookup) -> None:
        self._parts = parts
        self._lookup = lookup
        self.flights: dict[tuple[Ref, str], Flight] = {}
        self.is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.refresher = Refresher(parts, self.prefetch)
        self._views = Viewing(parts, lookup)

    async def follow(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """Events until the model is there; the last is ``ready``. Closing the iteration says that
        the caller went away. Raises CachdError."""
        started = time.monotonic()
        attempt = 0
        while True:
            try:
                async with contextlib.aclosing(self._ask_once(asked, started)) as events:
                    async for event in events:
                        yield event
            except (OriginChanged, FlightRefused) as error:
                cause = error.error if isinstance(error, FlightRefused) else error
                if attempt == _REPLANS:
                    raise cause from None
                attempt += 1
                log.info("%s: %s; planning again", asked.ref.key, cause.message)
                yield Event(name="retry", data={"cause": cause.code, "message": cause.message})
            except EndpointFailed as failed:
                avoid = asked.avoid | {failed.endpoint}
                asked = replace(asked, avoid=avoid)
                if not has_places(replace(failed.place or asked, avoid=avoid), self._parts):
                    stale = self._lookup.stale(asked)
                    if stale is None:
                        raise failed.error from None
                    await self._check_pins(asked, stale.snapshot, started)
                    log.warning("%s is served stale: %s", asked.ref.key, failed.error.message)
                    answer = await self._answer(asked, stale.snapshot, stale.result, started)
                    yield Event(name="ready", answer=answer)
                    return
                log.warning("%s: %s; going on elsewhere", asked.ref.key, failed.error.message)
                data = {"cause": failed.error.code, "message": failed.error.message}
                yield Event(name="retry", data=data)
            else:
                return

    async def start(self, asked: Asked) -> Answer | dict[str, Any]:
        """Without waiting: the answer if the model is there, else a fetch that goes on to its end,
        described by ``key``, ``state`` and ``progress``."""
        started = time.monotonic()
        found = await self._find(asked)
        if not isinstance(found, Plan):
            return await self._answer_found(asked, found, started)
        flight = await self._stay(asked, found)
        return {"key": asked.ref.key, "state": "fetching", "progress": flight.progress()}

    async def prefetch(self, asked: Asked, plan: Plan) -> None:
        """Have ``plan`` fetched, to its end, with nobody waiting."""
        await self._stay(asked, plan)

    async def _stay(self, asked: Asked, plan: Plan) -> Flight:
        place = self.at(asked, plan)
        flight, _ = await self.board(plan, place)
        if not any(
            p.stays and p.fingerprint == place.prover.fingerprint and p.pins == asked.ask.pins
            for p in flight.participants
        ):
            flight.join(_participant(place, plan, stays=True))
            if has_places(replace(place, avoid=asked.avoid | {plan.mirror}), self._parts):
                task = asyncio.create_task(self._see_through(asked, flight), name="see-through")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return flight

    async def _see_through(self, asked: Asked, flight: Flight) -> None:
        """What nobody waits for goes on at a mirror, too; its flight's end ends this."""
        await asyncio.wait({flight.done})
        error = None if flight.done.cancelled() else flight.done.exception()
        if not isinstance(error, OriginError) or verdict_of(error) not in ("busy", "bad"):
            return
        asked = replace(asked, avoid=asked.avoid | {flight.plan.mirror})
        if not has_places(follow(asked, flight.plan), self._parts):
            return
        try:
            found = await self._lookup.find(asked)
            if plan := found.ahead if isinstance(found, Found) else found:
                await self._stay(asked, plan)
        except CachdError as problem:
            log.warning("%s can't go on elsewhere: %s", asked.ref.key, problem.message)

    async def _ask_once(self, asked: Asked, started: float) -> AsyncGenerator[Event, None]:
        yield Event(name="resolving", data={"key": asked.ref.key, "origin": asked.ref.origin})
        try:
            async with asyncio.timeout(_remaining(asked.ask, started)):
                found = await self._find(asked)
        except TimeoutError:
            raise _too_late(asked) from None
        if not isinstance(found, Plan):
            answer = await self._answer_found(asked, found, started)
            yield Event(name="ready", answer=answer)
            return
        resolve_seconds = time.monotonic() - started
        plan = found
        asked = self.at(asked, plan)
        flight, is_shared = await self.board(plan, asked)
        participant = _participant(asked, plan)
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
                try:
                    snapshot = await flight.wait(
                        participant, patience if left is None else min(left, patience)
                    )
                except EndpointFailed as failed:
                    failed.place = asked
                    raise
                if snapshot is not None:
                    break
            # Who came late may pin what was not looked at before the publication.
            await self._check_pins(asked, snapshot, started)
            timings = {"resolve": resolve_seconds, **flight.timings}
            answer = await self._answer(
                asked,
                snapshot,
                "miss",
                started,
                timings=timings,
                fetched_bytes=flight.fetched_bytes,
                is_shared=is_shared,
                flight=flight,
            )
        finally:
            flight.leave(participant)
        yield Event(name="ready", answer=answer)

    async def _find(self, asked: Asked) -> Found | StoredView | Plan:
        """What may be given and is what the caller pins; or the plan of what must be fetched. A pod
        that has a view keeps it, whatever its source has by now.

        A pin may be newer than what is given: the source is asked before it counts as wrong, and
        who pins what that has now is given it, though the others aren't yet.
        """
        pins, pinning = asked.ask.pins, self._parts.pinning
        kept = self._views.kept(asked)
        if kept is not None and self._views.may_keep(asked, kept):
            return kept
        found = await self._lookup.find(asked)
        if isinstance(found, Found) and pins:
            try:
                await pinning.check(pins, found.snapshot)
            except DigestMismatch:
                if found.was_asked or found.result == "stale":
                    raise
                found = await self._lookup.find(asked, is_forced=True, is_newest=True)
                if isinstance(found, Found):
                    await pinning.check(pins, found.snapshot)
        if isinstance(found, Found) and found.ahead is not None:
            await self._fetch_ahead(asked, found.ahead)
        return found if kept is None else await self._views.keep(asked, kept, found)

    async def _fetch_ahead(self, asked: Asked, plan: Plan) -> None:
        """Have it fetched with the pass that showed it, as if nobody had asked: for who did has
        what is current."""
        ask = replace(asked.ask, priority="prefetch", pins=DigestPins(), lease=None, view=None)
        try:
            await self.prefetch(replace(asked, ask=ask, caller=None), plan)
        except CachdError as error:
            log.warning("%s can't be fetched ahead: %s", asked.ref.key, error.message)

    async def _answer_found(
        self, asked: Asked, found: Found | StoredView, started: float
    ) -> Answer:
        if isinstance(found, Found):
            return await self._answer(asked, found.snapshot, found.result, started)
        snapshot = self._parts.store.get(found.ref.key, found.revision)
        if snapshot is not None and snapshot.ref == found.ref:
            await self._check_pins(asked, snapshot, started)
            return await self._answer(asked, snapshot, "hit", started)
        return self._views.answer(asked, found, started)

    async def _check_pins(self, asked: Asked, snapshot: StoredSnapshot, started: float) -> None:
        try:
            async with asyncio.timeout(_remaining(asked.ask, started)):
                await self._parts.pinning.check(asked.ask.pins, snapshot)
        except TimeoutError:
            raise _too_late(asked) from None

    def at(self, asked: Asked, plan: Plan) -> Asked:
        """The ask at the endpoint that showed the plan."""
        if plan.mirror and not is_upstream(plan.mirror):
            same = any(place == (asked.ref, plan.revision) for place in self.flights)
            same = same or self._parts.store.has_ingest(asked.ref, plan.revision)
            self._parts.metrics.mirror_used("same" if same else "other")
        asked = follow(asked, plan)
        return mirrors.place(asked, plan.mirror, self._parts.settings.sources)

    async def board(self, plan: Plan, asked: Asked) -> tuple[Flight, bool]:
        """The flight for this revision, and whether it was under way already."""
        place = (asked.ref, plan.revision)
        while (flight := self.flights.get(place)) is not None and flight.is_stopping:
            await flight.wait_ended()
        if self.is_closed:
            # The ask was at the source when the drain began.
            raise Draining(
                "the daemon is shutting down", hint="ask again in a moment", retry_after=5.0
            )
        if flight is not None:
            if flight.nearby.waits_at and flight.nearby.waits_at in asked.ask.via:
                raise UpstreamLoop(
                    f"{asked.ref.key} is waited for at who asks for it",
                    hint="fetch it from its origin",
                )
            return flight, True
        settings = self._parts.settings.fetch
        if self._parts.slots.waiting >= settings.max_queued_models:
            raise Overloaded(
                f"{settings.max_queued_models} models wait to be fetched already",
                hint="ask again later; fetch.max_queued_models sets the limit",
                retry_after=10.0,
            )
        is_bound = bool(asked.principal.credentials.query or plan.connect.client_pem)
        plan = replace(plan, namespace=self._payer(asked))
        flight = Flight(asked.ref, plan, self._parts, self._landed, is_bound=is_bound)
        self.flights[place] = flight
        self._parts.events.publish("fetch_started", key=asked.ref.key, revision=plan.revision)
        flight.start()
        return flight, False

    def _payer(self, asked: Asked) -> str | None:
        """The namespace of who asks; the daemon's own asks are paid as what is there is."""
        if asked.caller is None:
            known = self._parts.store.current_even_corrupt(asked.ref)
            return None if known is None else known.info.namespace
        return asked.caller.payer

    def _landed(self, flight: Flight, error: str | None) -> None:
        if self.flights.get((flight.ref, flight.revision)) is flight:
            del self.flights[flight.ref, flight.revision]
        self._parts.events.publish(
            "fetch_failed" if error else "fetch_ended",
            key=flight.ref.key,
            revision=flight.revision,
            **({"code": error} if error else {}),
        )
        for phase, seconds in flight.timings.items():
            self._parts.metrics.phase(phase, seconds)

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
        flight: Flight | None = None,
    ) -> Answer:
        # The rules may have changed since it asked.
        self._lookup.check(asked, "read", snapshot.info.named)
        self._parts.store.touch(snapshot.key, snapshot.revision)
        self.refresher.note_use(asked.ref)
        lease = view = None
        if asked.ask.view is not None:
            view = await self._views.give(asked, snapshot)
            if view.revision != snapshot.revision:
                return await self._answer_found(asked, view, started)
        if asked.ask.lease is not None:
            lease = await self.lease(snapshot.key, snapshot.revision, asked.ask.lease)
        self._parts.metrics.looked_up(result)
        total = time.monotonic() - started
        self._parts.metrics.phase("total", total)
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
            mirror=flight.plan.mirror if flight else "",
            upstream=flight.nearby.endpoint if flight else "",
            upstream_bytes=flight.nearby.share_of(flight.fetched_bytes) if flight else 0,
            timings={name: round(seconds, 6) for name, seconds in spent.items()},
            lease=lease,
            view=listing.to_view(view) if view is not None else None,
            update=self._parts.updates.told(snapshot),
        )

    async def lease(self, key: str, revision: str, request: LeaseRequest) -> Lease:
        settings, pods = self._parts.settings.leases, self._parts.pods
        ttl = min(request.ttl or settings.ttl, settings.max_ttl)
        pod = request.pod if pods.can_tell else ""
        stored = await self._parts.store.lease(key, revision, request.holder, ttl, pod)
        return listing.to_lease(stored)


def _participant(asked: Asked, plan: Plan, *, stays: bool = False) -> Participant:
    return Participant(
        request=asked.request,
        fingerprint=asked.prover.fingerprint,
        named_as=asked.led.identity if asked.led else "anonymous",
        auth=plan.auth,
        is_credentialed=plan.is_credentialed,
        priority="prefetch" if stays else asked.ask.priority,
        stays=stays,
        pins=asked.ask.pins,
        mirror=plan.mirror,
        via=asked.ask.via,
    )


def _remaining(ask: Ask, started: float) -> float | None:
    if ask.timeout is None:
        return None
    return max(0.0, ask.timeout - (time.monotonic() - started))


def _too_late(asked: Asked) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{asked.ref.uri} was not there within {asked.ask.timeout:g} s",
        hint="ask again: the fetch lingers for a while and keeps what it has",
    )
