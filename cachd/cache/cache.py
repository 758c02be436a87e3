"""The cache: the only place that knows store, sources and fetch. Every call names its caller."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.cache import admin, condition, importing, listing
from cachd.cache.anywhere import check_hops
from cachd.cache.asking import Asking
from cachd.cache.lookup import Found, Lookup, corrupt_error
from cachd.cache.prefetching import Prefetcher
from cachd.cache.rights import Rights
from cachd.cache.scrub import Scrub
from cachd.cache.telling import tell_failed, tell_ready
from cachd.cache.types import Snapshot
from cachd.errors import CachdError, Draining, Forbidden, ModelUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager

    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import (
        Answer,
        Ask,
        Caller,
        Event,
        Lease,
        LeaseRequest,
        ModelInfo,
        View,
    )
    from cachd.model import Ref
    from cachd.settings import Settings, Verb
    from cachd.store.types import StoredSnapshot


class Cache:
    """Asks, reads, leases and administration; see ``api.protocol`` for the contract."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._lookup = Lookup(parts, os.getuid() if _is_own_uid_trusted(parts.settings) else None)
        self._asking = Asking(parts, self._lookup)
        self._rights = Rights(parts, self._lookup, self._asking.flights)
        self._scrub = Scrub(parts, self._asking)
        self._prefetcher = Prefetcher(parts, self._lookup, self._asking.follow)
        self._draining = False

    def start(self) -> None:
        """Begin what is done without being asked; ``close`` ends it."""
        self.parts.pods.start()
        self._scrub.start()
        self._asking.refresher.start()
        self._prefetcher.start()

    async def close(self) -> None:
        """A second call does nothing."""
        await self.parts.pods.close()
        await self._prefetcher.stop()
        await self._scrub.stop()
        await self._asking.refresher.stop()
        await self.parts.upstreams.close()

    # --- asking -----------------------------------------------------------------------------

    async def ask(self, ask: Ask, caller: Caller) -> AsyncIterator[Event]:
        """Events until the model is there; the last is ``ready``. Closing the iteration says that
        the caller went away. Raises CachdError."""
        asked = await self._admit(ask, caller)
        try:
            async with contextlib.aclosing(self._asking.follow(asked)) as events:
                with admin.without_pods(caller):
                    async for event in events:
                        if event.answer is not None:
                            tell_ready(self.parts.events, caller, event.answer)
                        yield event
        except CachdError as error:
            tell_failed(self.parts.events, caller, asked.ref, error)
            raise

    async def request(self, ask: Ask, caller: Caller) -> Answer | dict[str, Any]:
        """Without waiting: the answer if the model is there, else a fetch that goes on to its end,
        described by ``key``, ``state`` and ``progress``."""
        with admin.without_pods(caller):
            return await self._asking.start(await self._admit(ask, caller))

    def name(self, ask: Ask, caller: Caller) -> Ref:
        """The ref that the ask names, with its key. Nothing is asked of the source. Raises
        Forbidden for what the caller may not read."""
        return self._lookup.understand(ask, caller).ref

    def _understand(self, ask: Ask, caller: Caller) -> Asked:
        if self._draining:
            raise Draining(
                "the daemon is shutting down", hint="ask again in a moment", retry_after=5.0
            )
        check_hops(ask)
        return self._lookup.understand(ask, caller)

    async def _admit(self, ask: Ask, caller: Caller) -> Asked:
        asked = self._understand(ask, caller)
        return replace(asked, is_own_pod=await self.parts.pods.check_ask(ask, caller))

    # --- reading ----------------------------------------------------------------------------

    async def readable(
        self, key: str, caller: Caller, *, revision: str | None, lease_id: str | None
    ) -> Snapshot:
        """The snapshot, if ``caller`` may read it. Raises ModelUnknown, Forbidden."""
        passed = self._passed(key, revision, lease_id)
        snapshot = passed or self.parts.store.get(key, revision)
        if snapshot is not None and not self._rights.check_read(
            snapshot, caller, is_passed=passed is not None
        ):
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
        if snapshot.damage:
            raise corrupt_error(snapshot)
        self.parts.store.touch(snapshot.key, snapshot.revision)
        return await self._to_snapshot(snapshot)

    def _passed(
        self, key: str, revision: str | None, lease_id: str | None
    ) -> StoredSnapshot | None:
        """What the lease alone opens: its own revision, for another one was perhaps never shown to
        its holder."""
        lease = self.parts.store.find_lease(lease_id) if lease_id else None
        if lease is None or lease.key != key or revision not in (None, lease.revision):
            return None
        return self.parts.store.get(key, lease.revision)

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
        may_see, may_follow = self._rights.sight(caller)
        flights = self._asking.flights.values()
        rows = listing.models(self.parts, flights, may_see, may_follow)
        return [self._rights.veil(row, caller) for row in rows]

    async def model(
        self,
        key: str,
        caller: Caller,
        *,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> tuple[ModelInfo, Snapshot | None]:
        """One key as of ``revision``; None: the lease's, else the current one. Raises ModelUnknown
        (also for what the caller may not see: no oracle)."""
        may_see, may_follow = self._rights.sight(caller)
        passed = self._passed(key, revision, lease_id)
        if passed is not None:
            self._rights.check_read(passed, caller, is_passed=True)
        seen = [
            snapshot
            for snapshot in self.parts.store.revisions(key)
            if may_see(snapshot) or (passed is not None and snapshot.revision == passed.revision)
        ]
        shown = passed or next((s for s in seen if revision in (None, s.revision)), None)
        flight = next(
            (
                flight
                for flight in self._asking.flights.values()
                if flight.ref.key == key and may_follow(flight)
            ),
            None,
        )
        if shown is not None:
            info = replace(
                listing.ready_row(self.parts, shown, seen, flight),
                checked_ago=self.parts.freshness.age(shown.ref),
                refresh_in=self._asking.refresher.next_in(shown),
                promoted=self.parts.updates.promoted(shown),
            )
            return self._rights.veil(info, caller), await self._to_snapshot(shown)
        if flight is not None and revision is None:
            return self._rights.veil(listing.fetching_row(flight), caller), None
        raise ModelUnknown(
            f"there is no model {key} in the cache"
            + (f" at {revision}" if revision else "")
            + ", or this caller may not see it",
            hint="`cachd ls` lists what there is; `cachd key URI` tells a URI's key",
        )

    # --- leases -----------------------------------------------------------------------------

    async def lease(
        self,
        key: str,
        caller: Caller,
        request: LeaseRequest,
        revision: str | None = None,
        lease_id: str | None = None,
    ) -> Lease:
        """Keep a revision from being evicted. ``lease_id`` is a pass, as in ``readable``. Raises
        ModelUnknown, Forbidden, TooManyLeases."""
        if request.pod:
            await self.parts.pods.check(request.pod, caller)
        snapshot = await self.readable(key, caller, revision=revision, lease_id=lease_id)
        return await self._asking.lease(snapshot.key, snapshot.revision, request)

    async def renew_lease(
        self, key: str, lease_id: str, ttl: float | None, caller: Caller
    ) -> Lease:
        """A lease's id is the right to renew it, while the rules let the caller read the model.
        Raises LeaseUnknown, Forbidden."""
        admin.check_lease(self.parts.store, key, lease_id)
        snapshot = self._passed(key, None, lease_id)
        if snapshot is not None:
            self._rights.check_read(snapshot, caller, is_passed=True)
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

    # --- views ------------------------------------------------------------------------------

    async def views(self, caller: Caller) -> list[View]:
        """All of them for administrators; else those of the pod that the caller is proven to be."""
        name_of = self.parts.pods.provider.name_of
        views = await self.parts.pods.views(caller)
        return [listing.to_view(view, name_of(view.pod)) for view in views]

    async def remove_views(self, pod: str, caller: Caller) -> int:
        """Take a pod's views away; how many there were. Raises Forbidden, DiskError."""
        await self.parts.pods.prove(pod, caller)
        return await self.parts.store.views.remove(pod)

    # --- administration ---------------------------------------------------------------------

    async def remove(self, key: str, caller: Caller, *, force: bool) -> int:
        """Bytes freed. Raises ModelUnknown, InUse."""
        self._rights.check(caller, "evict", key)
        return await admin.remove(self.parts, self._asking.flights, key, force=force)

    async def pin(self, key: str, caller: Caller) -> None:
        self._rights.check(caller, "pin", key)
        await admin.pin(self.parts, key)

    async def unpin(self, key: str, caller: Caller) -> None:
        self._rights.check(caller, "pin", key)
        await admin.unpin(self.parts, key)

    async def promote(self, key: str, revision: str | None, caller: Caller) -> dict[str, str]:
        """Make a revision current: the one named, else what waits. Raises ModelUnknown,
        ModelCorrupt, InvalidError, DiskError."""
        self._rights.check(caller, "admin", key)
        return await admin.promote(self.parts, self._asking, key, revision, caller)

    async def plan(self, ask: Ask | None, needed: int | None, caller: Caller) -> dict[str, Any]:
        """Would it fit, and what would go and why. Changes nothing."""
        result, size, files = "miss", needed or 0, 0
        if ask is not None:
            found = await self._lookup.find(self._understand(ask, caller))
            if isinstance(found, Found):
                result = "hit"
            else:
                size, files = found.size, len(found.files)
        sees_all = self._rights.sees_all(caller)
        space = self.parts.store.plan_space(size, files, caller.payer)
        return admin.describe_plan(self.parts.store, result, space, see_all=sees_all, caller=caller)

    async def gc(self, caller: Caller, *, dry_run: bool, target: int | None) -> dict[str, Any]:
        self._rights.check(caller, "evict", None)
        return await admin.collect(self.parts, dry_run=dry_run, target=target)

    async def verify(
        self, key: str | None, caller: Caller, *, repair: bool, rate: int | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a model, or all, against the checksums; see ``Scrub.verify``."""
        self._rights.check(caller, "admin", key)
        events = self._scrub.verify(key, with_repair=repair, rate=rate)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def import_tar(
        self, uri: str, caller: Caller, chunks: AsyncIterator[bytes], request_id: str
    ) -> Answer:
        """Take a model from a tar stream; verified against its manifest where it has one."""
        del request_id
        self._rights.check_uri(caller, "admin", uri)
        return await importing.import_tar(self.parts, uri, chunks)

    def prefetched(self, caller: Caller) -> list[dict[str, Any]]:
        """What should be here without being asked for, and how far it is. Raises Forbidden."""
        self.authorize(caller, "admin")
        return self._prefetcher.describe()

    async def events(self, caller: Caller) -> AsyncIterator[dict[str, Any]]:
        """What happens from now on. Raises Forbidden; of what the caller may not read it is not
        told."""
        self.authorize(caller, "admin")
        following = self.parts.events.follow()
        async with contextlib.aclosing(following):
            async for event in following:
                if caller.role == "admin" or self._rights.may_hear(event, caller):
                    yield event

    # --- who may ----------------------------------------------------------------------------

    def authorize(self, caller: Caller, verb: Verb) -> None:
        """Raises Forbidden unless ``caller`` may ``verb`` whatever there is."""
        self.parts.policy.check(caller, verb, None)

    def admit(self, caller: Caller, verb: Verb, what: str) -> None:
        """Raises Forbidden where no rule could let ``caller`` do that to any model."""
        self.parts.policy.check_any(caller, verb, what)

    def may(self, caller: Caller, verb: Verb, uri: str | None) -> dict[str, Any]:
        """What the rules say, and why; for administrators who ask about somebody else."""
        return self._rights.explain(caller, verb, uri)

    # --- state ------------------------------------------------------------------------------

    def usage(self, caller: Caller | None = None) -> dict[str, Any]:
        """The store's numbers, and fetches in flight and queued; ``caller`` None: for operators."""
        told = condition.usage(self.parts, self._asking.flights.values(), caller)
        return {**told, **self._prefetcher.usage()}

    def uris(self) -> tuple[list[str], list[str]]:
        """The URIs of what may be given now, and of what is being fetched."""
        return listing.uris(self.parts.store, self._asking.flights.values())

    def degraded(self) -> list[str]:
        """What is wrong with the store, the rules or the provider of pods though it serves."""
        return condition.degraded(self.parts)

    def readiness(self) -> list[str]:
        """Reasons why the daemon is not ready; empty: it is."""
        reasons = list(self.parts.store.unready())
        if self._draining:
            reasons.append("draining: the daemon is shutting down")
        return reasons

    async def drain(self) -> None:
        """Take no more asks; stop fetching at once and keep the journals."""
        self._draining = self._asking.is_closed = True
        await self.close()
        flights = list(self._asking.flights.values())
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


def _is_own_uid_trusted(settings: Settings) -> bool:
    """In a cluster whoever makes a pod chooses its uid."""
    wanted = settings.access.trust_own_uid
    return not settings.kubernetes.enabled if wanted is None else wanted
