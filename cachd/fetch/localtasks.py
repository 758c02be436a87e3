"""Digests and unpacking, done by workers on files that are in place: the daemon's side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from cachd.errors import CachdError, WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cachd.channel import Message
    from cachd.fetch.filestate import FileState
    from cachd.fetch.pool import WorkerHandle, WorkerPool


class LocalTasks:
    """At most ``slots`` at once. ``introduce`` tells a worker of a job."""

    def __init__(
        self,
        pool: WorkerPool,
        numbers: Iterator[int],
        *,
        slots: int,
        attempts: int,
        introduce: Callable[[WorkerHandle, str], None],
    ) -> None:
        self._pool = pool
        self._numbers = numbers
        self._attempts = attempts
        self._introduce = introduce
        self._slots = asyncio.Semaphore(slots)
        self._answers: dict[int, tuple[WorkerHandle, asyncio.Future[Message]]] = {}
        self._followers: dict[int, tuple[WorkerHandle, int]] = {}
        self._started = asyncio.Event()

    async def run(self, job: str, order: Message, follow: FileState | None = None) -> Message:
        """Have a worker carry out ``order``; its answer. Done again elsewhere if the worker dies.

        ``follow``: the file grows meanwhile; ``advance`` passes on how far it is.
        """
        async with self._slots:
            for _ in range(self._attempts):
                worker = await self._wait_for_worker()
                self._introduce(worker, job)
                try:
                    found = await self._ask(worker, job, order, follow)
                except WorkerDied:
                    continue
                if found["error"]:
                    raise CachdError.from_wire(found["error"])
                return found
        raise WorkerDied("worker processes ended again and again while a file was verified")

    async def _ask(
        self, worker: WorkerHandle, job: str, order: Message, follow: FileState | None
    ) -> Message:
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = (worker, answer)
        worker.tasks.add(number)
        message: dict[str, Any] = {"do": "task", "job": job, "task": number, **order}
        if follow is not None:
            self._followers[id(follow)] = (worker, number)
            message["upto"] = follow.advance_prefix()
        try:
            worker.send(message)
            return await answer
        finally:
            worker.tasks.discard(number)
            del self._answers[number]
            if follow is not None:
                self._followers.pop(id(follow), None)

    def advance(self, file: FileState, upto: int) -> None:
        """More of a file is in place for the digest that trails it."""
        found = self._followers.get(id(file))
        if found is not None:
            found[0].send({"do": "upto", "task": found[1], "upto": upto})

    def answer(self, message: Message) -> None:
        """A worker is done, or failed."""
        found = self._answers.get(message["task"])
        if found is not None and not found[1].done():
            found[1].set_result(message)

    def note_worker(self) -> None:
        """There is a worker more."""
        self._started.set()

    def note_gone(self, worker: WorkerHandle) -> None:
        """A worker ended: what it had is done again elsewhere."""
        for holder, answer in list(self._answers.values()):
            if holder is worker and not answer.done():
                answer.set_exception(WorkerDied("a worker process ended"))

    async def _wait_for_worker(self) -> WorkerHandle:
        while True:
            self._pool.want(1)
            workers = [worker for worker in self._pool.workers if not worker.is_gone]
            if workers:
                return min(workers, key=lambda w: (len(w.tasks), len(w.batches)))
            self._started.clear()
            await self._started.wait()
