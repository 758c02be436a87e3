"""Reading published snapshots against their checksums, and remembering when that was.

When a snapshot was last read is the modification time of its manifest, whose content never changes;
where an interrupted look stopped, and when the last full pass ended, is in ``state/scrub.json``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.errors import CachdError, StoreError
from cachd.store.damage import FileDamage, block_ranges, merge
from cachd.store.decode import parse_object
from cachd.store.fsio import disk_errors, measure, replace_file
from cachd.store.manifests import MANIFEST_NAME, read_manifest
from cachd.store.mending import set_damage
from cachd.store.quarantine import Story
from cachd.store.reread import Reread, inode_of
from cachd.store.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cachd.model import Manifest, ManifestFile
    from cachd.store.context import Context
    from cachd.store.quarantine import Quarantine
    from cachd.store.rows import Row

log = logging.getLogger("cachd.store")

_STATE = "scrub.json"
_KEPT_BLOCKS = 16
"""Bad blocks of one look that go to quarantine: a person needs some of them, not a whole disk."""
START = ("", 0)


@dataclass(slots=True)
class Inspection:
    """What one look found. ``stopped_at``: path and block to go on with; None: it came to its end.

    ``extra``: files that no manifest lists; ``has_strangers``: some are still there. ``sizes`` and
    ``inodes`` are those of damaged files. ``blocks`` were compared, of ``bytes`` in all; ``kept``
    of the bad ones went to quarantine.
    """

    damage: dict[str, FileDamage] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    has_strangers: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    inodes: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    blocks: int = 0
    kept: int = 0
    stopped_at: tuple[str, int] | None = None


@dataclass(slots=True)
class Progress:
    """The state file. Times in seconds since the epoch."""

    key: str = ""
    revision: str = ""
    at: tuple[str, int] = START
    pass_began: float = 0.0
    pass_ended: float = 0.0


class Checks:
    """For one event loop. Reads in a thread of its own, a block at a time."""

    def __init__(self, context: Context, quarantine: Quarantine) -> None:
        self._context = context
        self._quarantine = quarantine
        self._threads = Threads(1, "cachd-scrub")
        # Two looks at the same files could undo each other's findings.
        self._looking = asyncio.Lock()
        self.progress = Progress()
        self._looked_at = self._idle_until = 0.0

    # --- what is next -------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the state file; what can't be read is begun anew."""
        path = self._context.layout.state / _STATE
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            data = parse_object(await self._context.threads.run(path.read_bytes))
            self.progress = Progress(
                key=str(data["key"]),
                revision=str(data["revision"]),
                at=(str(data["path"]), int(data["block"])),
                pass_began=float(data["pass_began"]),
                pass_ended=float(data["pass_ended"]),
            )

    async def save(self) -> None:
        """Keep the progress; what is lost with it is only read twice."""
        now = self.progress
        data = {
            "key": now.key,
            "revision": now.revision,
            "path": now.at[0],
            "block": now.at[1],
            "pass_began": now.pass_began,
            "pass_ended": now.pass_ended,
        }
        text = json.dumps(data).encode("ascii") + b"\n"
        try:
            await self._context.threads.run(
                replace_file, self._context.layout.state, _STATE, text, mode=0o600, is_durable=False
            )
        except OSError as error:
            log.warning("where the scrub is can't be kept: %s", error)

    def next_due(self, interval: float) -> tuple[str, str] | None:
        """Key and revision of what was read longest ago, if that is ``interval`` seconds or more;
        what an interrupted look has begun comes first."""
        now = self._context.clock.time_ns() / 1e9
        snapshots = self._context.index.snapshots
        begun = snapshots.get((self.progress.key, self.progress.revision))
        if begun is not None and self.progress.at != START:
            return begun.key, begun.revision
        if self._looked_at <= now < self._idle_until:
            return None
        # A time in the future tells of a clock that was wrong, then or now: it counts for nothing.
        oldest = min(
            snapshots.values(),
            key=lambda row: row.checked_at if row.checked_at <= now else 0.0,
            default=None,
        )
        if oldest is None:
            return None
        age = now - oldest.checked_at
        # A node may hold a hundred thousand: they are looked through only when one can be due.
        self._looked_at, self._idle_until = now, oldest.checked_at + interval
        return (oldest.key, oldest.revision) if age >= interval or age < 0 else None

    def put_off(self, key: str, revision: str) -> None:
        """It can't be read now: the others must not wait for it."""
        row = self._context.index.snapshots.get((key, revision))
        if row is not None:
            row.checked_at = self._context.clock.time_ns() / 1e9

    def corrupt(self) -> list[tuple[str, str]]:
        """Key and revision of every snapshot that is known to be damaged."""
        return [place for place, row in self._context.index.snapshots.items() if row.damage]

    async def note_pass(self) -> None:
        """A full pass has ended when everything was read since it began."""
        rows = self._context.index.snapshots.values()
        began = self.progress.pass_began
        now = self._context.clock.time_ns() / 1e9
        if not began:
            self.progress.pass_began = min((row.checked_at for row in rows), default=now)
        elif all(row.checked_at >= began for row in rows):
            self.progress.pass_began = self.progress.pass_ended = now
        await self.save()

    # --- one look -----------------------------------------------------------------------------

    async def inspect(
        self,
        key: str,
        revision: str,
        *,
        pace: Callable[[int], Awaitable[bool]],
        start: tuple[str, int] = START,
    ) -> Inspection | None:
        """Read a snapshot against its manifest; None if it isn't there any more.

        ``pace`` is awaited before each block with its length; when it says no the look ends. What
        is damaged is marked, and some of it kept in quarantine, before this returns; what isn't
        any more is unmarked. Raises StoreError, DiskError.
        """
        row = self._context.index.snapshots.get((key, revision))
        if row is None:
            return None
        async with self._looking:
            found = await self._inspect(row, pace, start)
            # Nothing is held while it is read: what is wanted gone goes, and tells nothing then.
            if not self._is_there(row):
                return None
            await self._conclude(row, found, start)
            return found

    def _is_there(self, row: Row) -> bool:
        return self._context.index.snapshots.get((row.key, row.revision)) is row

    async def _inspect(
        self, row: Row, pace: Callable[[int], Awaitable[bool]], start: tuple[str, int]
    ) -> Inspection:
        found = Inspection()
        try:
            manifest = await self._threads.run(self._read_manifest, row)
            for file in manifest.files:
                if file.path < start[0]:
                    continue
                first = start[1] if file.path == start[0] else 0
                await self._look_at(row, file, first, found, pace)
                if found.stopped_at is not None or not self._is_there(row):
                    return found
            found.extra = await self._find_extra(row, {f.path for f in manifest.files})
            found.has_strangers = bool(found.extra)
        except CachdError:
            if self._is_there(row):
                raise
        return found

    def _read_manifest(self, row: Row) -> Manifest:
        """From the disk, whatever is in memory."""
        try:
            return read_manifest(self._context.layout.snapshot(row.key, row.revision))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the manifest of {row.key} revision {row.revision} can't be read: {error}",
                hint=f"remove the model, and ask for it again: cachd rm {row.key}",
            ) from error

    async def _look_at(
        self,
        row: Row,
        file: ManifestFile,
        first: int,
        found: Inspection,
        pace: Callable[[int], Awaitable[bool]],
    ) -> None:
        tree = self._context.layout.snapshot(row.key, row.revision) / "tree"
        opened = await self._threads.run(Reread, tree, file.path)
        bad: list[int] = []
        problem = "missing" if opened.size < 0 else "size" if opened.size != file.size else ""
        try:
            for number, offset, length in block_ranges(file.size):
                if number < first:
                    continue
                if problem == "missing" or offset + length > opened.size:
                    bad.append(number)
                    continue
                if not await pace(length) or not self._is_there(row):
                    found.stopped_at = file.path, number
                    break
                try:
                    seen = await self._threads.run(opened.checksum, offset, length)
                except OSError as error:
                    log.error("%s of %s can't be read: %s", file.path, row.key, error)
                    seen, problem = f"error {error.errno}", problem or "unreadable"
                found.bytes += length
                found.blocks += 1
                self._context.metrics.scrub("scrub_bytes", length)
                if seen != file.blocks[number]:
                    bad.append(number)
                    await self._keep(row, file, opened, (number, offset, length), seen, found)
        finally:
            await self._threads.run(opened.close)
        if bad or problem:
            found.sizes[file.path] = file.size
            found.inodes[file.path] = opened.inode
            found.damage[file.path] = FileDamage(
                path=file.path,
                problem=problem or "blocks",  # type: ignore[arg-type]
                blocks=tuple(bad),
            )

    async def _keep(
        self,
        row: Row,
        file: ManifestFile,
        opened: Reread,
        block: tuple[int, int, int],
        seen: str | None,
        found: Inspection,
    ) -> None:
        number, offset, length = block
        known = row.damage.get(file.path)
        if found.kept >= _KEPT_BLOCKS or (known is not None and number in known.blocks):
            return
        found.kept += 1
        data = await self._threads.run(opened.read, offset, length)
        await self._quarantine.keep(
            data,
            Story(
                key=row.key,
                revision=row.revision,
                uri=row.info.ref.uri,
                path=file.path,
                offset=offset,
                length=length,
                reason="scrub",
                expected=f"crc64nvme:{file.blocks[number]}",
                seen=f"crc64nvme:{seen}",
            ),
        )

    async def _find_extra(self, row: Row, listed: set[str]) -> list[str]:
        path = self._context.layout.snapshot(row.key, row.revision) / "tree"
        with disk_errors(f"looking at {row.key}", self._context.capabilities.mount_point):
            held = await self._threads.run(measure, path)
        return sorted(name for name in [*held.files, *held.others] if name not in listed)

    async def _conclude(self, row: Row, found: Inspection, start: tuple[str, int]) -> None:
        await self._drop_replaced(row, found)
        damage = merge(row.damage, found.damage, start)
        if found.stopped_at is not None:
            # Of what comes after, only the old knowledge is there.
            rest = {n: d for n, d in row.damage.items() if n >= found.stopped_at[0]}
            damage = {**rest, **damage}
        news = _count(damage) - _count({n: d for n, d in row.damage.items() if n in damage})
        if news > 0:
            self._context.metrics.scrub("bad_blocks", news)
        for item in damage.values():
            if item != row.damage.get(item.path):
                log.error(
                    "%s revision %s is damaged: %s: %s, bad blocks %s",
                    row.key,
                    row.revision,
                    item.path,
                    item.problem,
                    list(item.blocks[:20]),
                    extra={"key": row.key},
                )
        with disk_errors(f"marking {row.key}", self._context.capabilities.mount_point):
            await set_damage(self._context, row, damage)
        if found.stopped_at is None:
            row.checked_at = self._context.clock.time_ns() / 1e9
            place = self._context.layout.snapshot(row.key, row.revision) / MANIFEST_NAME
            with suppress(OSError):
                await self._threads.run(os.utime, place, (row.checked_at, row.checked_at))

    async def _drop_replaced(self, row: Row, found: Inspection) -> None:
        """Forget what was found in a file that another has taken the place of since."""
        tree = self._context.layout.snapshot(row.key, row.revision) / "tree"
        for path in list(found.damage):
            if await self._threads.run(inode_of, tree, path) != found.inodes[path]:
                del found.damage[path]

    async def remove_extra(self, key: str, revision: str, names: list[str]) -> int:
        """Move files that no manifest lists into quarantine; how many went."""
        row = self._context.index.snapshots.get((key, revision))
        if row is None or not names:
            return 0
        path = self._context.layout.snapshot(key, revision)
        gone = 0
        for name in names:
            story = Story(
                key=key,
                revision=revision,
                uri=row.info.ref.uri,
                path=name,
                offset=0,
                length=0,
                reason="extra",
                expected="no such file",
                seen="a file that no manifest lists",
            )
            gone += await self._quarantine.take(path / "tree" / name, story) is not None
        with disk_errors(f"measuring {key}", self._context.capabilities.mount_point):
            async with self._context.names:
                if self._context.index.holds(row) and row.state == "snapshot":
                    held = await self._context.threads.run(measure, path)
                    self._context.index.remeasured(row, held.allocated, held.inodes, held.linked)
        return gone

    def close(self) -> None:
        self._threads.close()


def _count(damage: dict[str, FileDamage]) -> int:
    return sum(len(item.blocks) for item in damage.values())
