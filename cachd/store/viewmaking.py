"""Making one view: record, directory, links or copies, record again."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.errors import DiskError, StoreError, ViewUnavailable
from cachd.names import directories_of
from cachd.store import viewfiles
from cachd.store.fsio import measure_foreign, remove_file, replace_file, sync_tree
from cachd.store.viewrecords import ViewRecord, record_name

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.model import Manifest
    from cachd.store.context import Context
    from cachd.store.layout import Layout
    from cachd.store.room import Room
    from cachd.store.rows import Row
    from cachd.store.threads import Threads
    from cachd.store.types import ViewMode
    from cachd.store.viewrecords import Until

log = logging.getLogger("cachd.store")

_STEP = 64 * 1024 * 1024
"""Bytes copied in one go: between two a caller that went away ends the copy."""
_DIRECTORY_COST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewSpec:
    """What a pod asks for. ``ttl`` in seconds, where nobody tells when the pod is gone.
    ``namespace``: who pays for what only the view has; None: nobody."""

    pod: str
    name: str
    mode: ViewMode
    until: Until
    ttl: float
    namespace: str | None = None

    @property
    def shown(self) -> str:
        return f"{self.pod}/{self.name}"


@dataclass(slots=True, eq=False)
class Work:
    """``is_over``: who wanted the view went away."""

    is_over: bool = False

    def check(self) -> None:
        if self.is_over:
            raise StoreError("nobody wants the view any more")


def view_path(layout: Layout, pod: str, name: str) -> Path:
    return layout.views / pod / name if name else layout.views / pod


class Maker:
    """What is done to one pod's directory is done one after the other: the caller sees to it."""

    def __init__(self, context: Context, room: Room, threads: Threads) -> None:
        self._context = context
        self._room = room
        self._threads = threads

    async def make(
        self, source: Row, spec: ViewSpec, row: Row, work: Work
    ) -> tuple[ViewRecord, viewfiles.Place]:
        """The view of the snapshot ``source``, accounted for in ``row``, the pod's. Whatever fails
        leaves nothing but the directory. Raises ViewUnavailable, NoSpace, StoreError, DiskError.
        """
        context = self._context
        manifest = await context.threads.run(context.manifests.get, source.key, source.revision)
        record = ViewRecord(
            pod=spec.pod,
            name=spec.name,
            ref=source.info.ref,
            revision=source.revision,
            mode=spec.mode,
            files=len(manifest.files),
            bytes=manifest.size,
            until=spec.until,
            ttl=spec.ttl,
            boot_id=context.boot_id,
            is_complete=False,
            namespace=spec.namespace,
        )
        with ExitStack() as opened:
            fd = await self._open(spec, opened)
            try:
                await self._write(record, "view noted")
                record, inodes = await self._place(fd, source, manifest, record, row, spec, work)
                with context.disk_errors("making a view"):
                    await self._threads.run(
                        viewfiles.finish_directories, os.dup(fd), manifest.files, spec.mode
                    )
                    context.on_step("view filled")
                    record = replace(record, is_complete=True)
                    await self._write(record, "view complete")
                    place = await self._threads.run(viewfiles.look, fd)
                    await self._measure(row, inodes, source)
            except BaseException:
                await self._undo(fd, row, spec)
                raise
        return record, place

    async def _open(self, spec: ViewSpec, opened: ExitStack) -> int:
        """The view's directory, which is empty. ``opened`` closes it."""
        context = self._context
        with context.disk_errors("making a view"):
            fd = await self._threads.run(
                viewfiles.open_place, context.layout, spec.pod, spec.name, spec.mode
            )
            opened.callback(os.close, fd)
            context.on_step("view directory")
            if await context.threads.run(self._record_path(spec).exists):
                # An earlier try that couldn't be undone.
                await self._threads.run(viewfiles.clear, fd)
            if not await self._threads.run(viewfiles.is_empty, fd):
                raise ViewUnavailable(
                    f"{view_path(context.layout, spec.pod, spec.name)} holds something that is "
                    "no view",
                    hint="something else wrote there: the pod's volume is mounted writable, "
                    "or a copy was made there first",
                )
        return fd

    def _record_path(self, spec: ViewSpec) -> Path:
        return self._context.layout.view_records / record_name(spec.pod, spec.name)

    async def _write(self, record: ViewRecord, step: str) -> None:
        context = self._context
        with context.disk_errors("writing a view's record"):
            await context.threads.run(
                replace_file,
                context.layout.view_records,
                record_name(record.pod, record.name),
                record.encode(),
                mode=0o600,
            )
        context.on_step(step)

    async def _place(
        self,
        fd: int,
        source: Row,
        manifest: Manifest,
        record: ViewRecord,
        row: Row,
        spec: ViewSpec,
        work: Work,
    ) -> tuple[ViewRecord, dict[int, int]]:
        """Links, or copies where links can't be had or aren't wanted; and what was linked."""
        context = self._context
        tree = context.layout.snapshot(source.key, source.revision) / "tree"
        if spec.mode == "link":
            await self._reserve(row, manifest, is_copy=False)
            with context.disk_errors("making a view"):
                linked = await self._threads.run(
                    viewfiles.link_files, os.dup(fd), tree, manifest.files
                )
                context.on_step("view linked")
                if not linked.missed:
                    return record, linked.inodes
                await self._threads.run(viewfiles.clear, fd)
            note = (
                f"the files are copies: no hard link of {linked.missed!a} can be had below "
                f"{context.layout.views}"
            )
            log.warning("the view %s: %s", spec.shown, note)
            record = replace(record, mode="copy", note=note)
        await self._reserve(row, manifest, is_copy=True)
        path = view_path(context.layout, spec.pod, spec.name)
        with context.disk_errors("copying a view"):
            await self._copy(fd, tree, manifest, row, spec, work)
            context.on_step("view copied")
            await context.syncing.run(sync_tree, path, context.capabilities.sync, fd)
        return record, {}

    async def _reserve(self, row: Row, manifest: Manifest, *, is_copy: bool) -> None:
        block = self._context.volume.block
        directories = directories_of(file.path for file in manifest.files)
        needed = (len(directories) + 2) * max(block, _DIRECTORY_COST)
        inodes = len(directories) + 2
        if is_copy:
            needed += sum(-(-file.size // block) * block for file in manifest.files)
            inodes += len(manifest.files)
        self._context.index.settle(row)
        await self._room.reserve(row, needed, inodes)

    async def _copy(
        self, fd: int, tree: Path, manifest: Manifest, row: Row, spec: ViewSpec, work: Work
    ) -> None:
        for file in manifest.files:
            work.check()
            copy = await self._threads.run(viewfiles.FileCopy, fd, tree, file, spec.mode)
            try:
                while copied := await self._threads.run(copy.copy, _STEP):
                    self._context.index.grew(row, copied)
                    work.check()
            finally:
                await self._threads.run(copy.close)
            self._context.on_step("view file copied")

    async def _measure(self, row: Row, inodes: dict[int, int], source: Row) -> None:
        """What the pod's directory holds now, of which ``inodes`` are the snapshot's. Raises
        OSError."""
        context, index = self._context, self._context.index
        found = await self._threads.run(measure_foreign, context.layout.views / row.place)
        index.remeasured(row, found.allocated, found.inodes, found.linked)
        for inode, size in inodes.items():
            if index.holds(source):
                index.share(row, inode, size, (source,))
        index.reserve(row, -row.planned, -row.planned_inodes)

    async def _undo(self, fd: int, row: Row, spec: ViewSpec) -> None:
        """Leave nothing but the directory, which a pod may have mounted by now."""
        context, index = self._context, self._context.index
        with suppress(DiskError, StoreError), context.disk_errors("undoing a view"):
            await self._threads.run(viewfiles.clear, fd)
            await context.threads.run(remove_file, self._record_path(spec))
            found = await self._threads.run(measure_foreign, context.layout.views / row.place)
            index.remeasured(row, found.allocated, found.inodes, found.linked)
        index.reserve(row, -row.planned, -row.planned_inodes)
