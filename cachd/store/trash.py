"""Letting go: renamed into ``trash/`` at once, unlinked in the background, counted until gone."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import DiskError, StoreError
from cachd.store.fsio import DIRECTORY, measure_foreign
from cachd.store.journal import JOURNAL_NAME, read_header
from cachd.store.layout import is_hex
from cachd.store.manifests import MANIFEST_NAME, read_manifest
from cachd.store.observe import ignore_step

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

    from cachd.store.context import Context
    from cachd.store.layout import Layout
    from cachd.store.observe import OnStep
    from cachd.store.rows import Row, State

log = logging.getLogger("cachd.store")


class Trash:
    """One task unlinks; whoever needs the room waits for the rows that it gave."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pending: dict[Row, asyncio.Future[None]] = {}
        self._wakened = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, leftovers: Iterable[Row]) -> None:
        """Begin to unlink, first what an earlier daemon left behind."""
        for row in leftovers:
            self.expect(row)
        self._task = asyncio.create_task(self._work(), name="cachd-store-trash")

    async def stop(self) -> None:
        """Stop after the tree that is being unlinked; the rest waits for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()

    def expect(self, row: Row) -> None:
        """``row`` is trash, and lies at its place already."""
        self._pending[row] = asyncio.get_running_loop().create_future()
        self._wakened.set()

    async def discard(self, rows: Iterable[Row]) -> None:
        """Take ``rows`` out of sight. Whatever becomes of the caller, rows and names change as one.

        They are condemned before the first await, so that nobody else counts on them. Raises
        DiskError if one can't be renamed (a volume that is read-only): it is as before then.
        """
        context = self._context
        moves = []
        for row in rows:
            source = _place_of(row, context.layout)
            place = f"{row.key or row.state}-{row.revision}-{secrets.token_hex(8)}"
            was = _Was(row, source, row.state, row.is_current, row.linkable, row.place)
            if row.state == "snapshot":
                context.manifests.forget(row.key, row.revision)
            context.index.condemn(row, place)
            context.on_step("condemned")
            moves.append(was)
        if moves:
            await asyncio.shield(context.background.own(self._move(moves), "discard"))

    async def _move(self, moves: list[_Was]) -> None:
        context = self._context
        failed: DiskError | StoreError | None = None
        async with context.names:
            for was in moves:
                row = was.row
                # Another revision may have become current since it was condemned.
                is_current = was.is_current and context.index.current(row.key) is None
                try:
                    with context.disk_errors(f"removing {row.key}"):
                        await context.threads.run(
                            _move_away,
                            context.layout,
                            was.source,
                            row.place,
                            row.key,
                            is_current,
                        )
                except (DiskError, StoreError) as error:
                    log.error("%s can't be removed: %s", was.source, error)
                    _restore(context, was)
                    failed = error
                else:
                    context.on_step("trashed")
                    self.expect(row)
        if failed is not None:
            raise failed

    async def _work(self) -> None:
        context = self._context
        while True:
            if not self._pending:
                self._wakened.clear()
                await self._wakened.wait()
            for row in list(self._pending):
                path = context.layout.trash / row.place
                try:
                    await context.threads.run(delete_tree, path, context.layout, context.on_step)
                except OSError as error:
                    row.is_stuck = True
                    log.error("%s can't be unlinked, and is tried again later: %s", path, error)
                else:
                    context.index.discard(row)
                    context.on_step("unlinked")
                future = self._pending.pop(row)
                if not future.done():
                    future.set_result(None)

    async def wait(self, rows: Iterable[Row]) -> None:
        """Until each of ``rows`` is unlinked, or can't be."""
        futures = [self._pending[row] for row in rows if row in self._pending]
        if futures:
            await asyncio.wait(futures)

    async def wait_for_any(self) -> bool:
        """Until something more is unlinked; False if there is nothing to wait for."""
        if not self._pending:
            return False
        await asyncio.wait(list(self._pending.values()), return_when=asyncio.FIRST_COMPLETED)
        return True

    def retry(self) -> None:
        """Try again what could not be unlinked."""
        for row in self._context.index.trash:
            if row.is_stuck and (self._context.layout.trash / row.place).exists():
                row.is_stuck = False
                self.expect(row)


@dataclass(frozen=True, slots=True)
class _Was:
    """A row before it was condemned."""

    row: Row
    source: Path
    state: State
    is_current: bool
    linkable: array[int]
    place: str


