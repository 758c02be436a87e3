"""What is known of one file while it is fetched. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachd.errors import SizeMismatch
from cachd.fetch.plan import block_count, done_blocks
from cachd.model import BLOCK_SIZE, Digest, ManifestFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cachd.fetch.claims import Facts
    from cachd.model import PartDone, PlannedFile


@dataclass(slots=True)
class FileState:
    """``size`` is None until it is known. ``blocks``: checksums by index. ``is_stream``: fetched
    from its start in one answer. ``facts``: from its first answer. ``verified``: the digest that
    its bytes were compared with. ``in_flight``: bytes received of parts under way.
    ``asking``: the offset of the part that also asks for the file's checksums; ``is_told``: it has
    the answer. ``sums``: digests of all its bytes that were computed, whoever wanted them."""

    index: int
    planned: PlannedFile
    size: int | None
    blocks: dict[int, str]
    is_stream: bool
    wants_stream: bool = False
    is_complete: bool = False
    facts: Facts | None = None
    verified: Digest | None = None
    running: int = 0
    in_place: int = 0
    prefix: int = 0
    task: Any = None
    asking: int | None = None
    is_told: bool = False
    in_flight: dict[tuple[int, int], int] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def start(
        index: int,
        planned: PlannedFile,
        done: Sequence[PartDone],
        sums: Mapping[str, str] | None = None,
    ) -> FileState:
        """The state at the beginning, with what the journal has; the same rule as the plan's.
        ``sums``: digests of all its bytes that are known already."""
        blocks = done_blocks(planned.size, done)
        size = planned.size
        if size is None and blocks:
            size = max(part.offset + part.length for part in done)
        file = FileState(index, planned, size, blocks, planned.size is None or not planned.ranges)
        if file.is_stream and not file.has_all_blocks:
            file.blocks, file.size = {}, planned.size
        if file.has_all_blocks:
            file.sums.update(sums or {})
        file.in_place = sum(min(BLOCK_SIZE, (size or 0) - i * BLOCK_SIZE) for i in file.blocks)
        return file

    @property
    def has_all_blocks(self) -> bool:
        return self.size is not None and len(self.blocks) == block_count(self.size)

    @property
    def progress(self) -> int:
        """Bytes in place or on their way."""
        count = self.in_place + sum(self.in_flight.values())
        return count if self.size is None else min(count, self.size)

    def add_blocks(self, offset: int, blocks: Sequence[str], length: int) -> None:
        """A range is in place."""
        end = offset + length
        for index, block in enumerate(blocks, offset // BLOCK_SIZE):
            if index not in self.blocks:
                self.in_place += min(BLOCK_SIZE, end - index * BLOCK_SIZE)
            self.blocks[index] = block

    def advance_prefix(self) -> int:
        """Bytes from the start on that are in place without a gap."""
        while self.prefix in self.blocks:
            self.prefix += 1
        return min(self.prefix * BLOCK_SIZE, self.size or 0)

    def restart(self) -> None:
        """Begin again, as one stream."""
        self.blocks = {}
        self.in_place = self.prefix = 0
        self.is_stream = self.wants_stream = True
        self.size = self.planned.size
        self.sums = {}
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def block_list(self) -> list[str]:
        """All blocks in their order; KeyError if one is missing."""
        return [self.blocks[index] for index in range(block_count(self.size or 0))]

    def wrong_blocks(self, offset: int, blocks: Sequence[str]) -> set[int]:
        """Those of ``blocks`` that are not what they were elsewhere, by index in the file."""
        known = self.planned.blocks
        first = offset // BLOCK_SIZE
        return {
            index
            for index, block in enumerate(blocks, first)
            if known and (index >= len(known) or known[index] != block)
        }

    def _etag(self) -> str | None:
        planned = self.planned
        if planned.blocks:
            return planned.noted_etag
        return planned.validator.etag or (self.facts.etag if self.facts else None)

    def to_manifest(self) -> ManifestFile:
        """Raises SizeMismatch if the blocks don't make the whole file."""
        if self.size is None or not self.has_all_blocks or self.in_place != self.size:
            raise SizeMismatch(f"{self.planned.path} is not complete")
        return ManifestFile(
            path=self.planned.path,
            size=self.size,
            blocks=tuple(self.block_list()),
            etag=self._etag(),
            digests=(self.verified,) if self.verified else (),
        )
