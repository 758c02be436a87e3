"""A call that a cancellation doesn't cut short."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


async def uninterrupted(call: Coroutine[Any, Any, T], name: str) -> T:
    """The result of ``call`` even if this task is cancelled meanwhile: a commit is not left half
    observed."""
    task = asyncio.create_task(call, name=name)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    return task.result()
