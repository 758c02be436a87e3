"""How many models are fetched at the same time, how many are listed, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from cachd.cache.types import Priority

H = TypeVar("H")


class Places(ABC, Generic[H]):
    """``limit`` places; of each holder something is known that decides."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: list[H] = []
        self._waiting: list[tuple[asyncio.Future[None], H]] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def taken(self, holder: H) -> AsyncIterator[None]:
        """A place, for as long as the context lasts."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, holder)
        self._waiting.append(entry)
        self.admit()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._taken.remove(holder)
                self.admit()
            raise
        try:
            yield
        finally:
            self._taken.remove(holder)
            self.admit()

    def admit(self) -> None:
        """Let in whose turn it is; to be called again when what decides has changed."""
        while self._waiting and len(self._taken) < self._limit:
            entry = self._next()
            if entry is None:
                return
            self._waiting.remove(entry)
            self._taken.append(entry[1])
            if not entry[0].done():
                entry[0].set_result(None)

    @abstractmethod
    def _next(self) -> tuple[asyncio.Future[None], H] | None:
        """Of those that wait, who may come in now."""


class Slots(Places["Callable[[], Priority]"]):
    """What somebody waits for goes first; what nobody waits for takes at most three quarters of the
    places, so that there is always one to be had soon. A holder is its priority, which may change
    while it waits."""

    def _next(self) -> tuple[asyncio.Future[None], Callable[[], Priority]] | None:
        for entry in self._waiting:
            if entry[1]() == "interactive":
                return entry
        running = sum(priority() != "interactive" for priority in self._taken)
        return self._waiting[0] if running < max(1, self._limit * 3 // 4) else None


class Turns(Places["Hashable"]):
    """Who came first goes first, but one caller takes at most a quarter of the places: its origins
    may be as slow as it likes. A holder is the caller, None for the daemon itself."""

    def _next(self) -> tuple[asyncio.Future[None], Hashable] | None:
        most = max(1, self._limit // 4)
        for entry in self._waiting:
            if entry[1] is None or self._taken.count(entry[1]) < most:
                return entry
        return None
