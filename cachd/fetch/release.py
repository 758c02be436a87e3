"""Ends that a cancellation must not cut short: what may still write into a tree is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from cachd.fetch.pool import WorkerHandle, WorkerPool

T = TypeVar("T")

CANCEL_PATIENCE = 1.0
"""Seconds after which a worker that doesn't let go of a cancelled job is killed."""

THREAD_PATIENCE = 30.0
"""Seconds for a thread that prepares or empties directories: longer than a slow disk takes."""


async def until_done(work: Awaitable[T], patience: float) -> T:
    """``work``'s result. A cancellation meanwhile, and any further one, is raised when ``work`` has
    ended, or after ``patience`` seconds."""
    task = asyncio.ensure_future(work)
    end = time.monotonic() + patience
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        left = None if cancelled is None else max(0.0, end - time.monotonic())
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            if cancelled is None:
                end = time.monotonic() + patience
            cancelled = error
        if cancelled is not None and time.monotonic() >= end:
            break
    if cancelled is not None:
        task.add_done_callback(_consume)
        raise cancelled
    return task.result()


def _consume(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def release(pool: WorkerPool, job: str) -> None:
    """Take the job from the workers; kill one that doesn't let go, for it may still write.

    Takes about 2 s at most, and is not cut short by being cancelled.
    """
    waits = []
    for worker in list(pool.workers):
        if job in worker.jobs and not worker.is_gone:
            worker.jobs.discard(job)
            event = worker.cancels[job] = asyncio.Event()
            worker.send({"do": "cancel", "job": job})
            waits.append(_await_release(pool, worker, job, event))
    if waits:
        await until_done(asyncio.gather(*waits), 3 * CANCEL_PATIENCE)


async def _await_release(
    pool: WorkerPool, worker: WorkerHandle, job: str, event: asyncio.Event
) -> None:
    try:
        await asyncio.wait_for(event.wait(), CANCEL_PATIENCE)
    except TimeoutError:
        pool.kill(worker, "it doesn't let go of a cancelled job")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), CANCEL_PATIENCE)
    finally:
        worker.cancels.pop(job, None)
