"""Making room: reservations, eviction rounds, and the check that an eviction really frees.

Unlinking frees nothing while somebody holds the file open or has another link to it. So a round for
the volume's sake lets go of one model at a time; unless it is sure that nobody holds its files,
what should have become free is compared with what has, and where the two part the round ends and
none follows for a while. Rounds for the quota's sake count what our own accounting says.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from cachd.errors import DiskError, DiskFull, NoSpace, TooLarge
from cachd.store import eviction, namespaces
from cachd.store.eviction import Decision, Limits
from cachd.store.holding import is_nobodys
from cachd.store.linux import syncfs
from cachd.store.units import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.store.context import Context
    from cachd.store.rows import Row
    from cachd.store.trash import Trash
    from cachd.store.types import SpacePlan, Victim

log = logging.getLogger("cachd.store")

BACK_OFF = 600.0
"""Seconds without evictions for the volume's sake, after one that freed nothing."""
_SETTLE = 3.0
"""Seconds that a file system may take to show what was freed (XFS and btrfs do it later)."""
_SETTLE_POLL = 0.1
_FASTEST = 2 * 1024**3
"""Bytes per second that another writer may take from the volume: a quick NVMe disk."""
_SHORTEST_LOOK = 0.5
_NOISE = 1024 * 1024
"""Bytes below which others' writes hide what was freed."""


