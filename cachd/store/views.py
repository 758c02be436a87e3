"""Views: what pods mount. Each is a real directory of one revision, and a promise not to evict.

A record is written before the first link and again after the last, so that a kill in between leaves
a view that is whole or known to be begun. Its pod keeps it, and its revision, until it is gone.
The accounting has one row for each pod's directory; links share their inodes with the snapshot's.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachd.errors import DiskError, InUse, ModelUnknown, StoreError
from cachd.names import do_overlap, is_pod
from cachd.store import viewfiles
from cachd.store.fsio import measure_foreign, remove_file
from cachd.store.rows import Row
from cachd.store.threads import Threads
from cachd.store.types import NOBODY, StoredView
from cachd.store.viewmaking import Maker, Work, view_path
from cachd.store.viewrecords import record_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from cachd.model import Ref
    from cachd.settings import LeaseSettings
    from cachd.store.context import Context
    from cachd.store.fsio import Measured
    from cachd.store.room import Room
    from cachd.store.trash import Trash
    from cachd.store.viewmaking import ViewSpec
    from cachd.store.viewrecords import Until, ViewRecord
    from cachd.store.viewscan import FoundView

log = logging.getLogger("cachd.store")

_THREADS = 2


@dataclass(slots=True)
class _View:
    """``held``: the snapshot's row that it keeps from being evicted."""

    record: ViewRecord
    place: viewfiles.Place
    held: Row | None

    @property
    def shown(self) -> str:
        return f"{self.record.pod}/{self.record.name}"


@dataclass(slots=True)
class _Pod:
    """``expires``: monotonic seconds, infinite while its pod decides."""

    row: Row
    views: dict[str, _View] = field(default_factory=dict)
    expires: float = math.inf


