"""From a directory to an open store, and back: root, lock, scan, background."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.store.background import Background
from cachd.store.capabilities import probe
from cachd.store.checks import Checks
from cachd.store.context import Context
from cachd.store.fsio import disk_errors, statvfs
from cachd.store.guard import check_volume
from cachd.store.index import Index
from cachd.store.layout import DaemonLock, Layout, make_directories, prepare_root
from cachd.store.leases import Leases
from cachd.store.linux import boot_id
from cachd.store.manifests import Manifests
from cachd.store.quarantine import Quarantine
from cachd.store.recency import Recency
from cachd.store.recovery import Progress, scan
from cachd.store.room import Room
from cachd.store.threads import Threads
from cachd.store.trash import Trash
from cachd.store.updates import UpdateRecords
from cachd.store.views import Views

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.settings import LeaseSettings, StoreSettings
    from cachd.store.ingest import Ingest
    from cachd.store.observe import Clock, OnEvicted, OnStep, StoreMetrics
    from cachd.store.recovery import Found

log = logging.getLogger("cachd.store")

_THREADS = 4


@dataclass(slots=True)
class Phase:
    """What the store is doing instead of serving; "" when it serves."""

    sentence: str = "the store is not open"
    scan: Progress | None = None

    def reasons(self) -> list[str]:
        if not self.sentence:
            return []
        if self.scan is not None and self.scan.total:
            return [f"{self.sentence}: {self.scan.done} of {self.scan.total} models"]
        return [self.sentence]

    def note_wait(self, sentence: str) -> None:
        self.sentence = sentence
        log.warning("%s", sentence)


@dataclass(kw_only=True)
class Opened:
    """The parts of a store that is open."""

    context: Context
    trash: Trash
    room: Room
    leases: Leases
    views: Views
    recency: Recency
    updates: UpdateRecords
    quarantine: Quarantine
    checks: Checks
    lock: DaemonLock
    ingests: set[Ingest] = field(default_factory=set)


async def start(
    root: Path,
    settings: StoreSettings,
    lease_settings: LeaseSettings,
    *,
    metrics: StoreMetrics,
    clock: Clock,
    on_step: OnStep,
    on_evicted: OnEvicted,
    phase: Phase,
) -> Opened:
    """Make ``root`` ours, take its lock, scan it. Cancellable; whatever fails undoes what was
    begun. The repeated work of the background is the caller's to add."""
    threads = Threads(_THREADS, "cachd-store")
    syncing = Threads(_THREADS, "cachd-sync")
    lock = DaemonLock(root, threads)
    trash: Trash | None = None
    try:
        phase.sentence = "the store is looking at its root"
        await threads.run(check_volume, root, settings.expected_mount, settings.expected_volume_id)
        await threads.run(prepare_root, root)
        on_step("root prepared")
        await lock.acquire(standby=settings.standby, on_wait=phase.note_wait)
        on_step("root locked")
        # Whoever held the lock meanwhile may have been a newer cachd.
        await threads.run(prepare_root, root)
        await threads.run(make_directories, root)
        layout = Layout(root)
        with disk_errors("opening the store", str(root)):
            context = Context(
                layout=layout,
                settings=settings,
                capabilities=await threads.run(probe, root),
                clock=clock,
                index=Index(),
                manifests=Manifests(layout),
                threads=threads,
                syncing=syncing,
                background=Background(),
                metrics=metrics,
                on_step=on_step,
                on_evicted=on_evicted,
                boot_id=await threads.run(boot_id),
                volume=await threads.run(statvfs, root),
            )
        on_step("capabilities probed")
        found = await _scan(context, phase)
        quarantine = Quarantine(context)
        checks = Checks(context, quarantine)
        await checks.load()
        with disk_errors("looking at the quarantine", context.capabilities.mount_point):
            await quarantine.trim()
        leases = Leases(context, lease_settings)
        updates = UpdateRecords(context)
        updates.restore(found.updates)
        await _take_up(context, leases, found)
        on_step("taken up")
        trash = Trash(context)
        room = Room(context, trash)
        views = Views(context, room, trash, lease_settings)
        with disk_errors("looking at the views", context.capabilities.mount_point):
            await views.restore(found.views)
        trash.start(row for row, _ in found.rows if row.state == "trash")
    except BaseException:
        if trash is not None:
            await trash.stop()
        threads.close()
        syncing.close()
        lock.release()
        raise
    phase.sentence, phase.scan = "", None
    return Opened(
        context=context,
        trash=trash,
        room=room,
        leases=leases,
        views=views,
        recency=Recency(context),
        updates=updates,
        quarantine=quarantine,
        checks=checks,
        lock=lock,
    )


async def _scan(context: Context, phase: Phase) -> Found:
    phase.scan = Progress()
    phase.sentence = "the store is being scanned"
    with disk_errors("scanning the store", context.capabilities.mount_point):
        work = asyncio.create_task(
            context.threads.run(
                scan,
                context.layout,
                context.manifests,
                now=context.clock.time_ns() / 1e9,
                partial_ttl=context.settings.partial_ttl,
                progress=phase.scan,
                on_step=context.on_step,
            ),
            name="cachd-store-scan",
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            phase.scan.stop.set()
            await asyncio.wait([work])
            raise


async def _take_up(context: Context, leases: Leases, found: Found) -> None:
    index, now, wall = context.index, context.clock.monotonic(), context.clock.time_ns()
    for row, linked in found.rows:
        row.used_at = now - max(0.0, (wall - row.last_used) / 1e9)
        index.add(row, linked)
    index.find_shared(found.rows)
    for key, revision in found.currents.items():
        index.set_current(index.snapshots[key, revision])
    index.pins = found.pins
    await leases.forget(leases.restore(found.leases))


async def stop(opened: Opened) -> None:
    """Suspend what is being ingested, stop the background, write last uses, let go of the lock.
    Bounded by the file I/O under way."""
    opened.views.interrupt()
    for ingest in list(opened.ingests):
        await ingest.suspend()
    await opened.context.background.stop()
    await opened.trash.stop()
    try:
        await opened.recency.flush()
    except Exception:
        log.exception("last uses couldn't be kept")
    opened.checks.close()
    opened.views.close()
    opened.context.threads.close()
    opened.context.syncing.close()
    opened.lock.release()
