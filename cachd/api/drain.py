"""The switch that a daemon turns when it is about to end; shared by all its listeners."""

from __future__ import annotations

import asyncio


class Drain:
    """``begin`` refuses new asks and ends streams that have no end of their own."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0

    @property
    def is_begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        self._begun.set()

    async def wait_begun(self) -> None:
        await self._begun.wait()

    def enter(self) -> None:
        """A request began."""
        self._running += 1
        self._idle.clear()

    def leave(self) -> None:
        """A request ended."""
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def wait_idle(self, timeout: float) -> bool:
        """Whether no request runs any more, within ``timeout`` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True
