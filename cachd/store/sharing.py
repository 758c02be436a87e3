"""Files that are here already are linked, not fetched.

Without a strong digest a file is the same only if its origin says so: same origin, same URI, same
path, same strong ETag and size (and any file of the very same revision). With a sha256 that the
source claims, any file verified to have it is the same, whatever its source; but content that
needed credentials is shared only within its origin, or else whoever knows a digest (hubs publish
those of gated models) could have a server of his own claim it and be given the bytes.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachd.errors import StoreError
from cachd.model import PartDone
from cachd.store.fsio import SECTOR, Below

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cachd.model import Digest, Manifest, ManifestFile, Named, Plan, PlannedFile, Ref
    from cachd.store.context import Context
    from cachd.store.layout import Layout
    from cachd.store.rows import Row


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file of ``holder`` that may serve as ``part.path`` of the ingest. ``digests``: what it was
    verified with."""

    part: PartDone
    source: Path
    holder: Row
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Linked:
    """A file that was taken over. ``allocated`` in bytes."""

    part: PartDone
    inode: int
    allocated: int
    holder: Row
    digests: tuple[Digest, ...] = ()


async def find_candidates(
    context: Context, ref: Ref, plan: Plan, without: Iterable[str]
) -> list[Candidate]:
    """For each file of ``plan`` that a snapshot has; paths in ``without`` are left out."""
    if not context.capabilities.hard_link or plan.unpack in ("tar", "zip"):
        return []
    known = set(without)
    files = [file for file in plan.files if file.path not in known and file.size]
    found: dict[str, Candidate] = {}
    # What is fetched only to be made something else of has names that say nothing.
    for row in () if plan.unpack else _relatives(context, ref, plan.revision):
        if row.info.is_credentialed and not plan.is_credentialed:
            continue
        if _place_of(row.info.named) != _place_of(plan.named):
            # An ETag means something at one place only, and the name was moved to another.
            continue
        manifest = await _manifest(context, row)
        if manifest is None:
            continue
        is_same = row.revision == plan.revision and row.info.ref == ref
        by_path = {file.path: file for file in manifest.files}
        tree = context.layout.snapshot(row.key, row.revision) / "tree"
        for file in files:
            had = by_path.get(file.path)
            if file.path in row.damage:
                continue
            if had is not None and file.path not in found and _is_same(file, had, is_same):
                found[file.path] = Candidate(_whole(had), tree / file.path, row, had.digests)
    blobs = [file for file in files if file.path not in found and _sha256(file)]
    found.update(await _among_blobs(context, ref, plan, blobs))
    return list(found.values())


def _place_of(named: Named | None) -> tuple[str, str] | None:
    return None if named is None else (named.origin, named.uri)


def _relatives(context: Context, ref: Ref, revision: str) -> list[Row]:
    index = context.index
    rows = []
    same = index.snapshots.get((ref.key, revision))
    if same is not None and same.info.ref == ref:
        rows.append(same)
    for key in sorted(index.keys_of(ref.origin, ref.uri)):
        row = index.current(key)
        is_kin = row is not None and (row.info.ref.origin, row.info.ref.uri) == (
            ref.origin,
            ref.uri,
        )
        if row is not None and is_kin and row not in rows:
            rows.append(row)
    return rows


async def _manifest(context: Context, row: Row) -> Manifest | None:
    try:
        return await context.threads.run(context.manifests.get, row.key, row.revision)
    except StoreError:
        return None


def _is_same(file: PlannedFile, had: ManifestFile, is_same_revision: bool) -> bool:
    if had.size != file.size:
        return False
    etag = file.validator.strong_etag
    if etag is not None:
        return had.etag == etag
    return is_same_revision


def _whole(had: ManifestFile, path: str | None = None) -> PartDone:
    return PartDone(path=path or had.path, offset=0, length=had.size, blocks=had.blocks)


def _sha256(file: PlannedFile) -> str | None:
    digest = file.digest
    return digest.value if digest is not None and digest.algorithm == "sha256" else None


async def _among_blobs(
    context: Context, ref: Ref, plan: Plan, files: Sequence[PlannedFile]
) -> dict[str, Candidate]:
    """What needed credentials is linked for who needed some as well, within its origin; of a
    registry's names that is where they lead, for whoever writes there chooses that."""
    here = (ref.origin, plan.named.origin if plan.named else None)
    if not files:
        return {}
    blobs = await context.threads.run(_stat_blobs, context.layout, files)
    holders = context.index.find_holders({inode for _, inode in blobs.values()})
    found: dict[str, Candidate] = {}
    for file in files:
        if file.path not in blobs:
            continue
        source, inode = blobs[file.path]
        row = holders.get(inode)
        if row is None:
            continue
        info = row.info
        there = (info.ref.origin, info.named.origin if info.named else None)
        if info.is_credentialed and (not plan.is_credentialed or there != here):
            continue
        manifest = await _manifest(context, row)
        for had in manifest.files if manifest is not None else ():
            if had.path in row.damage:
                continue
            digests = {d.value for d in had.digests if d.algorithm == "sha256"}
            if had.size == file.size and _sha256(file) in digests:
                found[file.path] = Candidate(_whole(had, file.path), source, row, had.digests)
                break
    return found


def _stat_blobs(layout: Layout, files: Sequence[PlannedFile]) -> dict[str, tuple[Path, int]]:
    found = {}
    for file in files:
        path = layout.blob(_sha256(file) or "")
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size == file.size:
            found[file.path] = path, status.st_ino
    return found


def link_candidates(tree: Path, candidates: Sequence[Candidate]) -> list[Linked]:
    """Link what can be linked; the rest is fetched. Blocking; raises OSError."""
    linked = []
    with Below(tree) as below:
        for candidate in candidates:
            path = candidate.part.path
            if not below.link(candidate.source, path):
                continue
            status = below.stat(path)
            if status is None or status.st_size != candidate.part.length:
                below.unlink(path)
                continue
            linked.append(
                Linked(
                    candidate.part,
                    status.st_ino,
                    status.st_blocks * SECTOR,
                    candidate.holder,
                    candidate.digests,
                )
            )
    return linked


def link_blobs(layout: Layout, tree: Path, files: Iterable[ManifestFile]) -> set[int]:
    """Enter files with a verified sha256 into the index for sharing; the inodes of those that are
    in it. Blocking; raises OSError."""
    inodes = set()
    for file in files:
        for digest in file.digests:
            if digest.algorithm != "sha256" or not file.size:
                continue
            path = tree / file.path
            with suppress(FileExistsError):
                os.link(path, layout.blob(digest.value), follow_symlinks=False)
            status = path.lstat()
            if status.st_nlink > 1:
                inodes.add(status.st_ino)
    return inodes
