"""The worker process: ``python -m cachd.fetch.worker FD``. Threads with blocking sockets fetch
ranges into place; the main thread reads orders from the daemon; a third kind reads files back for
digests, or unpacks archives. It imports little, so that it starts fast and stays small.
"""

from __future__ import annotations

import itertools
import os
import queue
import signal
import sys
import threading
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cachd.channel import ChildChannel, Message
from cachd.errors import CachdError, Cancelled, InternalError
from cachd.fetch import crc
from cachd.fetch.answer import make_wanted
from cachd.fetch.claims import Composite, claim_to_check, mismatch
from cachd.fetch.connect import Connector
from cachd.fetch.head import HEAD_MOST
from cachd.fetch.place import open_place
from cachd.fetch.proxy import ProxyRules
from cachd.fetch.questions import ask_facts
from cachd.fetch.rate import TokenBucket
from cachd.fetch.readback import digest_file
from cachd.fetch.reader import Outcome, Reader
from cachd.fetch.task import LocalTask
from cachd.fetch.work import Work, WorkerJob, WorkerSettings
from cachd.model import Digest
from cachd.sources.egress import EgressGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.fetch.answer import Wanted

BUFFER = 1024 * 1024
SCRATCH = 64 * 1024
REPORT_EVERY = 0.25
"""Seconds between progress messages."""

CANCEL_PATIENCE = 5.0
_STACK = 512 * 1024


