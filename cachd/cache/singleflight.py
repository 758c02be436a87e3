"""One running call per key, whoever asks. A waiter that goes cancels nothing while others wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """``run(key, call)``: join the call that runs for ``key``, or start it."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, tuple[asyncio.Task[T], list[None]]] = {}

    async def run(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        entry = self._calls.get(key)
        if entry is None:
            task: asyncio.Task[T] = asyncio.ensure_future(_as_coroutine(call))
            entry = self._calls[key] = (task, [])
            task.add_done_callback(lambda ended: self._forget(key, ended))
        task, waiters = entry
        waiters.append(None)
        try:
            return await asyncio.shield(task)
        finally:
            waiters.pop()
            if not waiters and not task.done():
                # Out of the table at once: who comes now must not join a call that is ending.
                self._forget(key, task)
                task.cancel()

    def _forget(self, key: Hashable, task: asyncio.Task[T]) -> None:
        entry = self._calls.get(key)
        if entry is not None and entry[0] is task:
            del self._calls[key]


async def _as_coroutine(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
