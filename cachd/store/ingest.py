"""The life of arriving bytes: begin, record, commit or suspend or abort.

Until ``commit`` has returned nothing of it can be found by a reader. Afterwards every file of the
revision is there, durable, under one rename.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from cachd.errors import DiskError, InternalError, NoSpace, StoreError
from cachd.store.fsio import measure
from cachd.store.publish import Publication, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager, ExitStack
    from pathlib import Path

    from cachd.model import Digest, Identity, ManifestFile, PartDone, Plan, Ref
    from cachd.store.context import Context
    from cachd.store.journal import Journal
    from cachd.store.room import Room
    from cachd.store.rows import Row
    from cachd.store.trash import Trash
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.store")


class Ingest:
    """One revision on its way. Made by ``Store.begin``; ends with exactly one of commit, suspend
    and abort (the others do nothing then). For use by one task, but for ``record``."""

    def __init__(
        self,
        *,
        context: Context,
        room: Room,
        trash: Trash,
        row: Row,
        ref: Ref,
        plan: Plan,
        source: str,
        journal: Journal,
        credentialed_by: Identity | None,
        directory_fd: int,
        done: Mapping[str, list[PartDone]],
        linked: frozenset[str],
        digests: Mapping[str, tuple[Digest, ...]],
        sparse: frozenset[str],
        on_end: Callable[[], None],
        to_snapshot: Callable[[Row], StoredSnapshot],
    ) -> None:
        self._context = context
        self._room = room
        self._trash = trash
        self._row = row
        self._ref = ref
        self._plan = plan
        self._source = source
        self._journal = journal
        self._credentialed_by = credentialed_by
        self._directory_fd = directory_fd
        self._sparse = sparse
        self._on_end = on_end
        self._to_snapshot = to_snapshot
        self._appending = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._is_over = False
        self._is_in_doubt = False
        self.path: Path = context.layout.ingest(ref.key, plan.revision)
        self.tree: Path = self.path / "tree"
        self.done: Mapping[str, list[PartDone]] = done
        self.linked: frozenset[str] = linked
        self._digests = digests

    def __repr__(self) -> str:
        state = "over" if self._is_over else "open"
        return f"<Ingest {self._ref.key}-{self._plan.revision} {state}>"

    @property
    def revision(self) -> str:
        return self._plan.revision

    @property
    def is_archive(self) -> bool:
        """Whether the tree is what one archive held."""
        return self._plan.unpack in ("tar", "zip")

    @property
    def is_remade(self) -> bool:
        """Whether the tree's files aren't those that were fetched."""
        return bool(self._plan.unpack)

    def is_of(self, row: Row | None) -> bool:
        return self._row is row

    async def record(self, parts: Sequence[PartDone]) -> None:
        """Append finished parts to the journal. Raises DiskFull, DiskError."""
        self._check_open()
        if not parts:
            return
        async with self._appending:
            with self._disk_errors("writing the journal"):
                await self._context.threads.run(self._journal.append, list(parts))
        self._context.on_step("recorded")
        for part in parts:
            if part.path in self._sparse:
                self._context.index.grew(self._row, part.length)

    async def mark_credentialed(self, identity: Identity) -> None:
        """Bytes recorded from now on needed this pass: what is published says so, whoever resumes.

        A caller's pass outweighs the daemon's. Raises DiskFull, DiskError.
        """
        self._check_open()
        if self._credentialed_by in (identity, "caller"):
            return
        async with self._appending:
            with self._disk_errors("writing the journal"):
                await self._context.threads.run(self._journal.mark, identity)
        self._credentialed_by = identity

    async def grow(self, more: int) -> None:
        """Reserve ``more`` bytes, evicting if need be. Raises NoSpace, TooLarge."""
        self._check_open()
        try:
            await self._room.reserve(self._row, more, 0)
        except NoSpace:
            # What was written since the last look counts as promised still, and as taken too.
            await self.measure()
            await self._room.reserve(self._row, more, 0)

    def _marked_plan(self) -> Plan:
        """The plan as the bytes were really had."""
        if self._credentialed_by is None:
            return self._plan
        return replace(self._plan, is_credentialed=True, identity=self._credentialed_by)

    async def measure(self) -> None:
        """Count what is on disk by now; for files whose blocks come as they are written."""
        if self._is_over or not (self._sparse or self._plan.unpack or not self._plan.files):
            return
        found = await self._context.threads.run(measure, self.path)
        if not self._is_over:
            self._context.index.written += max(0, found.allocated - self._row.allocated)
            self._context.index.measured(self._row, found.allocated, found.inodes)

    async def commit(
        self,
        files: Sequence[ManifestFile],
        *,
        metadata: Mapping[str, str] | None = None,
        keep: ExitStack | None = None,
        is_held: Callable[[], bool] | None = None,
    ) -> StoredSnapshot:
        """Publish. ``files`` are complete and verified; what else lies in the tree is removed.
        What is published can't be evicted before ``keep`` is closed, if that is given. It becomes
        current, unless ``is_held`` says then that what is current and good is to stay so.

        A caller that is cancelled leaves the commit running to its end. If another ingest of the
        same revision was quicker, its snapshot stays. Raises SizeMismatch if a file isn't there as
        ``files`` says (the ingest goes on), DiskFull, DiskError, PathUnsafe.
        """
        work = self._commit(tuple(files), dict(metadata or {}), keep, is_held)
        return await asyncio.shield(self._context.background.own(work, f"commit-{self._ref.key}"))

    async def _commit(
        self,
        files: tuple[ManifestFile, ...],
        metadata: dict[str, str],
        keep: ExitStack | None,
        is_held: Callable[[], bool] | None,
    ) -> StoredSnapshot:
        async with self._ending:
            self._check_open()
            publication = Publication(
                ref=self._ref,
                plan=self._marked_plan(),
                source=self._source,
                files=tuple(self._with_digests(file) for file in files),
                metadata=metadata,
                path=self.path,
                directory_fd=self._directory_fd,
                keep=keep,
                is_held=is_held,
            )
            try:
                row = await publish(self._context, self._trash, self._row, publication)
            except (DiskError, StoreError):
                # Whatever the errno: what a sync couldn't write, the kernel may have dropped.
                self._is_in_doubt = self._is_in_doubt or publication.is_syncing
                raise
            finally:
                # Once renamed it is no ingest any more, whether or not the rest went well.
                if self._row.state != "ingest":
                    await self._close()
            snapshot = self._to_snapshot(row)
            log.info(
                "published %s revision %s: %d files, %d bytes",
                row.key,
                row.revision,
                row.info.files,
                row.info.bytes,
                extra={"key": row.key},
            )
            return snapshot

    def _with_digests(self, file: ManifestFile) -> ManifestFile:
        """A linked file is what it was: it was verified when it was fetched."""
        had = self._digests.get(file.path, ()) if file.path in self.linked else ()
        names = {digest.algorithm for digest in file.digests}
        more = tuple(digest for digest in had if digest.algorithm not in names)
        return replace(file, digests=file.digests + more) if more else file

    @property
    def is_in_doubt(self) -> bool:
        """Whether a sync failed: what is journalled is compared with the disk before it counts."""
        return self._is_in_doubt

    async def suspend(self, *, in_doubt: bool = False) -> None:
        """Let go, but keep what is here for a resume: the reservation beyond it is given back.
        ``in_doubt``: a write failed, and with it perhaps earlier ones that nobody was told of."""
        self._is_in_doubt = self._is_in_doubt or in_doubt
        await asyncio.shield(self._context.background.own(self._suspend(), "suspend"))

    async def _suspend(self) -> None:
        async with self._ending:
            if self._is_over:
                return
            context, row = self._context, self._row
            if self._is_in_doubt:
                row.is_doubtful = True
                try:
                    await context.threads.run(self._journal.doubt)
                except OSError as error:
                    log.warning("%s is in doubt, and only memory knows: %s", self.path, error)
            try:
                found = await context.threads.run(measure, self.path)
                context.index.measured(row, found.allocated, found.inodes)
            except OSError as error:
                log.warning("%s can't be measured: %s", self.path, error)
            context.index.settle(row)
            context.index.touch(row, context.clock.time_ns(), context.clock.monotonic())
            row.is_active = False
            await self._close()
            context.on_step("suspended")

    async def abort(self) -> None:
        """Forget it; its bytes go to the trash."""
        await asyncio.shield(self._context.background.own(self._abort(), "abort"))

    async def _abort(self) -> None:
        async with self._ending:
            if self._is_over:
                return
            try:
                await self._trash.discard([self._row])
            except (DiskError, StoreError) as error:
                log.error("%s can't be removed: %s", self.path, error)
            finally:
                await self._close()

    async def _close(self) -> None:
        self._is_over = True
        try:
            await self._context.threads.run(_close_files, self._journal, self._directory_fd)
        finally:
            self._on_end()

    def _check_open(self) -> None:
        if self._is_over:
            raise InternalError(f"{self!r} has ended already")

    def _disk_errors(self, doing: str) -> AbstractContextManager[None]:
        return self._context.disk_errors(f"{doing} of {self._ref.key}")


def _close_files(journal: Journal, directory_fd: int) -> None:
    journal.close()
    os.close(directory_fd)
