"""A file's bytes to a connection: by sendfile in bounded slices, read ahead in a thread so that the
event loop finds them in the page cache."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

SLICE = 16 * 1024 * 1024
STALL_TIMEOUT = 120.0
"""Seconds in which a reader must take one slice."""


async def send_file(request: web.Request, descriptor: int, start: int, count: int) -> None:
    """Send ``count`` bytes from ``start``, straight to the transport: the response's head, and
    what was written before, must be out. Raises ConnectionResetError if the reader went away or
    stopped reading, or if the file is shorter than that (the connection is then aborted)."""
    loop = asyncio.get_running_loop()
    file = io.FileIO(descriptor, closefd=False)
    while count:
        length = min(count, SLICE)
        await asyncio.to_thread(_read_ahead, descriptor, start, min(count, 2 * SLICE))
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader went away")
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                sent = await loop.sendfile(transport, file, start, length)
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError("the reader stopped reading") from None
        except (RuntimeError, OSError) as error:
            transport.abort()
            raise ConnectionResetError("the reader went away") from error
        if sent != length:
            transport.abort()
            raise ConnectionResetError("the file was shortened while it was being sent")
        start += length
        count -= length


def _read_ahead(descriptor: int, start: int, count: int) -> None:
    # Advice only: a file system that takes none is no error.
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, start, count, os.POSIX_FADV_WILLNEED)
