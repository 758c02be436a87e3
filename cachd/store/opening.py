"""Begin: take the model's lock, see what is here already, reserve the rest, lay the files out."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.errors import DiskError, InUse, PathUnsafe, StoreError
from cachd.model import BLOCK_SIZE
from cachd.names import check_tree, directories_of, escape
from cachd.store.fsio import Below, make_directory, measure
from cachd.store.ingest import Ingest
from cachd.store.journal import JOURNAL_NAME, Content, Journal, make_header
from cachd.store.rows import Row
from cachd.store.salvage import salvage
from cachd.store.sharing import find_candidates, link_candidates
from cachd.store.types import SnapshotInfo
from cachd.store.verify import is_intact

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.model import Digest, PartDone, Plan, Ref
    from cachd.store.context import Context
    from cachd.store.fsio import Measured
    from cachd.store.journal import Header
    from cachd.store.room import Room
    from cachd.store.trash import Trash
    from cachd.store.types import StoredSnapshot

_PATH_MAX = 4096
"""Bytes of a path with its final NUL, in one system call on Linux."""
_ARCHIVE = "archive"
"""Beside the tree: where an archive lies, under its plan's path, until it is unpacked."""
_DIRECTORY_COST = 4096
_FILE_COST = 512
"""Bytes of journal and manifest per file, about …"""
_BLOCK_COST = 48
"""… and per block of a file."""


@dataclass(slots=True)
class Opened:
    """``content`` is what can be gone on with. ``is_new``: nothing of it was here before.
    ``digests``: what files that were linked just now had been verified with."""

    journal: Journal
    directory_fd: int
    content: Content
    is_new: bool
    leftover: str = ""
    sparse: set[str] = field(default_factory=set)
    digests: dict[str, tuple[Digest, ...]] = field(default_factory=dict)


async def open_ingest(
    context: Context,
    room: Room,
    trash: Trash,
    ref: Ref,
    plan: Plan,
    *,
    source: str,
    on_end: Callable[[], None],
    to_snapshot: Callable[[Row], StoredSnapshot],
) -> Ingest:
    """See ``Store.begin``. The caller has made sure that nobody else opens the same one."""
    check_tree(
        (file.path for file in plan.files),
        is_case_sensitive=context.capabilities.case_sensitive,
    )
    _check_lengths(context, ref, plan)
    header = make_header(ref, plan, source, context.boot_id)
    row = _claim(context, ref, plan, source)
    cell: list[Opened] = []
    try:
        with context.disk_errors(f"beginning {ref.key}"):
            async with context.names:
                try:
                    await context.threads.run(_open, context, header, cell)
                finally:
                    if cell and cell[0].leftover:
                        context.index.condemn(row, cell[0].leftover)
                        trash.expect(row)
                        row = _claim(context, ref, plan, source)
            opened = cell[0]
            await _verify_doubtful(context, opened, header, row)
            await _share(context, ref, plan, opened, row)
            found = await _settle_row(context, row)
            await _reserve(context, room, plan, opened, row, found)
            await _lay_out(context, plan, opened, row)
            await salvage(context, ref, plan, opened.content, opened.journal)
    except BaseException:
        await _undo(context, trash, row, cell)
        raise
    return Ingest(
        context=context,
        room=room,
        trash=trash,
        row=row,
        ref=ref,
        plan=plan,
        source=source,
        journal=opened.journal,
        credentialed_by=opened.content.credentialed_by,
        directory_fd=opened.directory_fd,
        done=_done(opened.content),
        linked=frozenset(opened.content.linked),
        digests=opened.digests,
        sparse=frozenset(opened.sparse),
        on_end=on_end,
        to_snapshot=to_snapshot,
    )


def _check_lengths(context: Context, ref: Ref, plan: Plan) -> None:
    longest = max(
        len(os.fsencode(context.layout.ingest(ref.key, plan.revision) / "tree")),
        len(os.fsencode(context.layout.snapshot(ref.key, plan.revision) / "tree")),
    )
    for file in plan.files:
        if longest + 1 + len(os.fsencode(file.path)) >= _PATH_MAX:
            raise PathUnsafe(
                f"the name {escape(file.path)} is too long below {context.layout.root}: "
                f"a path has at most {_PATH_MAX - 1} bytes",
                hint="leave it out with an ignore pattern, or choose a shorter store.root",
            )


