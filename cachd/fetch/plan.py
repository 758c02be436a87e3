"""Which ranges of which files are left to fetch. Pure.

A file is a row of blocks of ``BLOCK_SIZE`` bytes. What the journal has is a set of blocks; what is
left is cut into parts of whole blocks, a file's last one apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.model import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from cachd.model import PartDone, PlannedFile


@dataclass(frozen=True, slots=True)
class Part:
    """A range of one file that is fetched and journalled as one.

    ``file`` is the index in the plan. ``offset`` and ``length`` in bytes. ``length`` None: a stream
    to its end, from the start of the file, for an origin without ranges or without a size.
    """

    file: int
    offset: int
    length: int | None

    @property
    def is_stream(self) -> bool:
        return self.length is None


def block_count(size: int) -> int:
    """Blocks of a file of ``size`` bytes; none for an empty file."""
    return -(-size // BLOCK_SIZE)


def block_length(size: int, index: int) -> int:
    """Bytes of block ``index`` in a file of ``size`` bytes."""
    return min(BLOCK_SIZE, size - index * BLOCK_SIZE)


def round_part_size(part_size: int) -> int:
    """``part_size`` as whole blocks, at least one."""
    return max(1, part_size // BLOCK_SIZE) * BLOCK_SIZE


def done_blocks(size: int | None, done: Iterable[PartDone]) -> dict[int, str]:
    """Checksums by block index, of the blocks that ``done`` covers.

    An entry that doesn't fit the file (not on a block boundary, beyond its end, a wrong number of
    checksums) counts for nothing: its bytes are fetched again. Where the size isn't known, only an
    entry from the file's start counts, and it is taken for the whole file.
    """
    blocks: dict[int, str] = {}
    for part in done:
        whole = part.offset + part.length if size is None else size
        fits = (
            part.length > 0
            and part.offset % BLOCK_SIZE == 0
            and part.offset + part.length <= whole
            and len(part.blocks) == block_count(part.length)
            and (part.length % BLOCK_SIZE == 0 or part.offset + part.length == whole)
        )
        if not fits or (size is None and part.offset != 0):
            continue
        first = part.offset // BLOCK_SIZE
        blocks.update(enumerate(part.blocks, first))
    return blocks


def without_blocks(part: PartDone, wrong: Collection[int]) -> list[PartDone]:
    """What is left of ``part`` without the blocks of these indexes in the file."""
    if not wrong:
        return [part]
    first = part.offset // BLOCK_SIZE
    end = part.offset + part.length
    found = []
    for index, block in enumerate(part.blocks, first):
        if index not in wrong:
            offset = index * BLOCK_SIZE
            length = min(BLOCK_SIZE, end - offset)
            found.append(replace(part, offset=offset, length=length, blocks=(block,)))
    return found


def plan_parts(
    files: Sequence[PlannedFile], done: Mapping[str, Sequence[PartDone]], part_size: int
) -> list[Part]:
    """The parts that are left, in the order of the files, then of the offsets.

    ``part_size`` in bytes is rounded down to whole blocks. Together with what is done, the parts
    cover each byte of each file of known size exactly once. An empty file has no part.
    """
    step = round_part_size(part_size)
    parts: list[Part] = []
    for index, file in enumerate(files):
        blocks = done_blocks(file.size, done.get(file.path, ()))
        if file.size == 0:
            continue
        if file.size is None or not file.ranges:
            is_whole = bool(blocks) and (file.size is None or len(blocks) == block_count(file.size))
            if not is_whole:
                parts.append(Part(index, 0, None))
            continue
        for start, end in _gaps(blocks, block_count(file.size)):
            stop = min(end * BLOCK_SIZE, file.size)
            parts.extend(
                Part(index, offset, min(step, stop - offset))
                for offset in range(start * BLOCK_SIZE, stop, step)
            )
    return parts


def _gaps(blocks: Mapping[int, str], count: int) -> Iterator[tuple[int, int]]:
    """Runs of missing blocks as (first, one past the last)."""
    start = None
    for index in range(count):
        if index in blocks:
            if start is not None:
                yield start, index
                start = None
        elif start is None:
            start = index
    if start is not None:
        yield start, count