class Worker:
    """The process: its jobs, its connection threads, its channel."""

    def __init__(self, channel: ChildChannel, setup: Message) -> None:
        self._channel = channel
        self._settings = WorkerSettings(
            connect_timeout=setup["connect_timeout"],
            stall_window=setup["stall_window"],
            stall_floor=setup["stall_floor"],
        )
        guard = EgressGuard(SimpleNamespace(**setup["egress"]))  # type: ignore[arg-type]
        proxies = ProxyRules.from_environment(os.environ)
        self._connector = Connector(guard, proxies, self._settings.connect_timeout)
        self._bucket = TokenBucket(setup["bandwidth"])
        self._archive = dict(setup["archive"])
        self._threads_most = int(setup["threads"])
        self._jobs: dict[str, WorkerJob] = {}
        self._batches: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting = 0
        self._active: dict[tuple[int, int], Work] = {}
        self._given_up: dict[int, bool] = {}
        self._tasks: dict[int, LocalTask] = {}
        self._numbers = itertools.count(1)
        self._orders: dict[str, Callable[[Message], None]] = {
            "job": self._on_job,
            "batch": self._on_batch,
            "give_up": self._on_give_up,
            "auth": self._on_auth,
            "clock": self._on_clock,
            "cancel": self._on_cancel,
            "grant": self._on_grant,
            "task": self._on_task,
            "upto": self._on_upto,
            "bandwidth": self._on_bandwidth,
            "ping": self._on_ping,
        }

    def run(self) -> None:
        """Until the daemon closes the channel."""
        self._spawn(self._report, "report")
        while (message := self._channel.receive()) is not None:
            self._orders[message["do"]](message)

    def _spawn(self, function: Callable[..., None], name: str, *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, name=name, daemon=True).start()

    # --- orders ----------------------------------------------------------------------------

    def _on_job(self, message: Message) -> None:
        self._jobs[message["job"]] = WorkerJob(message, self._ask)

    def _on_batch(self, message: Message) -> None:
        with self._lock:
            self._waiting += 1
            self._given_up[message["batch"]] = False
            is_short = self._threads < min(self._waiting, self._threads_most)
            if is_short:
                self._threads += 1
        self._batches.put(message)
        if is_short:
            self._spawn(self._fetch_batches, "fetch")

    def _on_give_up(self, message: Message) -> None:
        """The batch's connection is wanted for another model; it may have ended meanwhile."""
        number = message["batch"]
        with self._lock:
            if number not in self._given_up:
                return
            self._given_up[number] = True
            works = [work for key, work in self._active.items() if key[0] == number]
        for work in works:
            work.give_up()

    def _on_auth(self, message: Message) -> None:
        job = self._jobs.get(message["job"])
        if job is not None:
            job.set_auth(message["auth"])

    def _on_clock(self, message: Message) -> None:
        job = self._jobs.get(message["job"])
        if job is not None:
            job.set_clock(message["offset"])

    def _on_cancel(self, message: Message) -> None:
        """Also the end of a job that is finished."""
        job = self._jobs.pop(message["job"], None)
        tasks = [task for task in self._tasks.values() if task.job_id == message["job"]]
        for task in tasks:
            task.cancel()

        def end() -> None:
            is_quiet = job is None or job.cancel(CANCEL_PATIENCE)
            for task in tasks:
                is_quiet = task.join(CANCEL_PATIENCE) and is_quiet
            if is_quiet:
                self._channel.send({"is": "cancelled", "job": message["job"]})

        self._spawn(end, "cancel")

    def _on_grant(self, message: Message) -> None:
        job = self._jobs.get(message["job"])
        if job is not None:
            error = message["error"]
            job.grant(message["number"], CachdError.from_wire(error) if error else None)

    def _on_task(self, message: Message) -> None:
        job = self._jobs.get(message["job"])
        if job is None:
            return
        task = LocalTask(
            message, job, self._archive, self._channel.send, self._end_task, self._make_reader
        )
        self._tasks[task.number] = task
        task.start()

    def _make_reader(self, job: WorkerJob) -> Reader:
        work = Work(job, self._connector, self._bucket, self._settings, bytearray(SCRATCH))
        return Reader(work, bytearray(2 * HEAD_MOST))

    def _end_task(self, number: int) -> None:
        self._tasks.pop(number, None)

    def _on_upto(self, message: Message) -> None:
        task = self._tasks.get(message["task"])
        if task is not None:
            task.set_upto(message["upto"])

    def _on_bandwidth(self, message: Message) -> None:
        self._bucket.set_rate(message["rate"])

    def _on_ping(self, message: Message) -> None:
        self._channel.send({"is": "pong"})
        self._connector.close_idle()

    # --- work ------------------------------------------------------------------------------

    def _ask(self, job: str, count: int) -> int:
        number = next(self._numbers)
        self._channel.send({"is": "grow", "job": job, "number": number, "bytes": count})
        return number

    def _report(self) -> None:
        """Received bytes of the parts under way; nothing while there is nothing to say."""
        tick = threading.Event()
        said: dict[tuple[int, int], int] = {}
        while True:
            tick.wait(REPORT_EVERY)
            with self._lock:
                now = {key: work.received for key, work in self._active.items()}
            news = [[*key, count] for key, count in now.items() if said.get(key) != count]
            said = now
            if news:
                self._channel.send({"is": "progress", "parts": news})

    def _fetch_batches(self) -> None:
        buffer, scratch = bytearray(BUFFER), bytearray(SCRATCH)
        while True:
            message = self._batches.get()
            results: list[list[Any]] = []
            try:
                self._fetch_batch(message, results, buffer, scratch)
            except Exception:
                traceback.print_exc()
                os._exit(70)
            with self._lock:
                self._waiting -= 1
                del self._given_up[message["batch"]]
            self._channel.send({"is": "ended", "batch": message["batch"], "results": results})

    def _fetch_batch(
        self, message: Message, results: list[list[Any]], buffer: bytearray, scratch: bytearray
    ) -> None:
        """Each part attempted adds [index, length, blocks, received, facts, verified, error]; the
        first error ends the batch. That of a part that was given up is ``cancelled``."""
        job = self._jobs.get(message["job"])
        if job is None:
            return
        for index, part in enumerate(message["parts"]):
            work = Work(job, self._connector, self._bucket, self._settings, scratch)
            key = (message["batch"], index)
            with self._lock:
                if self._given_up[message["batch"]]:
                    return
                self._active[key] = work
            outcome, error, verified = Outcome(), None, None
            try:
                verified = self._fetch_part(part, work, buffer, outcome)
            except CachdError as problem:
                error = problem
            except Exception as problem:
                traceback.print_exc()
                error = InternalError(f"a defect in the mover: {type(problem).__name__}")
            finally:
                with self._lock:
                    del self._active[key]
            if job.is_cancelled:
                return
            if error is not None and work.is_given_up:
                error = Cancelled("another model's turn")
            results.append(
                [
                    index,
                    outcome.length,
                    outcome.blocks,
                    work.received,
                    outcome.facts.to_wire() if outcome.facts else None,
                    verified,
                    error.to_wire() if error else None,
                ]
            )
            if error is not None:
                return

    def _fetch_part(
        self, part: dict[str, Any], work: Work, buffer: bytearray, outcome: Outcome
    ) -> list[str] | None:
        """Fetch one part; [algorithm, value] of the whole file if it is that, and was checked."""
        length, size = part["length"], part["size"]
        is_stream = length is None
        reader = Reader(work, buffer)
        wanted = make_wanted(part, is_s3=work.job.is_s3)
        facts = ask_facts(reader, wanted) if part["ask"] else None
        with open_place(work.job.tree, part["path"], truncate=is_stream and size is None) as fd:
            if wanted.url.startswith("file://"):
                # The source's module imports asyncio, which most workers never need.
                from cachd.fetch.local import LocalReader  # noqa: PLC0415

                LocalReader(work, buffer).fetch(wanted, fd, outcome)
            else:
                reader.fetch(wanted, fd, outcome)
        if facts is not None:
            outcome.facts = facts
        return _check_whole(work.job, wanted, part["digest"], outcome) if wanted.is_whole else None


def _check_whole(
    job: WorkerJob, wanted: Wanted, planned: list[Any] | None, outcome: Outcome
) -> list[str] | None:
    """Compare a file that came in one part with its digest, while it is in the page cache."""
    claimed = Digest(algorithm=planned[0], value=planned[1]) if planned else None
    digest = claim_to_check(claimed, outcome.facts, takes_etags=job.takes_etags)
    if digest is None or isinstance(digest, Composite):
        return None
    if digest.algorithm == "crc64nvme":
        value = crc.combine(outcome.blocks, outcome.length)
    else:
        (value,) = digest_file(
            job.tree,
            wanted.path,
            outcome.length,
            (digest.algorithm,),
            lambda _: outcome.length,
            lambda: job.is_cancelled,
        )
    if value != digest.value:
        outcome.blocks, outcome.length = [], 0
        raise mismatch(wanted.path, digest, value)
    return [digest.algorithm, value]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(0.02)
    threading.stack_size(_STACK)
    channel = ChildChannel.from_arguments()
    setup = channel.receive()
    if setup is not None:
        Worker(channel, setup).run()
    # Threads may be blocked in a call that nobody can interrupt.
    os._exit(0)


if __name__ == "__main__":
    main()