def _claim(context: Context, ref: Ref, plan: Plan, source: str) -> Row:
    """The row of the ingest, active from now on: evictions pass it over."""
    row = context.index.ingests.get((ref.key, plan.revision))
    if row is not None and row.is_active:
        raise InUse(
            f"{ref.key} revision {plan.revision} is being fetched already",
            hint="wait for that fetch",
        )
    if row is None:
        info = SnapshotInfo(
            ref=ref,
            files=len(plan.files),
            bytes=plan.size,
            created="",
            source=source,
            is_credentialed=plan.is_credentialed,
            is_validated=plan.is_validated,
            is_immutable=plan.is_immutable,
            identity=plan.identity,
            named=plan.named,
        )
        row = Row(key=ref.key, revision=plan.revision, info=info, state="ingest")
        context.index.add(row, {})
    # Whoever asks now pays, also for what somebody else began.
    row.info = replace(row.info, namespace=plan.namespace)
    row.is_active = True
    context.index.touch(row, context.clock.time_ns(), context.clock.monotonic())
    return row


def _open(context: Context, header: Header, cell: list[Opened]) -> None:
    """Blocking. What is here of another state of the model is put aside. The result goes into
    ``cell``, where a caller that was cancelled meanwhile finds it to close it."""
    layout = context.layout
    path = layout.ingest(header.ref.key, header.revision)
    is_new = not path.exists()
    make_directory(path, 0o700)
    journal, leftover = Journal.open(path / JOURNAL_NAME), ""
    try:
        content = journal.read()
        if content is None or not content.header.is_same_state(header):
            if not is_new:
                leftover = f"{path.name}-{secrets.token_hex(8)}"
                path.rename(layout.trash / leftover)
                make_directory(path, 0o700)
                journal.close()
                journal = Journal.open(path / JOURNAL_NAME)
                is_new = True
            content = Content(header)
        make_directory(path / "tree", 0o755)
        make_directory(_files_of(path, header.unpack), 0o755)
        if not is_new:
            _drop_missing(_files_of(path, header.unpack), content)
        journal.rewrite(
            content.header,
            [part for parts in content.parts.values() for part in parts],
            content.linked.values(),
            content.credentialed_by,
        )
        context.on_step("journal")
        directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        cell.append(Opened(journal, directory_fd, content, is_new, leftover))
    except BaseException:
        journal.close()
        raise


def _files_of(path: Path, unpack: str) -> Path:
    """Where the plan's files lie in an ingest's directory."""
    return path / (_ARCHIVE if unpack else "tree")


def _drop_missing(tree: Path, content: Content) -> None:
    """Forget journalled files that aren't on disk as they should be."""
    sizes = {file[0]: file[1] for file in content.header.files}
    with Below(tree) as below:
        for path in [*content.parts, *content.linked]:
            status = below.stat(path)
            size = sizes[path]
            if status is None or (size is not None and status.st_size != size):
                content.parts.pop(path, None)
                content.linked.pop(path, None)
        for path in content.linked:
            content.parts.pop(path, None)


async def _verify_doubtful(context: Context, opened: Opened, header: Header, row: Row) -> None:
    """After a reboot, or a sync that failed, only parts whose blocks are on the disk as journalled
    count."""
    content = opened.content
    if content.header.boot_id == header.boot_id and header.boot_id and not row.is_doubtful:
        return
    # The link may not have reached the disk though its line did; linking again is cheap.
    content.linked.clear()
    tree = _files_of(context.layout.ingest(header.ref.key, header.revision), header.unpack)
    for path, parts in list(content.parts.items()):
        kept = []
        if await context.syncing.run(_drop_cache, tree, path):
            kept = [p for p in parts if await context.threads.run(_is_on_disk, tree, p)]
        if kept:
            content.parts[path] = kept
        else:
            del content.parts[path]
    content.header = header
    await context.threads.run(
        opened.journal.rewrite,
        header,
        [part for parts in content.parts.values() for part in parts],
        list(content.linked.values()),
        content.credentialed_by,
    )
    row.is_doubtful = False
    context.on_step("verified")


def _drop_cache(tree: Path, path: str) -> bool:
    """Have the file read from the disk: pages that couldn't be written are clean afterwards, and
    would tell of bytes that only memory has. False if it can't be written still."""
    with Below(tree) as below:
        try:
            fd = below.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            return False
        finally:
            os.close(fd)
    return True


