"""Good blocks of a damaged file are copied into the ingest that replaces it, not fetched again.

Each block is copied first and judged where it then lies, so that nobody who writes to the old file
meanwhile can slip in between. Where the file system can share extents nothing is copied at all.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cachd.errors import StoreError
from cachd.model import BLOCK_SIZE, PartDone
from cachd.store.damage import block_ranges
from cachd.store.fsio import Below
from cachd.store.verify import checksum_block

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cachd.model import ManifestFile, Plan, Ref
    from cachd.store.context import Context
    from cachd.store.journal import Content, Journal

_BLOCKS_AT_ONCE = 8
_CHUNK = 1024 * 1024


async def salvage(
    context: Context, ref: Ref, plan: Plan, content: Content, journal: Journal
) -> None:
    """Copy what is good of the damaged files of this very revision, and journal it.

    The files are laid out already. Raises OSError.
    """
    twin = context.index.snapshots.get((ref.key, plan.revision))
    if twin is None or not twin.damage or twin.info.ref != ref or plan.unpack:
        return
    try:
        manifest = await context.threads.run(context.manifests.get, ref.key, plan.revision)
    except StoreError:
        return
    old = context.layout.snapshot(ref.key, plan.revision) / "tree"
    new = context.layout.ingest(ref.key, plan.revision) / "tree"
    for file in plan.files:
        had = manifest.find(file.path)
        if (
            had is None
            or file.path not in twin.damage
            or file.path in content.linked
            or not file.ranges
            or file.size != had.size
        ):
            continue
        parts = content.parts.setdefault(file.path, [])
        for numbers in _batches(had, parts):
            found = await context.threads.run(_copy, old, new, had, numbers)
            parts += found
            await context.threads.run(journal.append, found)
    context.on_step("repair copied")


def _batches(had: ManifestFile, done: Iterable[PartDone]) -> list[list[tuple[int, int, int]]]:
    """The blocks that aren't done, a few at a time: a call in a thread is short."""
    there = {
        number
        for part in done
        for number in range(
            part.offset // BLOCK_SIZE, -(-(part.offset + part.length) // BLOCK_SIZE)
        )
    }
    left = [block for block in block_ranges(had.size) if block[0] not in there]
    return [left[at : at + _BLOCKS_AT_ONCE] for at in range(0, len(left), _BLOCKS_AT_ONCE)]


def _copy(
    old: Path, new: Path, file: ManifestFile, blocks: list[tuple[int, int, int]]
) -> list[PartDone]:
    try:
        with Below(old) as below:
            source = below.open(file.path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        with Below(new) as below:
            target = below.open(file.path, os.O_RDWR)
        try:
            return _copy_blocks(source, target, file, blocks)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_blocks(
    source: int, target: int, file: ManifestFile, blocks: list[tuple[int, int, int]]
) -> list[PartDone]:
    return [
        PartDone(path=file.path, offset=offset, length=length, blocks=(file.blocks[number],))
        for number, offset, length in blocks
        if _copy_range(source, target, offset, length)
        and checksum_block(target, offset, length) == file.blocks[number]
    ]


def _copy_range(source: int, target: int, offset: int, length: int) -> bool:
    """Whether all of it could be read. Raises OSError if it can't be written."""
    done = 0
    with suppress(OSError):
        while done < length:
            at = offset + done
            count = os.copy_file_range(source, target, length - done, at, at)
            if count == 0:
                return False
            done += count
    while done < length:
        try:
            data = os.pread(source, min(_CHUNK, length - done), offset + done)
        except OSError:
            return False
        if not data:
            return False
        done += os.pwrite(target, data, offset + done)
    return True
