"""crc64nvme, the block checksum: tens of GB/s, and the blocks of a file add up to its whole value.

Source of the polynomial: NVM Command Set Specification, "64b CRC Definition"; S3 calls the same
one CRC64NVME.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from awscrt.checksums import combine_crc64nvme, crc64nvme

from cachd.fetch.plan import block_length

if TYPE_CHECKING:
    from collections.abc import Sequence


def update(data: memoryview | bytes, previous: int = 0) -> int:
    """The checksum of what ``previous`` covers followed by ``data``."""
    return int(crc64nvme(data, previous))


def to_hex(value: int) -> str:
    """Sixteen hex digits, as in manifests and journals."""
    return f"{value:016x}"


def combine(blocks: Sequence[str], size: int) -> str:
    """The checksum of a whole file of ``size`` bytes from those of its blocks, in their order."""
    total = 0
    for index, block in enumerate(blocks):
        total = int(combine_crc64nvme(total, int(block, 16), block_length(size, index)))
    return to_hex(total)


def sum_empty(algorithm: str) -> str:
    """The digest of no bytes at all."""
    if algorithm.startswith("crc"):
        return "0" * (16 if algorithm == "crc64nvme" else 8)
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob 0\0", usedforsecurity=False).hexdigest()
    return hashlib.new(algorithm, usedforsecurity=False).hexdigest()
