"""How many models are fetched at the same time, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cachd.cache.types import Priority


class Slots:
    """``limit`` places. What somebody waits for goes first; what nobody waits for takes at most
    three quarters of the places, so that there is always one to be had soon."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._prefetch_limit = max(1, limit * 3 // 4)
        self._taken: list[Callable[[], Priority]] = []
        self._waiting: list[tuple[asyncio.Future[None], Callable[[], Priority]]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def taken(self, priority: Callable[[], Priority]) -> AsyncIterator[None]:
        """A place, for as long as the context lasts. ``priority`` may change while it waits."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, priority)
        self._waiting.append(entry)
        self.admit()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._taken.remove(priority)
                self.admit()
            raise
        try:
            yield
        finally:
            self._taken.remove(priority)
            self.admit()

    def admit(self) -> None:
        """Let in whose turn it is; to be called again when a priority has changed."""
        while self._waiting and len(self._taken) < self._limit:
            entry = self._next()
            if entry is None:
                return
            self._waiting.remove(entry)
            self._taken.append(entry[1])
            if not entry[0].done():
                entry[0].set_result(None)

    def _next(self) -> tuple[asyncio.Future[None], Callable[[], Priority]] | None:
        for entry in self._waiting:
            if entry[1]() == "interactive":
                return entry
        running = sum(priority() != "interactive" for priority in self._taken)
        return self._waiting[0] if running < self._prefetch_limit else None
