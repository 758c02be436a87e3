"""Good files take the place of damaged ones inside a published snapshot, each by one rename.

A reader that has the old file open keeps it, and so does a hard link that somebody else made. Every
name of ours goes over to the new file: in other snapshots, in pods' views and in ``blobs/``.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cachd.errors import PathUnsafe, StoreError
from cachd.names import escape
from cachd.store.damage import FileDamage, write_marker
from cachd.store.fsio import (
    SECTOR,
    Below,
    fsync_directory,
    make_directory,
    measure,
    measure_foreign,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cachd.model import ManifestFile
    from cachd.store.context import Context
    from cachd.store.layout import Layout
    from cachd.store.observe import OnStep
    from cachd.store.rows import Row

log = logging.getLogger("cachd.store")


@dataclass(slots=True)
class _Work:
    """One damaged file. ``others``: the same inode elsewhere, as (row, path below its tree)."""

    damage: FileDamage
    digests: tuple[str, ...]
    others: list[tuple[Row, str]] = field(default_factory=list)
    inode: int = 0
    allocated: int = 0


async def set_damage(context: Context, row: Row, damage: Mapping[str, FileDamage]) -> None:
    """Say durably that just those files of ``row`` are damaged, and so what shares them is.

    Raises OSError.
    """
    others: list[tuple[Row, dict[str, FileDamage]]] = []
    for path in damage:
        for other, name in await _sharers(context, row, path):
            known = next((d for r, d in others if r is other), None)
            if known is None:
                others.append((other, known := dict(other.damage)))
            known[name] = replace(damage[path], path=name)
    async with context.names:
        for marked, what in [(row, dict(damage)), *others]:
            if marked.state != "snapshot" or not context.index.holds(marked):
                continue
            if marked.damage == what:
                continue
            # In memory first: from now on nobody is given it, whatever becomes of the disk.
            marked.damage = what
            place = context.layout.snapshot(marked.key, marked.revision)
            await context.threads.run(write_marker, place, what)
            context.on_step("repair marked")
            await _measure(context, marked, place)


async def mend(
    context: Context, twin: Row, row: Row, path: Path, files: Iterable[ManifestFile]
) -> None:
    """Replace the damaged files of ``twin`` by those of the ingest ``row`` at ``path``, which are
    durable and verified. The caller holds ``context.names``. Raises OSError."""
    by_path = {file.path: file for file in files}
    works = []
    for name, damage in twin.damage.items():
        file = by_path.get(name)
        if file is None:
            continue
        digests = tuple(d.value for d in file.digests if d.algorithm == "sha256")
        works.append(_Work(damage, digests, await _sharers(context, twin, name)))
    await context.threads.run(_replace_files, context.layout, twin, path, works, context.on_step)
    rows = {id(other): other for work in works for other, _ in work.others}
    for changed in (twin, *rows.values()):
        if changed.state == "view":
            with suppress(FileNotFoundError):
                await _measure(context, changed, _place_of(context.layout, changed))
            continue
        place = context.layout.snapshot(changed.key, changed.revision)
        healed = {w.damage.path for w in works} if changed is twin else set()
        healed |= {name for work in works for other, name in work.others if other is changed}
        left = {name: d for name, d in changed.damage.items() if name not in healed}
        await context.threads.run(write_marker, place, left)
        changed.damage = left
        await _measure(context, changed, place)
    await _measure(context, row, path)
    for work in works:
        holders = {
            id(other): other
            for other, _ in work.others
            if other is not twin and (other.state != "view" or work.inode in other.linkable)
        }
        if holders:
            context.index.share(twin, work.inode, work.allocated, holders.values())
    context.on_step("repair unmarked")
    context.metrics.scrub("repaired_blocks", sum(len(work.damage.blocks) for work in works))
    log.warning(
        "repaired %s revision %s: %d files replaced",
        twin.key,
        twin.revision,
        len(works),
        extra={"key": twin.key},
    )


async def _measure(context: Context, row: Row, path: Path) -> None:
    look = measure_foreign if row.state == "view" else measure
    found = await context.threads.run(look, path)
    context.index.remeasured(row, found.allocated, found.inodes, found.linked)


async def _sharers(context: Context, row: Row, path: str) -> list[tuple[Row, str]]:
    """Where else the inode of that file of ``row`` has a name, in other snapshots."""
    layout = context.layout
    tree = layout.snapshot(row.key, row.revision) / "tree"
    status = await context.threads.run(_stat, tree / path)
    entry = context.index.table.get(status.st_ino) if status is not None else None
    if status is None or entry is None:
        return []
    found = []
    for other in list(entry.rows):
        if other is row:
            continue
        if other.state == "view":
            with suppress(FileNotFoundError):
                place = _place_of(layout, other)
                held = await context.threads.run(measure_foreign, place)
                files = held.files.items()
                found += [(other, name) for name, file in files if file[1] == status.st_ino]
        if other.state != "snapshot":
            continue
        with suppress(StoreError):
            manifest = await context.threads.run(context.manifests.get, other.key, other.revision)
            names = [file.path for file in manifest.files]
            place = _place_of(layout, other)
            same = await context.threads.run(_with_inode, place, names, status.st_ino)
            found += [(other, name) for name in same]
    return found


def _place_of(layout: Layout, row: Row) -> Path:
    """What names of files of ``row`` are below: a snapshot's tree, or a pod's directory."""
    if row.state == "view":
        return layout.views / row.place
    return layout.snapshot(row.key, row.revision) / "tree"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _with_inode(tree: Path, names: list[str], inode: int) -> list[str]:
    return [
        name
        for name in names
        if (status := _stat(tree / name)) is not None and status.st_ino == inode
    ]


def _replace_files(
    layout: Layout, twin: Row, ingest: Path, works: list[_Work], on_step: OnStep
) -> None:
    tree = layout.snapshot(twin.key, twin.revision) / "tree"
    temporary = ingest / "relink"
    touched: set[Path] = set()
    for work in works:
        target = tree / work.damage.path
        old = _prepare_place(ingest, tree, work.damage.path)
        (ingest / "tree" / work.damage.path).rename(target)
        on_step("repair renamed")
        status = target.lstat()
        work.inode, work.allocated = status.st_ino, status.st_blocks * SECTOR
        touched.add(target.parent)
        blobs = [layout.blob(digest) for digest in work.digests]
        for other, name in work.others:
            if other.state == "view":
                _replace_in_view(layout, other, target, name)
                on_step("repair relinked")
        places = [
            _place_of(layout, other) / name
            for other, name in work.others
            if other.state == "snapshot"
        ]
        for place in [*places, *blobs]:
            now = _stat(place)
            # A kill in an earlier repair may have left a blob of the old file that nobody holds.
            if now is None or (place not in blobs and now.st_ino != old):
                continue
            temporary.unlink(missing_ok=True)
            os.link(target, temporary, follow_symlinks=False)
            temporary.rename(place)
            touched.add(place.parent)
            on_step("repair relinked")
    for directory in touched:
        fsync_directory(directory)


def _replace_in_view(layout: Layout, row: Row, target: Path, name: str) -> None:
    """The pod gets the good file when it opens it anew. What a pod did to its own directory is no
    reason to leave the others' damaged."""
    try:
        with Below(_place_of(layout, row)) as below:
            below.replace(target, name)
    except (OSError, PathUnsafe) as error:
        log.warning("%s of the pod %s stays damaged: %s", escape(name), row.place, error)


def _prepare_place(ingest: Path, tree: Path, name: str) -> int | None:
    """Make the directories, move what is no file into the ingest, which goes; the old inode."""
    place = tree
    for part in name.split("/")[:-1]:
        place /= part
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            place.rename(ingest / f"odd-{secrets.token_hex(8)}")
        make_directory(place, 0o755)
    status = _stat(tree / name)
    if status is None:
        return None
    if (tree / name).is_dir() and not (tree / name).is_symlink():
        (tree / name).rename(ingest / f"odd-{secrets.token_hex(8)}")
        return None
    return status.st_ino
