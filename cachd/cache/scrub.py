"""Reading what is cached against its checksums: in the background, and when a person wants it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from cachd.cache.pace import Budget
from cachd.cache.repair import repair
from cachd.errors import CachdError, Draining, ModelUnknown
from cachd.store.damage import merge_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from cachd.cache.asking import Asking
    from cachd.cache.parts import Parts
    from cachd.store.checks import Inspection
    from cachd.store.damage import FileDamage
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")

_POLL = 10.0
_SLICE = 0.2
"""Seconds after which a waiting scrub looks whether somebody fetches."""
_LOOK = 1024**3
"""Bytes after which the scrub marks what it has found and notes where it is: what an end of the
daemon may make it read again."""
_REPORT = 0.5
_RETRY_FIRST, _RETRY_LAST = 60.0, 3600.0
"""Seconds between tries to repair what couldn't be."""


class Scrub:
    """``start`` before, ``stop`` after. The background reads only while nothing is fetched and
    nobody verifies."""

    def __init__(self, parts: Parts, asking: Asking) -> None:
        self._parts = parts
        self._asking = asking
        self._task: asyncio.Task[None] | None = None
        self._verifying = 0
        self._looks: set[asyncio.Task[Inspection | None]] = set()
        self._retry_at = 0.0
        self._retries: dict[tuple[str, str], tuple[float, float]] = {}

    # --- the background -----------------------------------------------------------------------

    def start(self) -> None:
        if self._parts.settings.scrub.interval:
            self._task = asyncio.create_task(self._run(), name="cachd-scrub")

    async def stop(self) -> None:
        """A second call does nothing. Bounded by the reading of one block."""
        task, self._task = self._task, None
        tasks: set[asyncio.Task[Any]] = {*self._looks, *([task] if task else ())}
        for each in tasks:
            each.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _is_idle(self) -> bool:
        return not self._asking.flights and not self._verifying

    async def _run(self) -> None:
        interval = self._parts.settings.scrub.interval
        while True:
            await asyncio.sleep(min(_POLL, max(0.05, interval / 10)))
            try:
                await self._round(interval)
                if self._parts.settings.scrub.repair:
                    await self._retry()
            except Exception:
                log.exception("the scrub failed; it is tried again")

    async def _round(self, interval: float) -> None:
        """Read what is due, one snapshot after the other, until something is fetched."""
        checks, settings = self._parts.store.checks, self._parts.settings.scrub
        budget = Budget(int(settings.rate))
        while self._is_idle() and (due := checks.next_due(interval)) is not None:
            key, revision = due
            progress = checks.progress
            start = progress.at if (progress.key, progress.revision) == due else ("", 0)
            try:
                found = await checks.inspect(
                    key, revision, pace=self._pace_of_a_look(budget), start=start
                )
            except CachdError as error:
                log.error("%s can't be scrubbed: %s", key, error.message)
                checks.put_off(key, revision)
                continue
            is_over = found is None or found.stopped_at is None
            progress.key, progress.revision = ("", "") if is_over else due
            progress.at = (found.stopped_at if found else None) or ("", 0)
            await checks.note_pass()
            if found is not None:
                self._tell(key, revision, found)
                if settings.repair and is_over:
                    await self._repair(key, revision, found)

    def _pace_of_a_look(self, budget: Budget) -> Callable[[int], Awaitable[bool]]:
        left = _LOOK

        async def pace(count: int) -> bool:
            nonlocal left
            if left <= 0:
                return False
            left -= count
            delay = budget.take(count, time.monotonic())
            while delay > 0 and self._is_idle():
                await asyncio.sleep(min(delay, _SLICE))
                delay -= _SLICE
            return self._is_idle()

        return pace

    async def _retry(self) -> None:
        """Try again to repair what is corrupt, less and less often."""
        if time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + _RETRY_FIRST / 2
        corrupt = self._parts.store.checks.corrupt()
        self._retries = {place: self._retries[place] for place in corrupt if place in self._retries}
        for place in corrupt:
            due, wait = self._retries.get(place, (0.0, _RETRY_FIRST))
            if time.monotonic() < due or not self._is_idle():
                continue
            self._retries[place] = time.monotonic() + wait, min(2 * wait, _RETRY_LAST)
            await repair(self._parts, self._asking, *place)

    # --- both ---------------------------------------------------------------------------------

    async def _repair(self, key: str, revision: str, found: Inspection) -> str:
        """Why not, or ""."""
        gone = await self._parts.store.checks.remove_extra(key, revision, found.extra)
        found.has_strangers = gone < len(found.extra)
        snapshot = self._parts.store.get(key, revision)
        if snapshot is None or not snapshot.damage:
            return ""
        wait = self._retries.get((key, revision), (0.0, _RETRY_FIRST))[1]
        self._retries[key, revision] = time.monotonic() + wait, min(2 * wait, _RETRY_LAST)
        return await repair(self._parts, self._asking, key, revision)

    def _tell(self, key: str, revision: str, found: Inspection) -> None:
        if found.damage:
            self._parts.events.publish(
                "damage_found",
                key=key,
                revision=revision,
                files=len(found.damage),
                blocks=sum(len(item.blocks) for item in found.damage.values()),
            )

    # --- on demand ----------------------------------------------------------------------------

    async def verify(
        self, key: str | None, *, with_repair: bool, rate: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events: ``checking`` and ``progress`` per snapshot, ``checked`` at its end, ``ready``
        with the sum. Raises ModelUnknown."""
        store = self._parts.store
        chosen = store.snapshots() if key is None else store.revisions(key)
        if key is not None and not chosen:
            raise ModelUnknown(
                f"there is no model {key} in the cache", hint="`cachd ls` lists what there is"
            )
        budget = Budget(int(self._parts.settings.scrub.rate) if rate is None else rate)
        sums = {"snapshots": 0, "bytes": 0, "bad_blocks": 0, "repaired_blocks": 0, "corrupt": 0}
        findings = []
        self._verifying += 1
        try:
            for snapshot in chosen:
                async with contextlib.aclosing(self._verify_one(snapshot, budget, with_repair)) as (
                    events
                ):
                    async for event in events:
                        yield event
                        if event["event"] != "checked":
                            continue
                        sums["snapshots"] += 1
                        for name in ("bytes", "bad_blocks", "repaired_blocks"):
                            sums[name] += event[name]
                        sums["corrupt"] += event["state"] == "corrupt"
                        if event["files"] or event["extra"] or event["state"] == "corrupt":
                            findings.append({n: v for n, v in event.items() if n != "event"})
        finally:
            self._verifying -= 1
        is_ok = all(f["state"] != "corrupt" and not f["has_strangers"] for f in findings)
        yield {"event": "ready", "ok": is_ok, **sums, "findings": findings}

    async def _verify_one(
        self, snapshot: StoredSnapshot, budget: Budget, with_repair: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        key, revision = snapshot.key, snapshot.revision
        names = {"key": key, "revision": revision, "uri": snapshot.ref.uri}
        total = snapshot.info.bytes
        yield {"event": "checking", **names, "total": total}
        read = 0

        async def pace(count: int) -> bool:
            nonlocal read
            delay = budget.take(count, time.monotonic())
            if delay > 0:
                await asyncio.sleep(delay)
            read += count
            return True

        work = asyncio.create_task(
            self._parts.store.checks.inspect(key, revision, pace=pace), name=f"verify {key}"
        )
        self._looks.add(work)
        try:
            while not (await asyncio.wait({work}, timeout=_REPORT))[0]:
                yield {"event": "progress", **names, "bytes": read, "total": total}
        finally:
            work.cancel()
            await asyncio.wait({work})
            self._looks.discard(work)
        if work.cancelled():
            raise Draining("the daemon is shutting down", hint="verify again when it is back")
        try:
            found = work.result()
        except CachdError as error:
            # One that can't be read is a finding; the others are still to be looked at.
            yield {"event": "checked", **names, **_unreadable(error)}
            return
        if found is None:
            return
        self._tell(key, revision, found)
        reason = await self._repair(key, revision, found) if with_repair else ""
        yield {"event": "checked", **names, **self._sum_up(key, revision, found, reason)}

    def _sum_up(self, key: str, revision: str, found: Inspection, reason: str) -> dict[str, Any]:
        now = self._parts.store.get(key, revision)
        left = {item.path for item in now.damage} if now is not None else set()
        bad = sum(len(item.blocks) for item in found.damage.values())
        still = sum(len(item.blocks) for path, item in found.damage.items() if path in left)
        state = "corrupt" if left else "repaired" if found.damage else "good"
        return {
            "state": "gone" if now is None else state,
            "bytes": found.bytes,
            "bad_blocks": bad,
            "repaired_blocks": bad - still,
            "files": [
                _describe(item, found.sizes[path], path in left)
                for path, item in found.damage.items()
            ],
            "extra": found.extra,
            "has_strangers": found.has_strangers,
            "reason": reason,
        }


def _unreadable(error: CachdError) -> dict[str, Any]:
    return {
        "state": "corrupt",
        "bytes": 0,
        "bad_blocks": 0,
        "repaired_blocks": 0,
        "files": [],
        "extra": [],
        "has_strangers": False,
        "reason": f"{error.message}; {error.hint}" if error.hint else error.message,
    }


def _describe(item: FileDamage, size: int, is_left: bool) -> dict[str, Any]:
    runs = merge_blocks(item.blocks, size)
    return {
        "path": item.path,
        "problem": item.problem,
        "blocks": list(item.blocks),
        "ranges": [{"offset": offset, "length": length} for offset, length in runs],
        "repaired": not is_left,
    }