class Room:
    def __init__(self, context: Context, trash: Trash) -> None:
        self._context = context
        self._trash = trash
        self._paused_until = float("-inf")
        self._one_by_one = asyncio.Lock()

    # --- pure answers -------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether evicting for the volume's sake is pointless for now."""
        return self._context.clock.monotonic() < self._paused_until

    def limits(self) -> Limits:
        """From the settings and the last look at the volume."""
        settings, volume = self._context.settings, self._context.volume
        kubelet = settings.kubelet_eviction
        return Limits(
            quota=settings.quota.resolve(volume.size),
            volume_size=volume.size,
            free=volume.free,
            floor=max(settings.free_floor.resolve(volume.size), kubelet.floor(volume.size)),
            free_inodes=volume.inodes_free,
            inode_floor=max(
                int(volume.inodes * settings.inode_floor / 100),
                kubelet.inode_floor(volume.inodes),
            ),
            has_inodes=volume.inodes > 0,
            may_evict_for_volume=not self.is_paused,
        )

    def complaints(self) -> Iterator[str]:
        """What an operator should know, in sentences."""
        limits = self.limits()
        if self.is_paused:
            yield (
                "evicting for the volume's sake is paused: what was evicted last is still held "
                "open by somebody (lsof +L1)"
            )
        if limits.free < limits.floor:
            yield (
                f"the volume has {show_size(limits.free)} free, less than store.free_floor or "
                f"store.kubelet_eviction leaves to others ({show_size(limits.floor)})"
            )
        if limits.has_inodes and limits.free_inodes < limits.inode_floor:
            yield (
                f"the volume has {limits.free_inodes} inodes free, less than {limits.inode_floor} "
                "that are left to others"
            )

    def watermarks(self) -> tuple[int, int]:
        """High and low, in charged bytes."""
        settings = self._context.settings
        quota = settings.quota.resolve(self._context.volume.size)
        return (
            int(quota * settings.high_watermark / 100),
            int(quota * settings.low_watermark / 100),
        )

    def plan(self, needed: int, inodes: int, namespace: str | None = None) -> SpacePlan:
        """What a reservation for ``namespace`` would do now."""
        index, limits = self._context.index, self.limits()
        own = self._own_room(namespace, needed)
        going = [row for row, _, _ in own.rows]
        size, count = index.marginal(going)
        decision = eviction.make_room(index, limits, needed=needed - size, inodes=inodes - count)
        plan = eviction.explain(index, limits, decision, needed, inodes)
        if own.fits:
            first = tuple(eviction.to_victim(*item) for item in own.rows) if plan.fits else ()
            rest = [item for item in decision.rows if item[0] not in going] if plan.fits else []
            return replace(plan, victims=first + tuple(eviction.to_victim(*v) for v in rest))
        held = namespaces.holders(index, namespace or "")
        return replace(plan, fits=False, victims=(), shortfall=own.shortfall, held_by=held)

    def _quota_of(self, namespace: str | None) -> int | None:
        quotas = self._context.settings.namespace_quotas
        return namespaces.quota_of(namespace, quotas, self._context.volume.size)

    def _own_room(
        self, namespace: str | None, needed: int, for_row: Row | None = None
    ) -> namespaces.OwnRoom:
        quota = self._quota_of(namespace)
        if namespace is None or quota is None:
            return namespaces.OwnRoom(True, (), 0, 0)
        return namespaces.make_room(self._context.index, namespace, quota, needed, for_row)

    # --- reservations -------------------------------------------------------------------------

    async def reserve(self, row: Row, needed: int, inodes: int) -> None:
        """Promise ``needed`` bytes and ``inodes`` to an ingest, evicting what policy lets go.

        When it returns the bytes are there. Raises TooLarge, NoSpace, DiskError; then nothing is
        promised.
        """
        index = self._context.index
        if needed <= 0 and inodes <= 0:
            return
        await self.look()
        await self._make_own_room(row, needed)
        limits = self.limits()
        decision = eviction.make_room(index, limits, needed=needed, inodes=inodes, for_row=row)
        if not decision.fits or needed > limits.ceiling:
            raise self._refusal(row, decision, limits, needed, inodes)
        index.reserve(row, needed, inodes)
        try:
            await self.settle(row, needed, inodes)
        except BaseException:
            index.reserve(row, -needed, -inodes)
            raise

    async def _make_own_room(self, row: Row, needed: int) -> None:
        """Evict what the quota of the row's namespace asks for. Nothing else happens between its
        last look and its end. Raises NoSpace, TooLarge, DiskError."""
        index, namespace = self._context.index, row.info.namespace
        while True:
            own = self._own_room(namespace, needed, row)
            if not own.fits:
                quota = self._quota_of(namespace) or 0
                raise namespaces.refusal(index, namespace or "", quota, needed, own, row)
            if not own.rows:
                return
            await self.evict(own.rows)

    async def look(self) -> None:
        """At the volume, now. Raises DiskError."""
        with self._context.disk_errors("looking at the volume"):
            await self._context.refresh_volume()

    def is_short(self, needed: int) -> bool:
        """Whether the last look at the volume shows less than what is promised and ``needed``."""
        return eviction.shortage(self._context.index, self.limits(), needed).is_volume_short

    async def sync(self) -> None:
        """Some file systems count what was unlinked as free only then."""
        if self._context.capabilities.syncfs:
            with self._context.disk_errors("syncing the volume"):
                await self._context.syncing.run(_sync_volume, str(self._context.layout.root))

    async def settle(
        self, row: Row | None, needed: int, inodes: int = 0, *, promised: bool = True
    ) -> None:
        """Evict and wait until everything promised has its room (``needed`` is a part of it, unless
        it is not ``promised``). Each turn lets go of a row or waits for one that is being unlinked,
        so it ends. Raises NoSpace, TooLarge, DiskError."""
        index, more = self._context.index, 0 if promised else needed
        while True:
            limits = self.limits()
            decision = eviction.make_room(index, limits, needed=more, for_row=row)
            if not decision.fits:
                raise self._refusal(row, decision, limits, needed, inodes)
            if decision.rows:
                await self._evict(decision)
            elif not decision.is_waiting:
                return
            elif not await self._trash.wait_for_any():
                await asyncio.sleep(_SETTLE_POLL)
            await self.look()

    def describe(self, error: DiskError, needed: int = 0, row: Row | None = None) -> DiskError:
        """``error`` with what an operator needs to know: which volume, what is missing, what is
        free, who holds the rest."""
        context, limits = self._context, self.limits()
        facts: dict[str, Any] = {**self._volume(), "free": limits.free}
        if isinstance(error, DiskFull):
            decision = eviction.make_room(context.index, limits, needed=limits.volume_size)
            plan = eviction.explain(context.index, limits, decision, needed, 0, for_row=row)
            facts |= {
                "needed": needed,
                "free_inodes": limits.free_inodes,
                "quota": limits.quota,
                "held_by": [asdict(holder) for holder in plan.held_by],
            }
        for name, value in facts.items():
            error.detail.setdefault(name, value)
        return error

    def _volume(self) -> dict[str, str]:
        capabilities = self._context.capabilities
        return {"mount_point": capabilities.mount_point, "device": capabilities.device}

    def _refusal(
        self, row: Row | None, decision: Decision, limits: Limits, needed: int, inodes: int
    ) -> NoSpace:
        plan = eviction.explain(self._context.index, limits, decision, needed, inodes, for_row=row)
        facts: dict[str, Any] = {
            **self._volume(),
            "needed": needed,
            "inodes": inodes,
            "free": limits.free,
            "free_inodes": limits.free_inodes,
            "quota": limits.quota,
            "shortfall": plan.shortfall,
            "held_by": [asdict(holder) for holder in plan.held_by],
        }
        if plan.is_never:
            whole = needed + (max(row.planned, row.allocated) if row is not None else 0)
            return TooLarge(
                f"the model needs {show_size(whole)}, and the cache may never hold more than "
                f"{show_size(plan.ceiling)}",
                hint="raise store.quota, lower store.free_floor, take a bigger volume, "
                "or leave files out with an ignore pattern",
                **facts,
            )
        if self.is_paused and decision.shortage.is_volume_short:
            why = "what was evicted last is still held open by somebody, so evicting more is vain"
            hint = "find who holds deleted files (lsof +L1), or free space on the volume"
        elif decision.shortage.is_volume_short:
            why = "other files on the volume, or models in use, hold the rest"
            hint = "free space or inodes on the volume, or release leases and pins"
        else:
            why = "the rest is leased, pinned or being fetched"
            hint = "release leases or pins (`cachd ls`), wait, or raise store.quota"
        return NoSpace(
            f"no room for {show_size(needed)}: {show_size(plan.shortfall)} are missing; {why}",
            hint=hint,
            **facts,
        )

    # --- rounds -------------------------------------------------------------------------------

    async def evict(self, rows: tuple[tuple[Row, str, int], ...]) -> list[Victim]:
        """Let go of ``rows``, each with its reason and bytes, and wait until they are unlinked.

        Raises DiskError if that can't be done; then they are still here."""
        victims = [eviction.to_victim(*item) for item in rows]
        now = self._context.clock.monotonic()
        await self._trash.discard([row for row, _, _ in rows])
        for (row, reason, size), victim in zip(rows, victims, strict=True):
            log.info(
                "evicted %s revision %s: %d bytes, reason %s, idle %.0f s",
                victim.key,
                victim.revision,
                size,
                reason,
                max(0.0, now - row.used_at),
                extra={"key": victim.key, "bytes": size, "reason": reason},
            )
            self._context.metrics.evicted(reason, size)
            self._context.on_evicted(victim.key, victim.uri, reason, size)
        await self._trash.wait([row for row, _, _ in rows])
        return victims

    async def _evict(self, decision: Decision) -> tuple[list[Victim], bool]:
        """One step of a round; whether the round may go on."""
        if not decision.shortage.is_volume_short:
            return await self.evict(decision.rows), True
        async with self._one_by_one:
            return await self._evict_and_look(*decision.rows[0])

    async def _evict_and_look(self, row: Row, reason: str, size: int) -> tuple[list[Victim], bool]:
        if self.is_paused or row.state == "trash" or self._context.index.is_protected(row):
            # Another round was quicker; the next step decides by what is so now.
            return [], not self.is_paused
        if row.state == "snapshot":
            layout = self._context.layout
            path = layout.snapshot(row.key, row.revision)
            if await self._context.threads.run(is_nobodys, path, layout):
                # What becomes free may be another's at once: looking at the volume proves nothing.
                return await self.evict(((row, reason, size),)), True
        before = (await self._context.refresh_volume()).free
        written = self._context.index.written
        victims = await self.evict(((row, reason, size),))
        if await self._has_freed(size, before, written):
            return victims, True
        self._paused_until = self._context.clock.monotonic() + BACK_OFF
        log.warning(
            "evicting %s should have freed %d bytes and didn't: somebody holds its files. "
            "No more is evicted for the volume's sake for %.0f s",
            row.key,
            size,
            BACK_OFF,
        )
        return victims, False

    async def _has_freed(self, expected: int, before: int, written: int) -> bool:
        if expected < _NOISE:
            return True
        deadline = self._context.clock.monotonic() + _SETTLE
        is_synced = False
        while True:
            freed = (await self._context.refresh_volume()).free - before
            freed += self._context.index.written - written
            if 2 * freed >= expected:
                return True
            if self._context.clock.monotonic() >= deadline:
                return False
            if not is_synced and self._context.capabilities.syncfs:
                await self._context.threads.run(_sync_volume, str(self._context.layout.root))
                is_synced = True
            await asyncio.sleep(_SETTLE_POLL)

    def next_look(self) -> float:
        """Seconds until the volume is looked at again: before a quick writer could come from where
        the free space is now to the floor, but never in less than half a second."""
        limits = self.limits()
        soon = max(_SHORTEST_LOOK, (limits.free - limits.floor) / _FASTEST)
        return min(self._context.settings.watch_interval, soon)

    async def keep_below(self) -> list[Victim]:
        """A background round: above the high watermark down to the low one, and back to the
        free-space floor. Models used within ``min_idle`` stay."""
        context = self._context
        high, low = self.watermarks()
        gone: list[Victim] = []
        may_go_on = context.health.may_write
        while may_go_on:
            await context.refresh_volume()
            decision = eviction.in_background(
                context.index,
                self.limits(),
                high=high if not gone else low,
                low=low,
                idle_since=context.clock.monotonic() - context.settings.min_idle,
            )
            if not decision.rows:
                break
            victims, may_go_on = await self._evict(decision)
            gone += victims
        return gone


def _sync_volume(root: str) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