def _restore(context: Context, was: _Was) -> None:
    """The row is still where it was: find it again, unless another took its name meanwhile."""
    index, row = context.index, was.row
    names = index.snapshots if was.state == "snapshot" else index.ingests
    is_taken = was.state != "view" and (row.key, row.revision) in names
    if was.state == "trash" or is_taken:
        row.is_stuck = True
        return
    shared = [
        (inode, index.table[inode].bytes, index.table[inode].rows - {row}) for inode in row.shared
    ]
    index.discard(row)
    row.state, row.place = was.state, was.place
    index.add(row, {})
    row.linkable = was.linkable
    for inode, size, others in shared:
        index.share(row, inode, size, others)
    if was.is_current and index.current(row.key) is None:
        index.set_current(row)


def _place_of(row: Row, layout: Layout) -> Path:
    if row.state == "ingest":
        return layout.ingest(row.key, row.revision)
    if row.state == "view":
        return layout.views / row.place
    return layout.snapshot(row.key, row.revision)


def _move_away(layout: Layout, source: Path, place: str, key: str, is_current: bool) -> None:
    if is_current:
        with suppress(FileNotFoundError):
            layout.current(key).unlink()
    target = layout.trash / place
    if source.parent == layout.views:
        # What a pod's directory holds must not be taken for a manifest or a journal of ours.
        target.mkdir(0o700)
        target /= "view"
    with suppress(FileNotFoundError):
        source.rename(target)
    if source.parent not in (layout.ingests, layout.views):
        with suppress(OSError):
            source.parent.rmdir()


def delete_tree(path: Path, layout: Layout, on_step: OnStep = ignore_step) -> None:
    """Unlink a snapshot or an ingest, and the blobs that nothing else holds. Blocking.

    What names the blobs goes last, so that a crash in between leaves enough to go on with. Raises
    OSError.
    """
    if not path.exists():
        return
    _drop_unnamed_blobs(path, layout)
    digests = digests_of(path)
    for entry in list(path.iterdir()):
        if entry.name not in (MANIFEST_NAME, JOURNAL_NAME):
            if entry.is_dir() and not entry.is_symlink():
                _remove_tree(entry)
            else:
                entry.unlink()
    on_step("emptied")
    for digest in digests:
        blob = layout.blob(digest)
        with suppress(FileNotFoundError):
            if blob.lstat().st_nlink == 1:
                blob.unlink()
    shutil.rmtree(path)


def _remove_tree(path: Path) -> None:
    """However deep it is: a pod may have nested directories in its view. Raises OSError."""
    try:
        shutil.rmtree(path)
    except RecursionError:
        fd = os.open(path, DIRECTORY)
        try:
            while directories := _remove_files(fd):
                for name in directories:
                    _flatten(fd, name)
        finally:
            os.close(fd)
        path.rmdir()


def _remove_files(fd: int, above: int | None = None) -> list[str]:
    """The names of the directories in ``fd``; with ``above`` they are moved there."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif above is not None:
            os.rename(name, secrets.token_hex(8), src_dir_fd=fd, dst_dir_fd=above)
    return [name for name, is_directory in found if is_directory]


def _flatten(fd: int, name: str) -> None:
    below = os.open(name, DIRECTORY, dir_fd=fd)
    try:
        _remove_files(below, above=fd)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=fd)


def _drop_unnamed_blobs(path: Path, layout: Layout) -> None:
    """Where no manifest names the blobs (an ingest that took over a file by its ETag, a manifest
    that can't be read), they are found by inode: those that only this tree and the index hold."""
    with suppress(OSError, ValueError):
        read_manifest(path)
        return
    names: dict[int, int] = {}
    links: dict[int, int] = {}
    for _, inode, _, count in measure_foreign(path).files.values():
        names[inode] = names.get(inode, 0) + 1
        links[inode] = count
    lonely = {inode for inode, count in names.items() if links[inode] == count + 1}
    if not lonely:
        return
    with os.scandir(layout.blob("0").parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.inode() in lonely]
    for blob in found:
        blob.unlink()


def digests_of(path: Path) -> list[str]:
    """The sha256 of files of a snapshot or an ingest, by which blobs are named. Blocking."""
    found: set[str] = set()
    with suppress(OSError, ValueError):
        found.update(
            digest.value
            for file in read_manifest(path).files
            for digest in file.digests
            if digest.algorithm == "sha256"
        )
    with suppress(OSError, ValueError):
        header = read_header(path / JOURNAL_NAME)
        if header is not None:
            found.update(header.sha256)
    return sorted(digest for digest in found if is_hex(digest))