def _is_on_disk(tree: Path, part: PartDone) -> bool:
    with Below(tree) as below:
        try:
            fd = below.open(part.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            return is_intact(fd, part)
        except OSError:
            return False
        finally:
            os.close(fd)


async def _share(context: Context, ref: Ref, plan: Plan, opened: Opened, row: Row) -> None:
    content = opened.content
    complete = {
        file.path
        for file in plan.files
        if sum(part.length for part in content.parts.get(file.path, ())) == file.size
    }
    candidates = await find_candidates(context, ref, plan, complete | content.linked.keys())
    if not candidates:
        return
    tree = _files_of(context.layout.ingest(ref.key, plan.revision), plan.unpack)
    linked = await context.threads.run(link_candidates, tree, candidates)
    context.on_step("linked")
    for link in linked:
        content.linked[link.part.path] = link.part
        opened.digests[link.part.path] = link.digests
        content.parts.pop(link.part.path, None)
        if link.inode not in row.shared:
            context.index.take_over(
                row,
                link.inode,
                link.allocated,
                [link.holder] if context.index.holds(link.holder) else [],
            )
    await context.threads.run(opened.journal.append, [link.part for link in linked], linked=True)


async def _settle_row(context: Context, row: Row) -> Measured:
    path = context.layout.ingest(row.key, row.revision)
    found = await context.threads.run(measure, path)
    context.index.measured(row, found.allocated, found.inodes)
    context.index.settle(row)
    return found


async def _reserve(
    context: Context, room: Room, plan: Plan, opened: Opened, row: Row, found: Measured
) -> None:
    block = context.volume.block
    needed = inodes = 0
    place = _files_of(Path(), plan.unpack).as_posix()
    files = [file for file in plan.files if file.path not in opened.content.linked]
    for file in files:
        size = file.size or 0
        had = found.files.get(f"{place}/{file.path}")
        inodes += 0 if had else 1
        needed += max(0, -(-size // block) * block - (had[2] if had else 0))
        needed += _FILE_COST + size // BLOCK_SIZE * _BLOCK_COST
    directories = directories_of(file.path for file in files)
    missing = len(directories - {name.partition("/")[2] for name in found.directories})
    needed += (missing + 2) * max(block, _DIRECTORY_COST)
    await room.reserve(row, needed, inodes + missing + 2)


async def _lay_out(context: Context, plan: Plan, opened: Opened, row: Row) -> None:
    """Make the files whose sizes are known, with their blocks where that can be had."""
    if plan.files:
        context.index.written += row.reserved
        opened.sparse = await context.threads.run(_make_files, context, plan, opened, row)
    path = context.layout.ingest(row.key, row.revision)
    found = await context.threads.run(measure, path)
    context.index.measured(row, found.allocated, found.inodes)


def _make_files(context: Context, plan: Plan, opened: Opened, row: Row) -> set[str]:
    tree = _files_of(context.layout.ingest(row.key, row.revision), plan.unpack)
    sparse = set()
    with Below(tree) as below:
        for file in plan.files:
            if file.size is None:
                sparse.add(file.path)
            elif file.path not in opened.content.linked:
                status = below.stat(file.path)
                if status is not None and status.st_nlink > 1:
                    # A link that no journal speaks of: never write into what others have.
                    below.unlink(file.path)
                if not below.preallocate(
                    file.path, file.size, use_fallocate=context.capabilities.fallocate
                ):
                    sparse.add(file.path)
    context.on_step("laid out")
    return sparse


async def _undo(context: Context, trash: Trash, row: Row, cell: list[Opened]) -> None:
    row.is_active = False
    if not cell:
        # Nothing was opened: perhaps it is another process's, so it is left alone.
        if row.allocated == 0:
            context.index.discard(row)
        return
    cell[0].journal.close()
    os.close(cell[0].directory_fd)
    if cell[0].is_new:
        with suppress(DiskError, StoreError):
            await trash.discard([row])
    else:
        context.index.settle(row)
        context.index.touch(row, context.clock.time_ns(), context.clock.monotonic())


def _done(content: Content) -> dict[str, list[PartDone]]:
    done = {path: list(parts) for path, parts in content.parts.items()}
    done.update({path: [part] for path, part in content.linked.items()})
    return done
