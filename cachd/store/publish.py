"""The commit: manifest, sync, one rename, ``current/<key>``. A kill at any instant leaves the old
state or the new one, and an ingest that can be resumed."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cachd.errors import DigestMismatch, OriginChanged, SizeMismatch
from cachd.model import Manifest
from cachd.names import check_tree, escape
from cachd.store.fsio import (
    SECTOR,
    fsync_directory,
    make_directory,
    measure,
    replace_file,
    sync_tree,
    write_all,
)
from cachd.store.journal import JOURNAL_NAME
from cachd.store.manifests import MANIFEST_NAME, encode_manifest, info_of
from cachd.store.mending import mend
from cachd.store.reread import inode_of
from cachd.store.sharing import link_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cachd.model import ManifestFile, Plan, Ref
    from cachd.store.capabilities import Capabilities
    from cachd.store.context import Context
    from cachd.store.fsio import Measured
    from cachd.store.layout import Layout
    from cachd.store.observe import OnStep
    from cachd.store.rows import Row
    from cachd.store.trash import Trash

log = logging.getLogger("cachd.store")


@dataclass(slots=True, kw_only=True)
class Publication:
    """``directory_fd`` was opened at ``path`` before the first write. ``is_syncing``: the sync has
    begun and hasn't succeeded. ``keep``: what is published can't be evicted before it is closed.
    ``is_held``: asked in the end whether what is current and good is to stay so.
    """

    ref: Ref
    plan: Plan
    source: str
    files: tuple[ManifestFile, ...]
    metadata: dict[str, str]
    path: Path
    directory_fd: int
    keep: ExitStack | None = None
    is_held: Callable[[], bool] | None = None
    is_syncing: bool = False

    def manifest(self, boot_id: str) -> Manifest:
        return Manifest(
            ref=self.ref,
            revision=self.plan.revision,
            files=tuple(sorted(self.files, key=lambda file: file.path)),
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            source=self.source,
            is_credentialed=self.plan.is_credentialed,
            is_validated=self.plan.is_validated,
            is_immutable=self.plan.is_immutable,
            identity=self.plan.identity,
            boot_id=boot_id,
            metadata={**self.plan.metadata, **self.metadata},
            namespace=self.plan.namespace,
            named=self.plan.named,
        )


async def publish(context: Context, trash: Trash, row: Row, publication: Publication) -> Row:
    """Make the ingest of ``row`` a snapshot, and the current one of its key unless that is held;
    its row then, or that of who was quicker."""
    key, revision = row.key, row.revision
    check_tree(
        (file.path for file in publication.files),
        is_case_sensitive=context.capabilities.case_sensitive,
    )
    manifest = publication.manifest(context.boot_id)
    with context.disk_errors(f"committing {key}"):
        found = await context.syncing.run(
            _complete, publication, manifest, context.capabilities, context.on_step
        )
        await _clear_collision(context, trash, publication)
        await _clear_other_content(context, trash, publication)
        await _refuse_damaged(context, row)
        async with context.names:
            twin = context.index.snapshots.get((key, revision))
            if twin is None:
                await context.threads.run(_rename, context.layout, publication)
                context.index.publish(
                    row, info_of(manifest), found.allocated, found.inodes, found.linked
                )
                row.checked_at = context.clock.time_ns() / 1e9
                context.on_step("renamed")
            elif twin.damage:
                with twin.read():
                    await mend(context, twin, row, publication.path, publication.files)
            winner = twin or row
            kept = ExitStack()
            kept.enter_context(winner.read())
    with kept:
        if twin is None:
            context.manifests.put(manifest)
        else:
            await trash.discard([row])
        await _show(context, winner, publication)
        if publication.keep is not None:
            publication.keep.enter_context(winner.read())
    return winner


async def _clear_collision(context: Context, trash: Trash, publication: Publication) -> None:
    """Keys are short hashes: what another ref has at the same key and revision makes way."""
    other = context.index.snapshots.get((publication.ref.key, publication.plan.revision))
    if other is not None and other.info.ref != publication.ref:
        log.warning("%s is the key of two models; the older one goes", other.key)
        await trash.discard([other])


async def _clear_other_content(context: Context, trash: Trash, publication: Publication) -> None:
    """A damaged snapshot is mended file by file, which only the same content can do.

    Other bytes under the same strong validators are the source's fault, or the way's: they are not
    taken. Where there is no such validator they are as good as what was there, and take its place.
    """
    ref, revision = publication.ref, publication.plan.revision
    twin = context.index.snapshots.get((ref.key, revision))
    if twin is None or not twin.damage:
        return
    manifest = await context.threads.run(context.manifests.get, ref.key, revision)
    had = {file.path: (file.size, file.blocks) for file in manifest.files}
    if had == {file.path: (file.size, file.blocks) for file in publication.files}:
        return
    if twin.info.is_validated:
        raise DigestMismatch(
            f"the source of {ref.key} gives other bytes than it once did under the same validator",
            hint=f"if it is right now, remove what is cached: cachd rm {ref.key}; then ask again",
        )
    if twin.leases or twin.readers:
        raise OriginChanged(
            f"the source of {ref.key} has other bytes by now, and the damaged copy is in use",
            hint="it is replaced when nobody holds it any more",
        )
    log.warning("the damaged %s is replaced by other content of the same revision", ref.key)
    await trash.discard([twin])


async def _refuse_damaged(context: Context, row: Row) -> None:
    """A file that the ingest linked from a snapshot may have been found damaged since."""
    table = context.index.table
    for inode in list(row.shared):
        for other in table[inode].rows if inode in table else ():
            if other.state != "snapshot" or not other.damage:
                continue
            tree = context.layout.snapshot(other.key, other.revision) / "tree"
            for path in other.damage:
                if await context.threads.run(inode_of, tree, path) == inode:
                    raise DigestMismatch(
                        f"a file that {row.key} shares with {other.key} was found damaged",
                        hint="ask again: that file is fetched then",
                    )


def _is_held(context: Context, row: Row, publication: Publication) -> bool:
    current = context.index.current(row.key)
    if publication.is_held is None or current is None or current is row or current.damage:
        return False
    return current.info.ref == row.info.ref and publication.is_held()


async def _show(context: Context, row: Row, publication: Publication) -> None:
    """Make it durable, and current where nothing holds it back."""
    with context.disk_errors(f"publishing {row.key}"):
        async with context.names:
            is_held = _is_held(context, row, publication)
            show = make_durable if is_held else set_current
            await context.threads.run(show, context.layout, row.key, row.revision, context.on_step)
            if not is_held:
                context.index.set_current(row)
    context.index.touch(row, context.clock.time_ns(), context.clock.monotonic())
    # The revision is out: what follows saves work later, and its failure harms nobody.
    try:
        inodes, freed = await context.threads.run(
            _tidy, context.layout, row.key, row.revision, publication.files, context.on_step
        )
    except OSError as error:
        log.warning("%s was published, but its files are not shared: %s", row.key, error)
    else:
        row.linkable.extend(inodes.difference(row.linkable))
        if freed:
            context.index.measured(row, row.allocated - freed, row.inodes - 1)


def _complete(
    publication: Publication, manifest: Manifest, capabilities: Capabilities, on_step: OnStep
) -> Measured:
    """The ingest's directory as it is published: durable, and nothing in it that isn't listed."""
    path = publication.path
    found = measure(path)
    listed = {"tree/" + file.path: file.size for file in publication.files}
    for name, size in listed.items():
        if name not in found.files:
            raise SizeMismatch(
                f"the file {escape(name[5:])} is missing from the tree",
                hint="ask again: it is fetched then",
            )
        if found.files[name][0] != size:
            raise SizeMismatch(
                f"the file {escape(name[5:])} has {found.files[name][0]} bytes on disk, not {size}",
                hint="ask again: it is fetched then",
            )
    _remove_unlisted(path, found, listed)
    for name in listed:
        # One path object a file would take longer than the call.
        os.chmod(f"{path}/{name}", 0o444)  # noqa: PTH101
    for name in found.directories:
        if name == "tree" or name.startswith("tree/"):
            (path / name).chmod(0o755)
    _write_manifest(path, encode_manifest(manifest))
    path.chmod(0o755)
    on_step("manifest")
    publication.is_syncing = True
    sync_tree(path, capabilities.sync, publication.directory_fd)
    publication.is_syncing = False
    on_step("synced")
    return measure(path)


def _remove_unlisted(path: Path, found: Measured, listed: dict[str, int]) -> None:
    for entry in list(path.iterdir()):
        if entry.name not in ("tree", JOURNAL_NAME, MANIFEST_NAME):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for name in [*found.files, *found.others]:
        if name not in listed and name.startswith("tree/"):
            log.debug("%s is in no manifest, so it is removed", path / name)
            (path / name).unlink()


def _write_manifest(path: Path, data: bytes) -> None:
    target = path / MANIFEST_NAME
    target.unlink(missing_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        write_all(fd, data)
        os.fchmod(fd, 0o444)
    finally:
        os.close(fd)


def _rename(layout: Layout, publication: Publication) -> None:
    ref, revision = publication.ref, publication.plan.revision
    target = layout.snapshot(ref.key, revision)
    if not target.parent.exists():
        make_directory(target.parent, 0o755)
        fsync_directory(layout.snapshots)
    elif target.exists():
        # No snapshot that the scan knew: something half removed, or put here by hand.
        target.rename(layout.trash / f"{ref.key}-{revision}-{secrets.token_hex(8)}")
    publication.path.rename(target)


def make_durable(layout: Layout, key: str, revision: str, on_step: OnStep) -> None:
    """Have the rename on the disk. Blocking; raises OSError."""
    fsync_directory(layout.snapshot(key, revision).parent)
    fsync_directory(layout.ingests)
    on_step("parents")


def set_current(layout: Layout, key: str, revision: str, on_step: OnStep) -> None:
    """Make the rename durable, then say that ``revision`` is current. Blocking; raises OSError:
    what isn't durable doesn't become current, and is found when it is asked for again."""
    make_durable(layout, key, revision, on_step)
    replace_file(layout.currents, key, revision.encode() + b"\n", mode=0o644)
    on_step("current")


def _tidy(
    layout: Layout,
    key: str,
    revision: str,
    files: tuple[ManifestFile, ...],
    on_step: OnStep,
) -> tuple[set[int], int]:
    tidied = tidy_snapshot(layout, layout.snapshot(key, revision), files)
    on_step("shared")
    return tidied


def tidy_snapshot(
    layout: Layout, path: Path, files: Iterable[ManifestFile]
) -> tuple[set[int], int]:
    """What a commit does last: the inodes that are shared now, and the bytes that the journal held.

    The journal goes at the end: where it is still there, a kill came in between, and the next start
    does this again. Blocking; raises OSError.
    """
    inodes, freed = link_blobs(layout, path / "tree", files), 0
    with suppress(FileNotFoundError):
        freed = (path / JOURNAL_NAME).stat().st_blocks * SECTOR
        (path / JOURNAL_NAME).unlink()
    return inodes, freed
