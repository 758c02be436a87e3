"""The worker processes, as the daemon sees them: started on demand, watched, ended when idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from cachd.channel import Child, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.fetch.schedule import Unit

log = logging.getLogger(__name__)

MODULE = "cachd.fetch.worker"
PING_AFTER = 10.0
"""Seconds of silence after which a worker with work is asked for a sign of life …"""

PONG_WITHIN = 20.0
"""… and seconds of silence after which it is killed."""

_WATCH_EVERY = 1.0
_ORIGINS_REMEMBERED = 256


@dataclass(eq=False, slots=True)
class Batch:
    """A unit that a worker has. ``moved`` is when it last received a byte (monotonic).

    ``patience``: seconds that it may be silent beyond what the settings allow. ``is_given_up``: the
    worker was told to end it for another model. ``ticket`` is its leave to call the origin;
    ``is_good``: the origin was last heard to be well by it.
    """

    number: int
    job: str
    origin: str
    unit: Unit
    generation: int
    moved: float
    received: dict[int, int] = field(default_factory=dict)
    is_growing: bool = False
    patience: float = 0.0
    is_given_up: bool = False
    ticket: int = 0
    is_good: bool = False


class WorkerHandle:
    """One process. ``capacity`` is the units that it works on at once."""

    def __init__(self, child: Child, capacity: int) -> None:
        self.child = child
        self.capacity = capacity
        self.batches: dict[int, Batch] = {}
        self.jobs: set[str] = set()
        self.tasks: set[int] = set()
        self.heard = time.monotonic()
        self.busy_until = self.heard
        self.cancels: dict[str, asyncio.Event] = {}
        self.reader: asyncio.Task[None] | None = None
        self.is_gone = False
        self._peaks: dict[str, int] = {}

    def has_room(self, most: int) -> bool:
        return len(self.batches) < min(most, self.capacity) and not self.is_gone

    def _uses(self, origin: str) -> int:
        return sum(1 for batch in self.batches.values() if batch.origin == origin)

    def is_warm(self, origin: str) -> bool:
        """Whether it once used more connections to ``origin`` than it uses now."""
        return self._uses(origin) < self._peaks.get(origin, 0)

    def note_use(self, origin: str) -> None:
        """One more connection is about to be used."""
        if len(self._peaks) >= _ORIGINS_REMEMBERED:
            self._peaks.clear()
        self._peaks[origin] = max(self._peaks.get(origin, 0), self._uses(origin) + 1)

    @property
    def has_work(self) -> bool:
        return bool(self.batches or self.tasks)

    def send(self, *messages: Message) -> None:
        if not self.is_gone:
            self.child.send(*messages)


class WorkerPool:
    """``capacity`` is the units that a worker takes at once, ``share`` those of one origin.
    ``setup`` is each worker's first message. ``on_message`` and ``on_gone`` are called on the
    event loop. ``stuck_after`` in seconds without a byte: a unit that no timeout ended."""

    def __init__(
        self,
        *,
        size: int,
        capacity: int,
        share: int,
        idle: float,
        stuck_after: float,
        setup: Callable[[], Message],
        on_message: Callable[[WorkerHandle, Message], None],
        on_gone: Callable[[WorkerHandle], None],
    ) -> None:
        self.size = size
        self._capacity = capacity
        self._share = share
        self._idle = idle
        self._stuck_after = stuck_after
        self._setup = setup
        self._on_message = on_message
        self._on_gone = on_gone
        self.workers: list[WorkerHandle] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._is_stopped = False

    def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch(), name="fetch-pool-watch")

    async def stop(self, patience: float) -> None:
        """End all workers; kill what doesn't end in ``patience`` seconds."""
        self._is_stopped = True
        tasks = [*self._starting, *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(worker, patience) for worker in list(self.workers)))

    def want(self, count: int) -> None:
        """Have at least ``count`` workers (at most ``size``), now or soon."""
        missing = min(count, self.size) - len(self.workers) - len(self._starting)
        for _ in range(max(0, missing) if not self._is_stopped else 0):
            task = asyncio.create_task(self._spawn(), name="fetch-worker-spawn")
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    @property
    def has_room(self) -> bool:
        return any(w.has_room(self._most) for w in self.workers)

    @property
    def _most(self) -> int:
        """Units that a worker gets now. While others start it gets no more than its share of one
        origin's, for it would keep the connections, and one process uses one core."""
        return self._share if self._starting else self._capacity

    def pick(self, origin: str) -> WorkerHandle:
        """The worker for one more unit: one that keeps an idle connection to ``origin``, so that
        open connections stay within the limit of those in use; else the one with most room.

        Raises ValueError if none has room.
        """
        most = self._most
        free = [w for w in self.workers if w.has_room(most)]
        worker = min(free, key=lambda w: (not w.is_warm(origin), len(w.batches)))
        worker.note_use(origin)
        return worker

    def kill(self, worker: WorkerHandle, why: str) -> None:
        log.warning("killing worker %d: %s", worker.child.pid, why)
        worker.child.kill()

    async def _spawn(self) -> None:
        child = await Child.spawn(MODULE)
        if self._is_stopped:
            await child.stop(0.0)
            return
        worker = WorkerHandle(child, self._capacity)
        worker.send(self._setup())
        worker.reader = asyncio.create_task(self._read(worker), name=f"fetch-worker-{child.pid}")
        self.workers.append(worker)
        self._starting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._on_message(worker, {"is": "started"})

    async def _read(self, worker: WorkerHandle) -> None:
        while (message := await worker.child.receive()) is not None:
            worker.heard = time.monotonic()
            try:
                self._on_message(worker, message)
            except Exception:
                log.exception("a message of worker %d was not understood", worker.child.pid)
                worker.child.kill()
                break
        self._remove(worker)
        await worker.child.stop(1.0)

    def _remove(self, worker: WorkerHandle) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        if not worker.is_gone:
            worker.is_gone = True
            for event in worker.cancels.values():
                event.set()
            self._on_gone(worker)

    async def _end(self, worker: WorkerHandle, patience: float) -> None:
        self._remove(worker)
        if worker.reader is not None:
            worker.reader.cancel()
            await asyncio.gather(worker.reader, return_exceptions=True)
        with contextlib.suppress(ConnectionError):
            await worker.child.stop(patience)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_EVERY)
            now = time.monotonic()
            for worker in list(self.workers):
                problem = self._judge(worker, now)
                if problem:
                    self.kill(worker, problem)
                elif now - worker.busy_until > self._idle and not worker.has_work:
                    await self._end(worker, 1.0)

    def _judge(self, worker: WorkerHandle, now: float) -> str:
        """Why a worker must go, or nothing."""
        if worker.has_work or worker.cancels:
            worker.busy_until = now
        else:
            # Who has nothing to do owes no sign of life, and begins anew with its next work.
            worker.heard = now
            return ""
        if now - worker.heard > PONG_WITHIN:
            return "it gives no sign of life"
        if now - worker.heard > PING_AFTER:
            worker.send({"do": "ping"})
        for batch in worker.batches.values():
            patience = self._stuck_after + batch.patience
            if not batch.is_growing and now - batch.moved > patience:
                return f"a part has been stuck for {now - batch.moved:.0f} s"
        return ""

    def describe(self) -> list[dict[str, Any]]:
        """What each worker does now, for a person who looks."""
        return [
            {"pid": w.child.pid, "units": len(w.batches), "tasks": len(w.tasks)}
            for w in self.workers
        ]
