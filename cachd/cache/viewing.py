"""Views in the way of an ask: the one that a pod has stays its own; a new one is made last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cachd.cache import listing
from cachd.cache.lookup import Found
from cachd.cache.types import Answer
from cachd.errors import DigestMismatch
from cachd.store.viewmaking import ViewSpec

if TYPE_CHECKING:
    from cachd.cache.lookup import Lookup
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.model import Plan
    from cachd.store.types import StoredSnapshot, StoredView


class Viewing:
    def __init__(self, parts: Parts, lookup: Lookup) -> None:
        self._parts = parts
        self._lookup = lookup

    def kept(self, asked: Asked) -> StoredView | None:
        """The view that the ask's pod has of the very model; none that is known to be damaged."""
        request = asked.ask.view
        if request is None:
            return None
        view = self._parts.store.views.find(request.pod, request.name)
        if view is None or view.ref != asked.ref:
            return None
        snapshot = self._parts.store.get(view.ref.key, view.revision)
        return None if snapshot is not None and snapshot.damage else view

    def may_keep(self, asked: Asked, view: StoredView) -> bool:
        """Whether it may be given without the source being asked: that pod itself asks, or what is
        in it may be had by anybody, or by this principal."""
        parts = self._parts
        snapshot = parts.store.get(view.ref.key, view.revision)
        if asked.is_own_pod:
            return True
        if snapshot is not None:
            info = snapshot.info
            if not info.is_credentialed or self._lookup.has_open_hits(asked, info.named):
                return True
        elif asked.has_open_hits and not asked.location.registries:
            return True
        return parts.proofs.ever_held(asked.prover, asked.ref, view.revision)

    async def keep(self, asked: Asked, view: StoredView, found: Found | Plan) -> StoredView:
        """The view: whoever may have the model's present state may have what the pod has of it.
        Where a registry's name led elsewhere then, the pass is proven there. Raises Forbidden,
        AccessError."""
        snapshot = self._parts.store.get(view.ref.key, view.revision)
        named = snapshot.info.named if snapshot is not None else None
        now = found.snapshot.info.named if isinstance(found, Found) else found.named
        if asked.location.registries and named != now:
            await self._lookup.prove_named(asked, named)
        return view

    async def give(self, asked: Asked, snapshot: StoredSnapshot) -> StoredView:
        """Make the view, or find it. Raises InUse, ViewUnavailable, NoSpace, DiskError."""
        request, settings = asked.ask.view, self._parts.settings.leases
        assert request is not None, "an ask without a view"
        wanted = asked.ask.lease.ttl if asked.ask.lease is not None else None
        spec = ViewSpec(
            pod=request.pod,
            name=request.name,
            mode=request.mode,
            until="pod" if self._parts.pods.can_tell else "ttl",
            ttl=min(wanted or settings.max_ttl, settings.max_ttl),
            namespace=asked.caller.payer if asked.caller is not None else None,
        )
        return await self._parts.store.views.make(asked.ref, snapshot.revision, spec)

    def answer(self, asked: Asked, view: StoredView, started: float) -> Answer:
        """Of a view that outlived its snapshot (an administrator removed that by force)."""
        if asked.ask.pins:
            raise DigestMismatch(
                f"the pod's view of {view.ref.uri} outlived what it was made of, so nobody can "
                "compare it with the digests that are pinned",
                hint="start a new pod",
            )
        self._parts.metrics.looked_up("hit")
        seconds = round(time.monotonic() - started, 6)
        return Answer(
            key=view.ref.key,
            revision=view.revision,
            uri=view.ref.uri,
            origin=view.ref.origin,
            path=str(view.path),
            files=view.files,
            bytes=view.bytes,
            result="hit",
            is_shared_flight=False,
            is_validated=False,
            fetched_bytes=0,
            timings={"resolve": seconds, "total": seconds},
            view=listing.to_view(view),
        )
