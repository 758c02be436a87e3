"""Lines of a stream that comes in chunks, such as JSON objects, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def split_lines(
    chunks: AsyncIterator[bytes], most: int | None = None
) -> AsyncIterator[bytes]:
    """Those that have something in them and an end. ``most``: bytes of one, beyond which the stream
    counts as over; None: any, for an object may be larger than a stream reader's own limit."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if most is not None and len(rest) > most:
            return
        for line in lines:
            if line.strip():
                yield line