class Views:
    """For one event loop. What is done to one pod's directory is done one after the other."""

    def __init__(self, context: Context, room: Room, trash: Trash, settings: LeaseSettings) -> None:
        self._context = context
        self._until: Until = "ttl" if settings.provider == "ttl" else "pod"
        self._ttl = settings.max_ttl
        self._room = room
        self._trash = trash
        self._threads = Threads(_THREADS, "cachd-view")
        self._maker = Maker(context, room, self._threads)
        self._works: set[Work] = set()
        self._pods: dict[str, _Pod] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self.complaint = ""
        """Why pods can't have views, in a sentence; empty: they can."""

    def interrupt(self) -> None:
        """End copies that are under way; they leave nothing."""
        for work in self._works:
            work.is_over = True

    def close(self) -> None:
        self._threads.close()

    async def restore(self, found: Iterable[FoundView]) -> None:
        """Take up what the scan found, its rows are in the index already. Raises OSError."""
        context = self._context
        self.complaint = await self._threads.run(
            viewfiles.prepare_views, context.layout.views, int(context.settings.views_mode, 8)
        )
        for each in found:
            pod = self._pods.setdefault(each.record.pod, _Pod(each.row))
            # Without a provider nobody will tell when the pod is gone.
            until: Until = each.record.until if self._until == "pod" else "ttl"
            pod.expires = self._end(until, each.record.ttl)
            self._hold(pod, each.record, each.place)
        await self.sweep()

    def _end(self, until: Until, ttl: float) -> float:
        return math.inf if until == "pod" else self._context.clock.monotonic() + ttl

    async def sweep(self) -> None:
        """Look for directories that no view is known of: kubelet made them for pods that have not
        asked yet, or never do. They go like views. Raises OSError."""
        context = self._context
        for uid in await self._threads.run(_directories, context.layout.views):
            async with self._alone(uid):
                if uid in self._pods:
                    continue
                found: Measured = await self._threads.run(
                    measure_foreign, context.layout.views / uid
                )
                row = Row(
                    key="",
                    revision="",
                    info=NOBODY,
                    state="view",
                    place=uid,
                    allocated=found.allocated,
                    inodes=found.inodes,
                )
                context.index.add(row, found.linked)
                self._pods[uid] = _Pod(row, expires=self._end(self._until, self._ttl))

    # --- looking ------------------------------------------------------------------------------

    def find(self, pod: str, name: str) -> StoredView | None:
        """The view of that name, if it is whole."""
        had = self._pods.get(pod)
        view = had.views.get(name) if had is not None else None
        return self._show(had, view) if had is not None and view is not None else None

    def all(self) -> list[StoredView]:
        return [self._show(pod, view) for pod in self._pods.values() for view in pod.views.values()]

    def count(self) -> int:
        return sum(len(pod.views) for pod in self._pods.values())

    def pods(self) -> dict[str, str]:
        """The boot at which the last view was made, by each pod that decides itself how long."""
        return {
            uid: max((view.record.boot_id for view in pod.views.values()), default="")
            for uid, pod in self._pods.items()
            if pod.expires == math.inf
        }

    def _show(self, pod: _Pod, view: _View) -> StoredView:
        record = view.record
        left = pod.expires - self._context.clock.monotonic()
        return StoredView(
            pod=record.pod,
            name=record.name,
            ref=record.ref,
            revision=record.revision,
            mode=record.mode,
            path=view_path(self._context.layout, record.pod, record.name),
            device=view.place.device,
            inode=view.place.inode,
            files=record.files,
            bytes=record.bytes,
            is_writable=view.place.is_writable,
            expires_in=None if left == math.inf else max(0.0, left),
            notes=(record.note,) if record.note else (),
        )

    # --- making -------------------------------------------------------------------------------

    async def make(self, ref: Ref, revision: str, spec: ViewSpec) -> StoredView:
        """The pod's view: the one that it has, of whichever revision of ``ref``, else a new one.

        Raises ModelUnknown, InUse (another model is there), ViewUnavailable, NoSpace, DiskError. A
        caller that is cancelled leaves a view or none.
        """
        work = Work()
        task = self._context.background.own(self._make(ref, revision, spec, work), "view")
        self._works.add(work)
        task.add_done_callback(lambda _: self._works.discard(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            work.is_over = True
            raise

    async def _make(self, ref: Ref, revision: str, spec: ViewSpec, work: Work) -> StoredView:
        async with self._alone(spec.pod):
            had = self.find(spec.pod, spec.name)
            if had is not None and had.ref == ref:
                self._renew(spec)
                return had
            self._check_free(spec, ref)
            row = self._context.index.snapshots.get((ref.key, revision))
            if row is None or row.info.ref != ref:
                raise ModelUnknown(
                    f"the model {ref.key} was removed in the meantime", hint="ask for it again"
                )
            with row.read():
                return await self._fill(row, spec, work)

    def _check_free(self, spec: ViewSpec, ref: Ref) -> None:
        pod = self._pods.get(spec.pod)
        for name, view in pod.views.items() if pod is not None else ():
            if do_overlap(name, spec.name):
                raise InUse(
                    f"the pod {spec.pod} has a view of {view.record.ref.uri} at "
                    f"{name or 'the top of its directory'}, so {ref.uri} can't be put at "
                    f"{spec.name or 'its top'}",
                    hint="give each model of a pod a directory of its own; a view stays what it is "
                    "until its pod is gone, or DELETE /v1/views/{pod}",
                    held_by=["view"],
                )

    async def _fill(self, source: Row, spec: ViewSpec, work: Work) -> StoredView:
        index = self._context.index
        pod = self._pods.get(spec.pod)
        if pod is None:
            pod = _Pod(Row(key="", revision="", info=NOBODY, state="view", place=spec.pod))
            index.add(pod.row, {})
        if spec.namespace is not None:
            pod.row.info = replace(NOBODY, namespace=spec.namespace)
        try:
            record, place = await self._maker.make(source, spec, pod.row, work)
        except BaseException:
            if pod.row.allocated and spec.pod not in self._pods:
                # The directory stays, for the pod may have it mounted.
                pod.expires = self._end(self._until, self._ttl)
                self._pods[spec.pod] = pod
            elif self._pods.get(spec.pod) is not pod:
                index.discard(pod.row)
            raise
        self._pods[spec.pod] = pod
        view = self._hold(pod, record, place)
        self._renew(spec)
        log.info(
            "view %s of %s revision %s: %d files, mode %s",
            view.shown,
            source.key,
            source.revision,
            record.files,
            record.mode,
            extra={"key": source.key},
        )
        return replace(self._show(pod, view), is_new=True)

    def _hold(self, pod: _Pod, record: ViewRecord, place: viewfiles.Place) -> _View:
        held = None
        if record.mode == "link":
            held = self._context.index.snapshots.get((record.ref.key, record.revision))
        view = _View(record, place, held)
        pod.views[record.name] = view
        for row in (pod.row, held):
            if row is not None:
                row.views += (view.shown,)
        return view

    def _renew(self, spec: ViewSpec) -> None:
        self._pods[spec.pod].expires = self._end(spec.until, spec.ttl)

    # --- letting go ---------------------------------------------------------------------------

    async def remove(self, pod: str, reason: str = "requested") -> int:
        """Take all views of ``pod`` away, and its directory; how many there were. Raises
        DiskError."""
        work = self._remove(pod, reason)
        return await asyncio.shield(self._context.background.own(work, "view removal"))

    async def _remove(self, uid: str, reason: str) -> int:
        async with self._alone(uid):
            return await self._remove_alone(uid, reason)

    async def _remove_alone(self, uid: str, reason: str) -> int:
        context = self._context
        pod = self._pods.pop(uid, None)
        if pod is None:
            return 0
        try:
            await self._trash.discard([pod.row])
        except (DiskError, StoreError):
            self._pods[uid] = pod
            raise
        for view in pod.views.values():
            if view.held is not None:
                view.held.views = tuple(v for v in view.held.views if v != view.shown)
                view.held.used_at = context.clock.monotonic()
        for view in pod.views.values():
            with context.disk_errors("removing a view's record"):
                name = record_name(view.record.pod, view.record.name)
                await context.threads.run(remove_file, context.layout.view_records / name)
        context.on_step("view removed")
        log.info("the views of pod %s are gone: %d, %s", uid, len(pod.views), reason)
        return len(pod.views)

    async def expire(self) -> None:
        """Take away what nobody renewed."""
        now = self._context.clock.monotonic()
        for uid in [uid for uid, pod in self._pods.items() if pod.expires <= now]:
            try:
                await self.remove(uid, "nobody renewed them")
            except (DiskError, StoreError) as error:
                log.warning("the views of pod %s stay for now: %s", uid, error)

    @asynccontextmanager
    async def _alone(self, pod: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(pod, (asyncio.Lock(), 0))
        self._locks[pod] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[pod]
            if users == 1:
                del self._locks[pod]
            else:
                self._locks[pod] = lock, users - 1


def _directories(views: Path) -> list[str]:
    with os.scandir(views) as entries:
        return [
            entry.name
            for entry in entries
            if is_pod(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
