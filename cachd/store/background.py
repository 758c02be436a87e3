"""Tasks that the store owns: repeated ones that survive a crash of one round, and single ones that
a cancelled caller leaves behind."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from cachd.errors import DiskError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")
log = logging.getLogger("cachd.store")


class Background:
    """Owner of tasks; ``stop`` ends the repeated ones and awaits the single ones."""

    def __init__(self) -> None:
        self._loops: set[asyncio.Task[None]] = set()
        self._works: set[asyncio.Task[Any]] = set()

    def repeat(
        self, name: str, interval: Callable[[], float], round_: Callable[[], Awaitable[None]]
    ) -> None:
        """Run ``round_`` every ``interval()`` seconds. A round that fails is logged, and the next
        one comes in its time."""

        async def loop() -> None:
            while True:
                await asyncio.sleep(interval())
                try:
                    await round_()
                except (DiskError, StoreError) as error:
                    # The disk's fault, which is told elsewhere; a traceback says nothing more.
                    log.warning("the store's %s failed; it is tried again: %s", name, error)
                except Exception:
                    log.exception("the store's %s failed; it is tried again", name)

        self._loops.add(asyncio.create_task(loop(), name=f"cachd-store-{name}"))

    def own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run ``work`` to its end, whatever becomes of its caller (who awaits it shielded)."""
        task = asyncio.create_task(work, name=f"cachd-store-{name}")
        self._works.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._works.discard(task)
        if not task.cancelled():
            task.exception()

    async def stop(self) -> None:
        """End everything; each single task is bounded by the file I/O that it does."""
        for task in self._loops:
            task.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._loops.clear()
        await self.stop_works()

    async def stop_works(self) -> None:
        """Until every single task has ended."""
        while self._works:
            await asyncio.wait(set(self._works))
