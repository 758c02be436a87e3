"""The mover: takes fetch jobs, shares connections between them, gives work to the workers."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from cachd.errors import CachdError, Cancelled, DeadlineExceeded, DiskFull, InternalError
from cachd.fetch.gates import Gates
from cachd.fetch.job import FetchJob, FetchResult
from cachd.fetch.localtasks import LocalTasks
from cachd.fetch.observe import FetchMetrics, NoMetrics
from cachd.fetch.orders import (
    extra_patience,
    grant,
    introduction,
    order_unpack,
    setup_worker,
    unpacked_files,
)
from cachd.fetch.pool import Batch, WorkerHandle, WorkerPool
from cachd.fetch.preempt import Preemption
from cachd.fetch.readings import Readings
from cachd.fetch.release import THREAD_PATIENCE, release, until_done
from cachd.fetch.retry import RetryPolicy
from cachd.fetch.schedule import Priority, Scheduler, Unit
from cachd.fetch.transfer import Transfer, start_files
from cachd.fetch.tree import clear_archive, prepare_tree, prepare_unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cachd.channel import Message
    from cachd.fetch.readings import Reading
    from cachd.model import Auth, ManifestFile
    from cachd.settings import ArchiveSettings, EgressSettings, FetchSettings

T = TypeVar("T")

TASKS_PER_WORKER = 2
"""Files whose digests one worker computes at the same time."""


class Mover:
    """Fetches plans into trees by worker processes. ``start`` before, ``stop`` after."""

    def __init__(
        self,
        settings: FetchSettings,
        archive: ArchiveSettings,
        egress: EgressSettings,
        *,
        metrics: FetchMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._archive = archive
        self._egress = egress
        self._metrics = metrics or NoMetrics()
        count = settings.workers or max(2, (os.cpu_count() or 2) // 2)
        count = min(count, settings.connections)
        self.gates = Gates(settings, self._metrics)
        self.gates.listen(self._dispatch)
        self._scheduler = Scheduler(
            settings.connections, settings.connections_per_origin, self.gates.has_room
        )
        self._policy = RetryPolicy.of(settings)
        self._pool = WorkerPool(
            size=count,
            capacity=-(-settings.connections // count),
            share=-(-min(settings.connections, settings.connections_per_origin) // count),
            idle=settings.worker_idle,
            stuck_after=2 * settings.stall_window + 2 * settings.connect_timeout + 10,
            setup=self._setup,
            on_message=self._on_message,
            on_gone=self._on_gone,
        )
        self._preemption = Preemption(self._scheduler, self._pool)
        self._transfers: dict[str, Transfer] = {}
        self._numbers = itertools.count(1)
        self.tasks = LocalTasks(
            self._pool,
            self._numbers,
            slots=count * TASKS_PER_WORKER,
            attempts=settings.attempts,
            introduce=self._introduce_for_task,
        )
        self._readings = Readings(self._pool, self._numbers)
        self._grows: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._sharers = 1

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        self._pool.start()

    async def stop(self) -> None:
        """End the workers. Jobs that still run fail with Cancelled; bounded by about 3 s."""
        self._is_stopping = True
        self._preemption.close()
        self._readings.close()
        self.gates.close()
        for transfer in list(self._transfers.values()):
            transfer.fail(Cancelled("cachd stops; what is in place is kept"))
        for task in list(self._grows):
            task.cancel()
        await asyncio.gather(*self._grows, return_exceptions=True)
        await self._pool.stop(2.0)

    async def fetch(self, job: FetchJob) -> FetchResult:
        """Fetch and verify all files of ``job.plan`` into ``job.tree``.

        Cancelling the caller's task stops the job's parts within about a second; what is in place
        was journalled. Raises CachdError: what the origin, the disk or the job's callbacks said,
        DeadlineExceeded, ContentError (what is on disk is wrong: don't resume from it).
        """
        self._check_fit(job)
        started = time.monotonic()
        await _in_thread(prepare_tree, job.tree, job.plan)
        # A large model's share of the event loop's time would hold everybody else up.
        files, units = await asyncio.to_thread(start_files, job, int(self._settings.part_size))
        self._check_fit(job)
        transfer = Transfer(job, self._policy.at_most(job.attempts), self, files)
        self._transfers[job.id] = transfer
        job.listen(lambda auth: self._on_auth(job, auth))
        job.progress.state = "queued"
        limit = asyncio.timeout(self._settings.deadline or None)
        try:
            self._scheduler.add(job.id, job.origin, job.priority, units)
            self._dispatch()
            async with limit:
                await transfer.run()
                fetched = transfer.fetched_at or time.monotonic()
                done = await self._finish(job, transfer)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"the fetch took longer than {self._settings.deadline:g} s",
                hint="raise fetch.deadline; what is in place is kept for the next try",
            ) from None
        finally:
            job.listen(None)
            self._scheduler.remove(job.id)
            del self._transfers[job.id]
            try:
                await release(self._pool, job.id)
            finally:
                self._dispatch()
        job.progress.state = "done"
        ended = time.monotonic()
        return FetchResult(
            files=done,
            fetched_bytes=job.progress.received,
            timings={"fetch": fetched - started, "verify": ended - fetched},
            sums={file.planned.path: file.sums for file in transfer.files if file.sums},
        )

    async def read_digests(
        self, tree: Path, readings: Sequence[Reading]
    ) -> dict[str, dict[str, str]]:
        """Digests of files that are in place, by path and algorithm. Raises DiskError."""
        return await self._readings.run(self.tasks, tree, readings)

    def _check_fit(self, job: FetchJob) -> None:
        if self._is_stopping or job.id in self._transfers:
            raise InternalError(f"job {job.id} can't be taken up")

    def set_priority(self, job: FetchJob, priority: Priority) -> None:
        """From now on; parts under way go on."""
        job.priority = priority
        self._scheduler.set_priority(job.id, priority)
        self._dispatch()

    def describe(self) -> dict[str, Any]:
        """Numbers for a status page."""
        return {
            "connections": self._scheduler.running,
            "waiting": self._scheduler.waiting,
            "workers": self._pool.describe(),
            "origins": self.gates.describe(),
        }

    async def _finish(self, job: FetchJob, transfer: Transfer) -> tuple[ManifestFile, ...]:
        files = await asyncio.to_thread(lambda: tuple(f.to_manifest() for f in transfer.files))
        if not job.plan.unpack:
            return files
        job.progress.state = "unpacking"
        while isinstance(answer := await self._unpack(job, files), DiskFull):
            # The archive is in place: only the unpacking is done again.
            await job.make_room(answer)
        await _in_thread(clear_archive, job.tree)
        return unpacked_files(answer["files"])

    async def _unpack(self, job: FetchJob, files: Sequence[ManifestFile]) -> Message | DiskFull:
        name = "" if job.plan.rules else job.plan.files[0].path
        place = await _in_thread(prepare_unpack, job.tree, name)
        try:
            return await self.tasks.run(job.id, order_unpack(job, place, files), None)
        except DiskFull as error:
            return error

    # --- work to workers -----------------------------------------------------------------------

    def _setup(self) -> Message:
        threads = -(-self._settings.connections // self._pool.size)
        more = {"threads": threads, "bandwidth": self._share()}
        return more | setup_worker(self._settings, self._archive, self._egress)

    def _share(self) -> float | None:
        """One worker's part of the bandwidth."""
        cap = self._settings.bandwidth
        return None if cap is None else int(cap) / max(1, self._sharers)

    def _spread_bandwidth(self) -> None:
        """Those share it equally that have work."""
        if self._settings.bandwidth is None:
            return
        sharers = sum(1 for worker in self._pool.workers if worker.batches)
        if sharers != self._sharers:
            self._sharers = sharers
            for worker in self._pool.workers:
                worker.send({"do": "bandwidth", "rate": self._share()})

    def _dispatch(self) -> None:
        """Give out units while there are connections and workers for them."""
        if self._is_stopping:
            return
        if self._scheduler.waiting:
            self._pool.want(self._scheduler.running + self._scheduler.waiting)
        while self._pool.has_room and (found := self._scheduler.next()) is not None:
            job, unit = found
            self._assign(self._pool.pick(self._transfers[job].job.origin), job, unit)
        self._preemption.look()
        self._spread_bandwidth()
        self._metrics.connections(self._scheduler.running)
        self._metrics.waiting(self._scheduler.waiting)

    def _assign(self, worker: WorkerHandle, job_id: str, unit: Unit) -> None:
        transfer = self._transfers[job_id]
        job = transfer.job
        if job.progress.state == "queued":
            job.progress.state = "fetching"
        self._introduce(worker, transfer)
        number, generation = next(self._numbers), transfer.recovery.generation
        batch = Batch(number, job_id, job.origin, unit, generation, time.monotonic())
        batch.patience = extra_patience(job, self._settings)
        batch.ticket = self.gates.begin(job.origin)
        worker.batches[batch.number] = batch
        parts = [transfer.describe(part) for part in unit.parts]
        worker.send({"do": "batch", "job": job_id, "batch": batch.number, "parts": parts})

    def _introduce_for_task(self, worker: WorkerHandle, job: str) -> None:
        if not self._readings.introduce(worker, job):
            self._introduce(worker, self._transfers[job])

    def _introduce(self, worker: WorkerHandle, transfer: Transfer) -> None:
        """Tell a worker of a job, once."""
        job = transfer.job
        if job.id in worker.jobs:
            return
        worker.jobs.add(job.id)
        worker.send(introduction(job, transfer.clock_offset, self._settings))

    def _on_auth(self, job: FetchJob, auth: Auth) -> None:
        transfer = self._transfers.get(job.id)
        if transfer is None:
            return
        transfer.recovery.note_auth()
        for worker in self._pool.workers:
            if job.id in worker.jobs:
                worker.send({"do": "auth", "job": job.id, "auth": asdict(auth)})

    # --- what a transfer needs (transfer.Floor) ------------------------------------------------

    def push(self, job: str, units: list[Unit]) -> None:
        self._scheduler.push(job, units)
        self._dispatch()

    def drop(self, job: str, file: int) -> None:
        self._scheduler.drop(job, file)

    def set_clock(self, job: str, offset: float) -> None:
        self._transfers[job].clock_offset = offset
        for worker in self._pool.workers:
            if job in worker.jobs:
                worker.send({"do": "clock", "job": job, "offset": offset})

    def retried(self, cause: str) -> None:
        self._metrics.retried(cause)

    def received(self, job: FetchJob, count: int) -> None:
        if count > 0:
            self._metrics.received(job.source, count, job.place)

    # --- what workers say ----------------------------------------------------------------------

    def _on_message(self, worker: WorkerHandle, message: Message) -> None:
        match message["is"]:
            case "progress":
                now = time.monotonic()
                for number, index, received in message["parts"]:
                    batch = worker.batches.get(number)
                    transfer = self._transfers.get(batch.job) if batch else None
                    if batch is not None:
                        batch.moved = now
                    if batch is not None and transfer is not None:
                        transfer.on_progress(batch, index, received)
                        if received:
                            self._judge(batch, None)
            case "ended":
                batch = worker.batches.pop(message["batch"])
                self._scheduler.finish(batch.job, batch.origin, batch.unit)
                for result in message["results"]:
                    error = CachdError.from_wire(result[6]) if result[6] else None
                    self._judge(batch, error, result[3])
                self.gates.end(batch.origin, batch.ticket)
                transfer = self._transfers.get(batch.job)
                if transfer is not None and not transfer.is_over:
                    transfer.on_ended(batch, message["results"])
                self._dispatch()
            case "grow":
                task = asyncio.create_task(self._grow(worker, message), name="fetch-grow")
                self._grows.add(task)
                task.add_done_callback(self._grows.discard)
            case "task":
                self.tasks.answer(message)
            case "unpacked":
                transfer = self._transfers.get(message["job"])
                if transfer is not None:
                    transfer.job.progress.unpacked += message["bytes"]
            case "cancelled":
                event = worker.cancels.get(message["job"])
                if event is not None:
                    event.set()
            case "started":
                self.tasks.note_worker()
                self._metrics.workers(len(self._pool.workers))
                worker.send({"do": "bandwidth", "rate": self._share()})
                self._dispatch()

    def _judge(self, batch: Batch, error: CachdError | None, received: int = 0) -> None:
        """What an answer says of its origin; one that was tried in vain ends all that wait."""
        if error is None and batch.is_good:
            self.gates.heard(batch.origin)
            return
        batch.is_good = error is None
        refusal = self.gates.judge(batch.origin, batch.ticket, error, received)
        if refusal is not None:
            for transfer in self._transfers.values():
                if transfer.job.origin == batch.origin:
                    transfer.fail(refusal)

    async def _grow(self, worker: WorkerHandle, message: Message) -> None:
        transfer = self._transfers.get(message["job"])
        if transfer is None:
            return
        mine = [batch for batch in worker.batches.values() if batch.job == message["job"]]
        error: CachdError | None = None
        for batch in mine:
            batch.is_growing = True
        try:
            await transfer.job.grow(message["bytes"])
        except CachdError as problem:
            error = problem
            # It ends the job: the daemon knows the reason better than the worker's echo of it.
            transfer.fail(problem)
        finally:
            for batch in mine:
                batch.is_growing = False
                batch.moved = time.monotonic()
        worker.send(grant(message, error))

    def _on_gone(self, worker: WorkerHandle) -> None:
        """A worker ended, by itself or at our word: its work is done again elsewhere."""
        if worker.has_work and not self._is_stopping:
            self._metrics.worker_died()
        self._metrics.workers(len(self._pool.workers))
        batches, worker.batches = list(worker.batches.values()), {}
        for batch in batches:
            self._scheduler.finish(batch.job, batch.origin, batch.unit)
            self.gates.end(batch.origin, batch.ticket)
        self.tasks.note_gone(worker)
        for batch in batches:
            transfer = self._transfers.get(batch.job)
            if transfer is not None and not transfer.is_over:
                transfer.on_worker_died(batch)
        self._dispatch()


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Of work at the tree: it has ended when the caller, cancelled or not, goes on."""
    return await until_done(asyncio.to_thread(function, *arguments), THREAD_PATIENCE)
