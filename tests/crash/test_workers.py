"""A worker process that is killed, stopped or starved in mid-part: the fetch goes on, the daemon is
unharmed, and what was fetched again is counted at the origin."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.world import IN_FLIGHT, MIB, OLD, World, world
from tests.harness import call, eventually

SIZE = sum(map(len, OLD.values()))


def begun(made: World) -> World:
    made.begin()
    made.put("m", OLD)
    return made


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[World]:
    """However long its origin is held, that takes none of a part's tries."""
    with world(tmp_path, FETCH_BACKOFF_BASE="0.01") as made:
        yield begun(made)


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[World]:
    """A stopped worker is noticed after 2 stall windows and connect timeouts and 10 s: 14 s."""
    with world(
        tmp_path, FETCH_STALL_WINDOW="1", FETCH_CONNECT_TIMEOUT="1", FETCH_BACKOFF_BASE="0.01"
    ) as made:
        yield begun(made)


class Asker:
    """An ask that is under way, its origin held in mid-part."""

    def __init__(self, made: World) -> None:
        self._world = made
        self._status = 0
        self._sent = made.origin.sent.total()
        made.origin.hold(after=17 * MIB)
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        made.wait_mid_part()
        self.workers = made.workers()
        assert self.workers

    def _ask(self) -> None:
        self._world.pull("m")
        self._status = 200

    def finish(self, seconds: float = 50) -> int:
        """Bytes fetched again."""
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        assert self._status == 200, self._world.daemon.log()[-3000:]
        return self._world.origin.sent.total() - self._sent - SIZE


def is_unharmed(made: World, pid: int) -> None:
    assert made.daemon.process is not None
    assert made.daemon.process.poll() is None
    assert made.daemon.process.pid == pid
    made.check()
    assert made.ask("m").json()["result"] == "hit"
    assert "Traceback" not in made.daemon.log()


def test_a_killed_worker(steady: World) -> None:
    assert steady.daemon.process is not None
    pid = steady.daemon.process.pid
    asker = Asker(steady)
    for worker in asker.workers:
        os.kill(worker, signal.SIGKILL)
    steady.origin.release()
    assert 0 < asker.finish() <= IN_FLIGHT
    is_unharmed(steady, pid)
    assert steady.daemon.metric("cachd_retries_total") >= 1


def test_workers_killed_again_and_again(steady: World) -> None:
    """Five times, each as soon as one is there: as many tries as a part has, less one."""
    assert steady.daemon.process is not None
    pid = steady.daemon.process.pid
    asker = Asker(steady)
    gone: set[int] = set()
    for _ in range(5):
        eventually(lambda: set(steady.workers()) - gone)
        for worker in set(steady.workers()) - gone:
            os.kill(worker, signal.SIGKILL)
            gone.add(worker)
    steady.origin.release()
    asker.finish()
    is_unharmed(steady, pid)


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(hasty: World) -> None:
    assert hasty.daemon.process is not None
    pid = hasty.daemon.process.pid
    asker = Asker(hasty)
    for worker in asker.workers:
        os.kill(worker, signal.SIGSTOP)
    hasty.origin.release()
    assert call(hasty.daemon.socket, "GET", "/livez").status == 200
    assert asker.finish() <= IN_FLIGHT
    is_unharmed(hasty, pid)
    eventually(lambda: not set(asker.workers) & set(hasty.workers()))


def test_a_worker_that_gets_no_more_memory(hasty: World) -> None:
    """No address space beyond what it has: what fails there is tried again elsewhere, or there."""
    assert hasty.daemon.process is not None
    pid = hasty.daemon.process.pid
    asker = Asker(hasty)
    for worker in asker.workers:
        pages = int(Path(f"/proc/{worker}/statm").read_text().split()[0])
        size = pages * resource.getpagesize()
        resource.prlimit(worker, resource.RLIMIT_AS, (size, size))
    hasty.origin.release()
    assert asker.finish() <= IN_FLIGHT
    is_unharmed(hasty, pid)


def test_a_worker_that_is_starved_from_its_start(tmp_path: Path) -> None:
    """The next model meets a worker that can't allocate; it fails by rule or comes, and the daemon
    serves on."""
    with world(tmp_path, FETCH_BACKOFF_BASE="0.01") as made:
        made.begin()
        assert made.daemon.process is not None
        pid = made.daemon.process.pid
        workers = made.workers()
        assert workers
        for worker in workers:
            resource.prlimit(worker, resource.RLIMIT_AS, (1 << 20, 1 << 20))
        made.put("m", OLD)
        reply = made.ask("m")
        if reply.status != 200:
            assert reply.status < 600
            assert reply.json()["code"] != "internal", reply.body
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
        made.pull("m")
        is_unharmed(made, pid)
