"""Connections taken back from what nobody waits for, when somebody waits who has none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachd.fetch.pool import Batch, WorkerHandle, WorkerPool
    from cachd.fetch.schedule import Scheduler

PREEMPT_AFTER = 1.0
"""Seconds that a person's model waits for a first connection before one is taken back."""


class Preemption:
    """``look`` whenever connections are given out. A part that is given up keeps its whole blocks,
    and what is left of it waits at the head of its model's queue."""

    def __init__(self, scheduler: Scheduler, pool: WorkerPool) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        if self._timer is None and self._scheduler.victims():
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PREEMPT_AFTER, self._act)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _act(self) -> None:
        self._timer = None
        for job in self._scheduler.victims():
            chosen = self._choose(job)
            if chosen is not None:
                worker, batch = chosen
                batch.is_given_up = True
                worker.send({"do": "give_up", "batch": batch.number})
        self.look()

    def _choose(self, job: str) -> tuple[WorkerHandle, Batch] | None:
        """The youngest batch, for it loses least; a stream, which starts again, only if need be."""
        batches = [
            (worker, batch)
            for worker in self._pool.workers
            for batch in worker.batches.values()
            if batch.job == job and not batch.is_given_up and not batch.is_growing
        ]
        return max(
            batches,
            key=lambda one: (not any(p.is_stream for p in one[1].unit.parts), one[1].number),
            default=None,
        )
