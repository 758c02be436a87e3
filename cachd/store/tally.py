"""What becomes free when rows go together: blocks that they share with a survivor don't."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachd.store.index import Index
    from cachd.store.rows import Row


class Tally:
    """Bytes and inodes that become free if a growing and shrinking set of rows goes."""

    def __init__(self, index: Index) -> None:
        self._table = index.table
        self._counts: dict[int, int] = {}
        self.bytes = 0
        self.inodes = 0

    def add(self, row: Row) -> None:
        self.bytes += row.allocated - row.shared_bytes
        self.inodes += row.inodes - len(row.shared)
        for inode in row.shared:
            entry = self._table[inode]
            count = self._counts.get(inode, 0) + 1
            self._counts[inode] = count
            if count == len(entry.rows):
                self.bytes += entry.bytes
                self.inodes += 1

    def remove(self, row: Row) -> None:
        self.bytes -= row.allocated - row.shared_bytes
        self.inodes -= row.inodes - len(row.shared)
        for inode in row.shared:
            entry = self._table[inode]
            if self._counts[inode] == len(entry.rows):
                self.bytes -= entry.bytes
                self.inodes -= 1
            self._counts[inode] -= 1
