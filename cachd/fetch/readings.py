"""Digests of files that are in place and that nobody fetches: computed by workers, so that neither
the daemon's loop nor its threads read what may be terabytes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd.errors import Cancelled
from cachd.fetch.orders import introduce_tree
from cachd.fetch.release import release

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cachd.fetch.localtasks import LocalTasks
    from cachd.fetch.pool import WorkerHandle, WorkerPool

BATCH_BYTES = 64 * 1024 * 1024
BATCH_FILES = 256
"""One order has at most so many; a single larger file is an order of its own."""

_ORDERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be known of one file of ``size`` bytes."""

    path: str
    size: int
    algorithms: tuple[str, ...]


class Readings:
    """Trees that are being read, by a name that no fetch has."""

    def __init__(self, pool: WorkerPool, numbers: Iterator[int]) -> None:
        self._pool = pool
        self._numbers = numbers
        self._trees: dict[str, Path] = {}
        self._running: set[asyncio.Task[dict[str, dict[str, str]]]] = set()
        self._is_closed = False

    def introduce(self, worker: WorkerHandle, job: str) -> bool:
        """Tell ``worker`` of a tree, once; False if ``job`` is none of ours."""
        tree = self._trees.get(job)
        if tree is not None and job not in worker.jobs:
            worker.jobs.add(job)
            worker.send(introduce_tree(job, tree))
        return tree is not None

    async def run(
        self, tasks: LocalTasks, tree: Path, readings: Sequence[Reading]
    ) -> dict[str, dict[str, str]]:
        """By path: algorithm and value. Raises DiskError, WorkerDied, Cancelled (``close``)."""
        if not readings:
            return {}
        job = f"reading-{next(self._numbers)}"
        task = asyncio.create_task(self._read(tasks, job, readings), name=job)
        self._trees[job] = tree
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._is_closed:
                raise Cancelled("cachd stops; the digests weren't computed to their end") from None
            raise
        finally:
            self._running.discard(task)
            del self._trees[job]
            await release(self._pool, job)

    def close(self) -> None:
        """End what runs: there will be no more workers."""
        self._is_closed = True
        for task in self._running:
            task.cancel()

    async def _read(
        self, tasks: LocalTasks, job: str, readings: Sequence[Reading]
    ) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        orders = split(readings)

        async def work() -> None:
            for order in orders:
                answer = await tasks.run(job, _order(order))
                for reading, values in zip(order, answer["values"], strict=True):
                    found[reading.path] = dict(zip(reading.algorithms, values, strict=True))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_ORDERS_AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            # The first one says it; the others are its echoes.
            raise errors.exceptions[0] from None
        return found


def split(readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    """In orders of a size that keeps all workers busy. Pure."""
    order: list[Reading] = []
    size = 0
    for reading in readings:
        if order and (size + reading.size > BATCH_BYTES or len(order) == BATCH_FILES):
            yield order
            order, size = [], 0
        order.append(reading)
        size += reading.size
    if order:
        yield order


def _order(readings: Sequence[Reading]) -> dict[str, Any]:
    files = [[reading.path, reading.size, list(reading.algorithms)] for reading in readings]
    return {"kind": "sums", "files": files}
