"""Blocks on disk against their checksums (crc64nvme). Blocking; for threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cachd.model import BLOCK_SIZE

if TYPE_CHECKING:
    from cachd.model import PartDone

_CHUNK = 1024 * 1024


def checksum_block(fd: int, offset: int, length: int) -> str | None:
    """16 hex digits of ``length`` bytes at ``offset``; None if the file ends before."""
    from awscrt.checksums import crc64nvme  # noqa: PLC0415  (7 MiB that only a reboot needs)

    value, position, end = 0, offset, offset + length
    while position < end:
        data = os.pread(fd, min(_CHUNK, end - position), position)
        if not data:
            return None
        value = crc64nvme(data, value)
        position += len(data)
    return f"{value:016x}"


def is_intact(fd: int, part: PartDone) -> bool:
    """Whether every block of ``part`` is on disk as it was journalled."""
    end = part.offset + part.length
    for number, expected in enumerate(part.blocks):
        start = part.offset + number * BLOCK_SIZE
        if checksum_block(fd, start, min(BLOCK_SIZE, end - start)) != expected:
            return False
    return True
