"""One fetch while it runs: its files, its journal, its verification, its end. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from cachd.errors import CachdError, InternalError, OriginError, SizeMismatch, WorkerDied
from cachd.fetch.claims import Facts
from cachd.fetch.filestate import FileState
from cachd.fetch.plan import Part, plan_parts, without_blocks
from cachd.fetch.recovery import Recovery
from cachd.fetch.schedule import make_units
from cachd.fetch.verification import Verification
from cachd.model import Digest, PartDone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from cachd.fetch.job import FetchJob
    from cachd.fetch.localtasks import LocalTasks
    from cachd.fetch.pool import Batch
    from cachd.fetch.retry import RetryPolicy
    from cachd.fetch.schedule import Unit
    from cachd.model import PlannedFile

log = logging.getLogger("cachd.fetch")

_FLUSH_PATIENCE = 5.0
_FILES_AT_ONCE = 1000


def start_files(job: FetchJob, part_size: int) -> tuple[list[FileState], list[Unit]]:
    """The files at the beginning, and what is left to fetch of them. Pure."""
    files = [
        FileState.start(index, planned, job.done.get(planned.path, ()), job.sums.get(planned.path))
        for index, planned in enumerate(job.plan.files)
    ]
    return files, make_units(plan_parts(job.plan.files, job.done, part_size))


def special_of(planned: PlannedFile) -> dict[str, Any]:
    """What few files need said of their requests."""
    special = {"range_query": planned.range_query, "post": planned.post, "headers": planned.headers}
    return {name: value for name, value in special.items() if value}


class Floor(Protocol):
    """What a transfer needs of the mover."""

    def push(self, job: str, units: list[Unit]) -> None: ...

    def drop(self, job: str, file: int) -> None: ...

    def set_clock(self, job: str, offset: float) -> None: ...

    def retried(self, cause: str) -> None: ...

    def received(self, job: FetchJob, count: int) -> None: ...

    @property
    def tasks(self) -> LocalTasks: ...


class Transfer:
    """The state of one FetchJob."""

    def __init__(
        self, job: FetchJob, policy: RetryPolicy, floor: Floor, files: list[FileState]
    ) -> None:
        self.job = job
        self._floor = floor
        self._pending: list[PartDone] = []
        self._journal_wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.files = files
        self._open = self._incomplete = len(self.files)
        self.clock_offset = 0.0
        self.fetched_at: float | None = None
        self.recovery = Recovery(
            job,
            policy,
            push=lambda units: floor.push(job.id, units),
            spawn=self._spawn,
            set_clock=lambda offset: floor.set_clock(job.id, offset),
            retried=floor.retried,
            restream=self._restream,
            fail=self.fail,
        )
        self._verification = Verification(
            job, floor.tasks, spawn=self._spawn, close=self._close, fail=self.fail
        )
        progress = job.progress
        sizes = [file.size for file in self.files]
        progress.total = None if None in sizes else sum(size or 0 for size in sizes)
        progress.files_total, progress.files_done = len(self.files), 0
        self._bytes = sum(file.progress for file in self.files)
        progress.note(self._bytes)

    async def run(self) -> None:
        """Until every file is in place and verified. Raises what made it fail."""
        self._spawn(self._journal(), "journal")
        if not self.files:
            self._ended.set_result(None)
        try:
            for count, file in enumerate(self.files):
                self._complete_if_whole(file)
                if count % _FILES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            await self._ended
        finally:
            self.recovery.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flush(), _FLUSH_PATIENCE)

    def fail(self, error: CachdError) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    @property
    def is_over(self) -> bool:
        return self._ended.done()

    # --- owned tasks ---------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"fetch-{name}-{self.job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, CachdError):
            self.fail(error)
        elif error is not None:
            self.fail(InternalError(f"a defect in the mover: {type(error).__name__}: {error}"))

    async def _journal(self) -> None:
        while True:
            await self._journal_wanted.wait()
            self._journal_wanted.clear()
            await self._flush()

    async def _flush(self) -> None:
        if self._pending:
            parts, self._pending = self._pending, []
            try:
                await self.job.on_parts(parts)
            except asyncio.CancelledError:
                # Left to the last flush: a line that comes twice says nothing new.
                self._pending[:0] = parts
                raise

    # --- what workers say ----------------------------------------------------------------------

    def describe(self, part: Part) -> dict[str, Any]:
        """The part for a worker's eyes; it counts as running until it is left again."""
        file = self.files[part.file]
        planned, validator = file.planned, file.planned.validator
        file.running += 1
        is_whole = part.length is None or (part.offset == 0 and part.length == file.size)
        asks = self._verification.may_be_told(file) and not is_whole and file.asking is None
        if asks:
            file.asking = part.offset
        return {
            "path": planned.path,
            "url": planned.url,
            "size": planned.size,
            "offset": part.offset,
            "length": part.length,
            "etag": validator.etag,
            "last_modified": validator.last_modified,
            "version_id": validator.version_id,
            "digest": [planned.digest.algorithm, planned.digest.value] if planned.digest else None,
            "ask": asks,
            **special_of(planned),
        }

    def on_progress(self, batch: Batch, index: int, received: int) -> None:
        """``received`` bytes so far, of one part under way."""
        file = self.files[batch.unit.parts[index].file]
        self._count(batch, index, received)
        before = file.progress
        file.in_flight[(batch.number, index)] = received
        self._note(file, before)

    def on_ended(self, batch: Batch, results: list[list[Any]]) -> None:
        """A unit came back; parts that its worker never came to are put back as they were."""
        attempted = set()
        for index, length, blocks, received, facts, verified, error in results:
            attempted.add(index)
            part = batch.unit.parts[index]
            file = self.files[part.file]
            self._count(batch, index, received)
            before = file.progress
            if error is None and file.asking == part.offset:
                file.is_told = True
            self._leave(batch, index)
            if facts is not None and not (file.facts and file.facts.has_claims):
                file.facts = Facts.from_wire(facts)
            if part.is_stream == file.is_stream:
                if not part.is_stream or error is None:
                    self._keep(file, part, length, blocks)
                if error is None:
                    self._succeed(file, verified)
                else:
                    self.recovery.failed(
                        part,
                        0 if part.is_stream else length,
                        CachdError.from_wire(error),
                        batch.generation,
                    )
            self._note(file, before)
            self._complete_if_whole(file)
            self._stream_if_quiet(file)
        self._put_back(batch, attempted)

    def on_worker_died(self, batch: Batch) -> None:
        """Its process ended. The parts are tried again one by one, should one be the cause."""
        error = WorkerDied("a worker process ended in mid-fetch")
        for index, part in enumerate(batch.unit.parts):
            file = self.files[part.file]
            before = file.progress
            self._leave(batch, index)
            self._note(file, before)
            if part.is_stream == file.is_stream:
                self.recovery.failed(part, 0, error, batch.generation)
            self._stream_if_quiet(file)

    def _put_back(self, batch: Batch, attempted: set[int]) -> None:
        rest = []
        for index, part in enumerate(batch.unit.parts):
            if index in attempted:
                continue
            self._leave(batch, index)
            file = self.files[part.file]
            if part.is_stream == file.is_stream:
                rest.append(part)
            self._stream_if_quiet(file)
        if rest:
            self._floor.push(self.job.id, make_units(rest))

    def _leave(self, batch: Batch, index: int) -> None:
        part = batch.unit.parts[index]
        file = self.files[part.file]
        file.running -= 1
        if file.asking == part.offset and not file.is_told:
            file.asking = None
        file.in_flight.pop((batch.number, index), None)

    def _count(self, batch: Batch, index: int, received: int) -> None:
        more = received - batch.received.get(index, 0)
        batch.received[index] = received
        self.job.progress.received += more
        self._floor.received(self.job, more)

    def _note(self, file: FileState, before: int) -> None:
        self._bytes += file.progress - before
        progress = self.job.progress
        progress.note(self._bytes)
        if file.running:
            progress.active[file.planned.path] = (file.progress, file.size)
        else:
            progress.active.pop(file.planned.path, None)

    # --- files ---------------------------------------------------------------------------------

    def _keep(self, file: FileState, part: Part, length: int, blocks: list[str]) -> None:
        """A range is in place, and goes to the journal."""
        if part.is_stream:
            if file.size is not None and length != file.size:
                self.fail(SizeMismatch(f"{file.planned.path} has {length} bytes, not {file.size}"))
                return
            file.size = length
        if not length:
            return
        file.add_blocks(part.offset, blocks, length)
        done = PartDone(
            path=file.planned.path, offset=part.offset, length=length, blocks=tuple(blocks)
        )
        wrong = file.wrong_blocks(part.offset, blocks)
        if wrong:
            self._note_wrong(file, wrong)
        self._pending += without_blocks(done, wrong)
        self._journal_wanted.set()
        if not part.is_stream and length < (file.size or 0):
            self._verification.trail(file)

    def _note_wrong(self, file: FileState, wrong: set[int]) -> None:
        """Blocks that are not what they should be: they count as fetched, and go nowhere."""
        path, job = file.planned.path, self.job
        job.wrong.update((path, index) for index in wrong)
        log.warning("%s sends %d wrong blocks of %s", job.origin, len(wrong), path)
        if len(job.wrong) > job.wrong_most:
            self.fail(
                OriginError(
                    f"{job.origin} sends other bytes of {path} than it says it holds",
                    hint="its disk may be failing: `cachd verify` there tells",
                    status=502,
                    final=True,
                )
            )

    def _succeed(self, file: FileState, verified: list[str] | None) -> None:
        self.recovery.note_success()
        if verified is not None:
            file.verified = Digest(algorithm=verified[0], value=verified[1])

    def _restream(self, index: int) -> None:
        """The origin ignores ranges: from the start, in one answer, once its parts are quiet."""
        file = self.files[index]
        if file.is_stream:
            return
        before = file.progress
        file.restart()
        self._floor.drop(self.job.id, index)
        self._note(file, before)

    def _stream_if_quiet(self, file: FileState) -> None:
        if file.wants_stream and not file.running:
            file.wants_stream = False
            self._floor.push(self.job.id, make_units([Part(file.index, 0, None)]))

    def _complete_if_whole(self, file: FileState) -> None:
        """All bytes are there: compare them with the digest, if there is one."""
        if file.is_complete or self.is_over or not file.has_all_blocks:
            return
        file.is_complete = True
        self._incomplete -= 1
        if self._incomplete == 0:
            self.fetched_at = time.monotonic()
            self.job.progress.state = "verifying"
        self._verification.finish(file)

    def _close(self, file: FileState) -> None:
        self._open -= 1
        self.job.progress.files_done += 1
        if self._open == 0 and not self._ended.done():
            self._ended.set_result(None)
