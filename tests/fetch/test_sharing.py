"""Jobs that share connections, and callers whose wishes would be everybody's."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from cachd.fetch.orders import extra_patience, time_limits
from cachd.fetch.recent import Recent
from cachd.fetch.release import until_done
from cachd.model import Auth, Connect
from cachd.settings import FetchSettings
from tests.fetch.conftest import BLOCK, MIB, Rig, plan_of, planned
from tests.fetch.test_mover import until
from tests.origins.fault import Fault, FaultOrigin, pattern

if TYPE_CHECKING:
    from pathlib import Path


async def finish(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_slow_prefetch_leaves_connections_for_others(
    rig: Rig, origin: FaultOrigin, tmp_path: Path
) -> None:
    origin.fault("*", Fault("drip", chunk=20_000, seconds=0.1))
    mover = await rig.mover(connections=8, workers=2)
    files = [planned(origin, f"s{i}", pattern(2 * BLOCK, i)) for i in range(4)]
    slow = rig.job(plan_of(*files), priority="prefetch", origin="slow", tree=tmp_path / "slow")
    task = asyncio.create_task(mover.fetch(slow))
    await until(lambda: origin.requests() == 6)
    with FaultOrigin() as other:
        started = time.monotonic()
        await rig.fetch(plan_of(planned(other, "m", pattern(MIB))), mover=mover, origin="other")
        assert time.monotonic() - started < 20
    assert origin.requests() == 6
    await finish(task)


async def test_a_prefetch_gives_a_connection_back(
    rig: Rig, origin: FaultOrigin, tmp_path: Path
) -> None:
    """Two slow ones hold all connections, one of them the reserve; whole blocks survive."""
    mover = await rig.mover(connections=2, workers=1, part_size=2 * BLOCK, stall_window=60)
    jobs, tasks, data = [], [], pattern(2 * BLOCK)
    for n in range(2):
        # The first block comes quickly, and then there is a trickle.
        origin.fault(f"/s{n}", Fault("stall", after=BLOCK + 1000))
        file = planned(origin, f"s{n}", data)
        job = rig.job(plan_of(file), priority="prefetch", origin=f"o{n}", tree=tmp_path / str(n))
        jobs.append(job)
        tasks.append(asyncio.create_task(mover.fetch(job)))
    await until(lambda: all(job.progress.bytes > BLOCK for job in jobs))
    with FaultOrigin() as other:
        started = time.monotonic()
        file = planned(other, "m", pattern(MIB))
        await rig.fetch(plan_of(file), mover=mover, origin="other")
        assert time.monotonic() - started < 30
    assert rig.retries == []
    origin.clear_faults()
    # The other one ended where it was taken back from: what was in place was not fetched again.
    await until(lambda: any(task.done() for task in tasks))
    assert [seen.headers.get("range") for seen in origin.seen] == [
        None,
        None,
        f"bytes={BLOCK}-{2 * BLOCK - 1}",
    ]
    origin.drop_connections()
    await asyncio.gather(*tasks)
    for n in range(2):
        assert (tmp_path / str(n) / f"s{n}").read_bytes() == data


SETTINGS = FetchSettings(stall_window=30, connect_timeout=10)
NAN = math.nan


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ((None, None), (None, None)),
        ((5.0, 60.0), (5.0, 60.0)),
        ((0.001, 0.2), (1.0, 30.0)),
        ((1e11, 1e11), (60.0, 300.0)),
        ((math.inf, math.inf), (60.0, 300.0)),
        ((-math.inf, -1.0), (1.0, 30.0)),
        ((NAN, NAN), (60.0, 300.0)),
    ],
)
def test_a_callers_time_limits_have_bounds(given: Any, taken: Any, tmp_path: Path) -> None:
    connect = Connect(connect_timeout=given[0], read_timeout=given[1])
    job = Rig(tmp_path).job(plan_of(connect=connect))
    assert time_limits(job, SETTINGS) == taken
    assert 0 <= extra_patience(job, SETTINGS) <= 400


async def test_one_callers_impatience_ends_nobodys_fetch(rig: Rig, origin: FaultOrigin) -> None:
    hold = origin.hold = threading.Event()
    plan = plan_of(
        planned(origin, "m", pattern(100)), connect=Connect(read_timeout=0.05, connect_timeout=1e-9)
    )
    await rig.mover(attempts=1)
    task = asyncio.create_task(rig.fetch(plan))
    await until(lambda: origin.requests() == 1)
    asyncio.get_running_loop().call_later(0.7, hold.set)
    await task
    assert rig.read("m") == pattern(100)


@pytest.mark.parametrize("number", [1e11, 1e300, math.inf, 1e-300])
async def test_a_worker_survives_any_number(rig: Rig, origin: FaultOrigin, number: float) -> None:
    connect = Connect(connect_timeout=number, read_timeout=number)
    await rig.mover(connect_timeout=1e11)
    await rig.fetch(plan_of(planned(origin, "m", pattern(100)), connect=connect))
    await rig.fetch(plan_of(planned(origin, "n", pattern(100))))
    assert rig.retries == []


async def test_a_signature_at_the_end_of_a_redirect_is_renewed(
    rig: Rig, origin: FaultOrigin
) -> None:
    """The remembered end expires after one part; the caller's own URL leads to the next."""
    data = pattern(3 * BLOCK)
    with FaultOrigin(host="localhost") as cdn:
        etag = origin.put("/m", data).etag
        cdn.put("/again", data, etag=etag)
        for status in (401, 403, 404, 410):
            cdn.put(f"/{status}", data, etag=etag)
            cdn.fault(f"/{status}", Fault("status", status=status), skip=1)
            origin.clear_faults()
            first = Fault("redirect", location=cdn.url(f"/{status}?sig=1"))
            origin.fault("/m", first, times=1)
            origin.fault("/m", Fault("redirect", location=cdn.url("/again?sig=2")))
            host = f"127.0.0.1:{origin.port}"
            auth = Auth(kind="headers", headers=(("authorization", "Bearer x"),), host=host)
            await rig.mover(connections=1, attempts=1)
            seen = origin.requests()
            await rig.fetch(plan_of(planned(origin, "m", data), auth=auth), tree=rig.tree)
            assert rig.read("m") == data
            assert origin.requests() - seen == 2
        assert all("authorization" not in seen.headers for seen in cdn.seen)
    assert rig.refreshed == 0


async def test_a_second_cancellation_waits_for_the_workers_too(
    rig: Rig, origin: FaultOrigin
) -> None:
    origin.fault("*", Fault("drip", chunk=20_000, seconds=0.05))
    mover = await rig.mover(workers=1)
    job = rig.job(plan_of(planned(origin, "m", pattern(64 * MIB))))
    task = asyncio.create_task(mover.fetch(job))
    await until(lambda: job.progress.bytes > 100_000)
    (worker,) = mover._pool.workers
    os.kill(worker.child.pid, signal.SIGSTOP)
    for _ in range(3):
        task.cancel()
        await until(lambda: job.id in worker.cancels)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.is_gone, "it may still write"


async def test_until_done_is_bounded() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(until_done(never, 0.2))
    await asyncio.sleep(0)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert 0.1 < time.monotonic() - started < 4.5


def test_only_the_last_few_are_kept() -> None:
    recent: Recent[int, int] = Recent(3)
    for n in range(5):
        recent.put(n, n)
        assert recent.get(2 if n >= 2 else n) is not None
    assert [recent.get(n) for n in range(5)] == [None, None, 2, 3, 4]
    assert len(recent) == 3
