"""The store: one directory of models, its accounting, and who may not be let go.

An asyncio façade for one event loop; blocking work is done in threads. Nothing is read or written
before ``open``. Lock order: ``Ingest._ending``, then ``Context.names``.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import DiskError, ModelUnknown, NotReady, StoreError
from cachd.store import housekeeping
from cachd.store.fsio import remove_file, replace_file
from cachd.store.ingest import Ingest
from cachd.store.layout import Layout
from cachd.store.observe import NoMetrics, SystemClock, ignore_eviction, ignore_step
from cachd.store.opening import open_ingest
from cachd.store.recency import FLUSH_INTERVAL
from cachd.store.relief import Relief
from cachd.store.showing import show
from cachd.store.startup import Opened, Phase, start, stop
from cachd.store.types import GcReport, SpacePlan, StoredLease, StoredSnapshot, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.model import Manifest, Plan, Ref
    from cachd.settings import LeaseSettings, StoreSettings
    from cachd.store.capabilities import Capabilities
    from cachd.store.checks import Checks
    from cachd.store.index import Index
    from cachd.store.observe import Clock, OnEvicted, OnStep, StoreMetrics
    from cachd.store.quarantine import Quarantine
    from cachd.store.rows import Row
    from cachd.store.updates import UpdateRecords
    from cachd.store.views import Views

__all__ = ["Ingest", "Store", "StoredLease", "StoredSnapshot", "Usage"]

log = logging.getLogger("cachd.store")

_LEASE_INTERVAL = 1.0
_TIDY_INTERVAL = 60.0


class Store:
    def __init__(
        self,
        root: Path,
        settings: StoreSettings,
        leases: LeaseSettings,
        *,
        metrics: StoreMetrics | None = None,
        clock: Clock | None = None,
        on_step: OnStep = ignore_step,
        on_evicted: OnEvicted = ignore_eviction,
    ) -> None:
        self.root = Path(root).absolute()
        self.layout = Layout(self.root)
        self._settings = settings
        self._lease_settings = leases
        self._metrics = metrics or NoMetrics()
        self._clock = clock or SystemClock()
        self._on_step = on_step
        self._on_evicted = on_evicted
        self._phase = Phase()
        self._open: Opened | None = None

    # --- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the root ours, take its lock (``standby``: wait for it), scan, start the background.

        Raises VolumeUnexpected, RootUnusable, LayoutUnsupported, RootLocked, DiskError; then the
        store is closed again. Cancellable.
        """
        try:
            opened = await start(
                self.root,
                self._settings,
                self._lease_settings,
                metrics=self._metrics,
                clock=self._clock,
                on_step=self._on_step,
                on_evicted=self._on_evicted,
                phase=self._phase,
            )
        except BaseException:
            self._phase = Phase("the store is closed")
            raise
        self._open = opened
        repeat = opened.context.background.repeat
        interval = self._settings.watch_interval
        repeat("volume watch", opened.room.next_look, self.watch)
        repeat("lease expiry", lambda: _LEASE_INTERVAL, self.expire_leases)
        repeat("keeping of last uses", lambda: FLUSH_INTERVAL, opened.recency.flush)
        repeat("tidying", lambda: min(_TIDY_INTERVAL, interval), self.tidy)
        log.info(
            "store %s on %s: %d snapshots, %d bytes",
            self.root,
            opened.context.capabilities.filesystem,
            len(opened.context.index.snapshots),
            opened.context.index.allocated,
        )

    async def close(self) -> None:
        """Suspend what is being ingested, stop the background, write last uses, let go of the lock.
        Bounded by the file I/O under way; a second call does nothing."""
        opened, self._open = self._open, None
        if opened is not None:
            self._phase = Phase("the store is closed")
            await stop(opened)

    @property
    def checks(self) -> Checks:
        """Reading snapshots against their checksums."""
        return self._opened.checks

    def unready(self) -> list[str]:
        """Why the store can't serve yet, or can't be written, in sentences; empty when it can."""
        if self._open is None:
            return self._phase.reasons()
        return self._open.context.health.unready()

    def degraded(self) -> list[str]:
        """What is wrong though the store serves, in sentences."""
        return [] if self._open is None else list(housekeeping.degraded(self._open))

    @property
    def _opened(self) -> Opened:
        if self._open is None:
            raise NotReady(
                self._phase.sentence, hint="try again when /readyz says ready", retry_after=1.0
            )
        return self._open

    @property
    def quarantine(self) -> Quarantine:
        """Where wrong bytes are kept. Raises NotReady."""
        return self._opened.quarantine

    @property
    def views(self) -> Views:
        """What pods mount. Raises NotReady."""
        return self._opened.views

    @property
    def updates(self) -> UpdateRecords:
        """What is known of newer revisions, and which is given. Raises NotReady."""
        return self._opened.updates

    @property
    def _index(self) -> Index:
        return self._opened.context.index

    @property
    def capabilities(self) -> Capabilities:
        return self._opened.context.capabilities

    # --- looking up ---------------------------------------------------------------------------

    def current(self, ref: Ref) -> StoredSnapshot | None:
        """What is current of just this ref: its key is only a hash. Nothing corrupt. Touches
        nothing."""
        found = self.current_even_corrupt(ref)
        return found if found is not None and not found.damage else None

    def current_even_corrupt(self, ref: Ref) -> StoredSnapshot | None:
        """The same, to say why it is not given."""
        row = self._index.current(ref.key)
        return self._show(row) if row is not None and row.info.ref == ref else None

    def get(self, key: str, revision: str | None = None) -> StoredSnapshot | None:
        """By key; the current revision if none is named."""
        row = self._row(key, revision)
        return self._show(row) if row is not None else None

    def _row(self, key: str, revision: str | None) -> Row | None:
        if revision is None:
            return self._index.current(key)
        return self._index.snapshots.get((key, revision))

    def snapshots(self) -> list[StoredSnapshot]:
        """All of them; a key's current revision before its older ones."""
        rows = sorted(self._index.snapshots.values(), key=lambda row: not row.is_current)
        return [self._show(row) for row in rows]

    def revisions(self, key: str) -> list[StoredSnapshot]:
        """One key's; the current one first, then by last use."""
        rows = sorted(self._index.revisions(key), key=lambda row: not row.is_current)
        return [self._show(row) for row in rows]

    def _show(self, row: Row) -> StoredSnapshot:
        return show(self._opened, row)

    async def load_manifest(self, snapshot: StoredSnapshot) -> Manifest:
        """``snapshot.manifest`` without blocking the event loop. Raises StoreError."""
        context = self._opened.context
        return await context.threads.run(context.manifests.get, snapshot.key, snapshot.revision)

    def touch(self, key: str, revision: str) -> None:
        """It is being used now. An unknown one is passed over."""
        row = self._index.snapshots.get((key, revision))
        if row is not None:
            self._opened.recency.touch(row)

    @contextmanager
    def reading(self, key: str, revision: str, *, is_use: bool = True) -> Iterator[StoredSnapshot]:
        """Keep a snapshot from being evicted while it is read. Raises ModelUnknown."""
        row = self._require(key, revision)
        try:
            with row.read():
                yield self._show(row)
        finally:
            if is_use and self._open is not None:
                self.touch(key, revision)

    def _require(self, key: str, revision: str | None) -> Row:
        row = self._row(key, revision)
        if row is None:
            raise ModelUnknown(
                f"there is no model {key}" + (f" revision {revision}" if revision else ""),
                hint="`cachd ls` lists what is here",
            )
        return row

    # --- filling ------------------------------------------------------------------------------

    async def begin(self, ref: Ref, plan: Plan, *, source: str) -> Ingest:
        """Take the model's lock, reserve its bytes (evicting by policy), open or resume its ingest.

        Files that a snapshot already has are linked; parts that the journal has are in ``done``.
        Raises TooLarge, NoSpace (detail: needed, free, quota, shortfall, held_by), InUse,
        PathUnsafe, DiskFull, DiskError. A caller that is cancelled leaves nothing half done.
        """
        opened = self._opened
        began: list[Ingest] = []

        def publish(row: Row) -> StoredSnapshot:
            opened.recency.touch(row)
            return show(opened, row)

        ingest = await open_ingest(
            opened.context,
            opened.room,
            opened.trash,
            ref,
            plan,
            source=source,
            on_end=lambda: opened.ingests.difference_update(began),
            to_snapshot=publish,
        )
        began.append(ingest)
        opened.ingests.add(ingest)
        return ingest

    def has_ingest(self, ref: Ref, revision: str) -> bool:
        """Whether something of this revision is on its way, or was left to be resumed."""
        row = self._index.ingests.get((ref.key, revision))
        return row is not None and row.info.ref == ref

    def relief(self, ref: Ref, plan: Plan) -> Relief:
        """To be called with each DiskError that the ingest of ``plan`` meets: it returns once there
        is room to go on, or raises what an operator can use."""
        return Relief(self._opened, ref, plan)

    # --- space --------------------------------------------------------------------------------

    def plan_space(self, needed: int, inodes: int = 0, namespace: str | None = None) -> SpacePlan:
        """Would ``needed`` bytes and ``inodes`` fit if ``namespace`` pays, and who would go.
        Judged by the last look at the volume (at most ``watch_interval`` old); changes nothing."""
        return self._opened.room.plan(needed, inodes, namespace)

    async def collect(self, *, dry_run: bool, target: int | None = None) -> GcReport:
        """Let go now of revisions that are no longer current and of expired ingests, and then of
        the least recently used until at most ``target`` bytes (None: the low watermark) are
        charged. What is leased, pinned or in use stays."""
        return await housekeeping.collect(self._opened, dry_run=dry_run, target=target)

    async def remove(self, key: str, *, force: bool = False) -> int:
        """Remove every revision of ``key`` and its unfinished ingests; the bytes that became free.

        Raises ModelUnknown, and InUse if it is leased, pinned, read or being fetched. ``force``
        breaks leases and unpins; what is being fetched goes on.
        """
        rows = [row for row in self._index.ingests.values() if row.key == key]
        rows += self._index.revisions(key)
        if not rows:
            self._require(key, None)
        if force:
            await self.unpin(key)
        return await housekeeping.remove(self._opened, key, rows, force=force)

    def usage(self) -> Usage:
        """The store's numbers now; the volume's as of the last look."""
        return housekeeping.usage(self._opened)

    # --- keeping ------------------------------------------------------------------------------

    async def pin(self, key: str) -> None:
        """Never evict the key's current revision. Raises ModelUnknown, DiskError."""
        self._require(key, None)
        was_pinned = key in self._index.pins
        self._index.pins.add(key)
        try:
            with self._opened.context.disk_errors("writing a pin"):
                await self._opened.context.threads.run(
                    replace_file, self.layout.pins, key, b"", mode=0o600
                )
        except (DiskError, StoreError):
            if not was_pinned:
                self._index.pins.discard(key)
            raise
        self._on_step("pin written")

    async def unpin(self, key: str) -> None:
        """An unpinned key stays as it is."""
        if key in self._index.pins:
            with self._opened.context.disk_errors("removing a pin"):
                await self._opened.context.threads.run(remove_file, self.layout.pin(key))
            self._on_step("pin removed")
            self._index.pins.discard(key)

    def is_pinned(self, key: str) -> bool:
        return key in self._index.pins

    def pins(self) -> list[str]:
        return sorted(self._index.pins)

    async def lease(
        self, key: str, revision: str | None, holder: str, ttl: float | None, pod: str = ""
    ) -> StoredLease:
        """Never evict that revision (None: the current one) for ``ttl`` seconds (None: as the
        settings say), or until ``end_pod``. Raises ModelUnknown, InvalidError, TooManyLeases,
        DiskError."""
        row = self._require(key, revision)
        self._opened.recency.touch(row)
        return await self._opened.leases.grant(row, holder, ttl, pod)

    @property
    def boot_id(self) -> str:
        return self._opened.context.boot_id

    def pods(self) -> dict[str, str]:
        """The pods whose end something waits for, each with the boot that it was last seen in."""
        leases, views = self._opened.leases.pods(), self._opened.views.pods()
        return {**leases, **{uid: boot or leases.get(uid, "") for uid, boot in views.items()}}

    async def end_pod(self, pod: str) -> None:
        """``pod`` is gone: its leases and views end. Raises DiskError."""
        await self._opened.leases.end_pod(pod)
        await self._opened.views.remove(pod, "the pod is gone")

    async def renew(self, lease_id: str, ttl: float | None = None) -> StoredLease:
        """Raises LeaseUnknown, InvalidError, DiskError."""
        lease = await self._opened.leases.renew(lease_id, ttl)
        self.touch(lease.key, lease.revision)
        return lease

    async def release(self, lease_id: str) -> None:
        """By id or handle. Raises LeaseUnknown, DiskError."""
        await self._opened.leases.release(lease_id)

    def find_lease(self, lease_id: str) -> StoredLease | None:
        """The living lease with that id."""
        return self._opened.leases.find(lease_id)

    def leases(self, key: str | None = None) -> list[StoredLease]:
        return self._opened.leases.all(key)

    def lease_count(self, key: str | None = None) -> int:
        """Of one key or all, without looking at each."""
        return self._opened.leases.count(key)

    # --- rounds of the background, which tests and administrators may call too -------------------

    async def watch(self) -> None:
        """Look at the volume, and evict in the background what watermarks and floor ask for."""
        opened = self._opened
        await opened.context.health.look()
        for ingest in list(opened.ingests):
            with suppress(OSError):
                await ingest.measure()
        try:
            if opened.context.health.may_write:
                await opened.room.keep_below()
        finally:
            housekeeping.tell(opened)

    async def expire_leases(self) -> None:
        await self._opened.leases.expire()
        await self._opened.views.expire()

    async def tidy(self) -> None:
        """Let go of revisions and ingests that are only old."""
        await housekeeping.tidy(self._opened)
