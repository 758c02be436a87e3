"""The mover as a whole: many files, resume, cancelling, dying workers, limits, unpacking."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import tarfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from cachd.errors import CachdError, NoSpace
from cachd.model import Auth
from tests.fetch.conftest import BLOCK, MIB, Rig, plan_of, planned
from tests.origins.fault import Fault, FaultOrigin, pattern, s3_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def until(condition: Callable[[], Any], patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.01)


async def test_two_thousand_small_files(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"d{i % 7}/f{i}", pattern(i % 3000, i)) for i in range(2000)]
    await rig.mover(workers=2)
    result = await rig.fetch(plan_of(*files))
    assert [f.path for f in result.files] == [f.path for f in files]
    for i in range(2000):
        assert rig.read(f"d{i % 7}/f{i}") == pattern(i % 3000, i)
    empty = sum(1 for i in range(2000) if i % 3000 == 0)
    assert origin.requests() == 2000 - empty
    assert origin.open_most <= 8
    assert {p.path for p in rig.journal} == {f.path for f in files if f.size}


async def test_empty_files_need_no_origin(rig: Rig, origin: FaultOrigin) -> None:
    result = await rig.fetch(plan_of(planned(origin, "a/b/empty", b"")))
    assert rig.read("a/b/empty") == b""
    assert result.files[0].size == 0
    assert result.files[0].blocks == ()
    assert origin.seen == []


async def test_an_empty_plan(rig: Rig) -> None:
    assert (await rig.fetch(plan_of())).files == ()


async def test_what_is_done_is_not_fetched(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(4 * BLOCK + 5)
    file = planned(origin, "m", data)
    first = await rig.fetch(plan_of(file))
    count = origin.requests()
    again = await rig.fetch(plan_of(file), done=rig.done())
    assert origin.requests() == count
    assert again.files == first.files
    assert again.fetched_bytes == 0
    some = {"m": [p for p in rig.done()["m"] if p.offset != BLOCK]}
    third = await rig.fetch(plan_of(file), done=some)
    assert third.fetched_bytes == BLOCK
    assert third.files == first.files


async def test_cancelling_stops_within_a_second(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("*", Fault("drip", chunk=20_000, seconds=0.05))
    mover = await rig.mover(workers=2)
    job = rig.job(plan_of(planned(origin, "m", pattern(64 * MIB))))
    task = asyncio.create_task(mover.fetch(job))
    await until(lambda: job.progress.bytes > 100_000)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 10
    await until(lambda: origin.open_now == 0)
    workers = [w.child.pid for w in mover._pool.workers]
    origin.clear_faults()
    result = await rig.fetch(plan_of(planned(origin, "m", pattern(64 * MIB))), done=rig.done())
    assert rig.read("m") == pattern(64 * MIB)
    assert result.files[0].size == 64 * MIB
    assert [w.child.pid for w in mover._pool.workers] == workers


async def test_a_killed_worker_is_replaced(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("/m", Fault("drip", chunk=200_000, seconds=0.02), times=6)
    mover = await rig.mover(workers=2)
    data = pattern(48 * MIB)
    files = [planned(origin, f"f{i}", pattern(10_000, i)) for i in range(200)]
    job = rig.job(plan_of(planned(origin, "m", data), *files))
    task = asyncio.create_task(mover.fetch(job))
    await until(lambda: job.progress.bytes > MIB)
    for worker in list(mover._pool.workers):
        os.kill(worker.child.pid, signal.SIGKILL)
    await task
    assert rig.read("m") == data
    assert all(rig.read(f"f{i}") == pattern(10_000, i) for i in range(200))
    assert "worker_died" in rig.retries


async def test_a_stopped_worker_is_killed_when_cancelled(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("*", Fault("drip", chunk=20_000, seconds=0.05))
    mover = await rig.mover(workers=2)
    job = rig.job(plan_of(planned(origin, "m", pattern(64 * MIB))))
    task = asyncio.create_task(mover.fetch(job))
    await until(lambda: job.progress.bytes > 100_000)
    workers = list(mover._pool.workers)
    for worker in workers:
        os.kill(worker.child.pid, signal.SIGSTOP)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - started < 20
    await until(lambda: not mover._pool.workers)
    await until(lambda: all(w.child.process.returncode is not None for w in workers))


async def test_stop_is_bounded(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("*", Fault("silent"))
    mover = await rig.mover(workers=2)
    task = asyncio.create_task(mover.fetch(rig.job(plan_of(planned(origin, "m", pattern(100))))))
    await until(lambda: origin.requests() == 1)
    started = time.monotonic()
    await mover.stop()
    assert time.monotonic() - started < 20
    with pytest.raises(CachdError):
        await task


async def test_idle_workers_end(rig: Rig, origin: FaultOrigin) -> None:
    mover = await rig.mover(worker_idle=0)
    await rig.fetch(plan_of(planned(origin, "m", pattern(100))))
    await until(lambda: not mover._pool.workers)
    await rig.fetch(plan_of(planned(origin, "n", pattern(100))))
    assert rig.read("n") == pattern(100)


async def test_the_limit_of_connections(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"m{i}", pattern(3 * MIB, i)) for i in range(20)]
    origin.fault("*", Fault("drip", chunk=MIB, seconds=0.01))
    await rig.mover(connections=8, connections_per_origin=3, workers=2)
    await rig.fetch(plan_of(*files))
    assert origin.open_most <= 3


async def test_credentials_are_refreshed_once_for_all(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"m{i}", pattern(MIB, i)) for i in range(8)]
    for file in files:
        expired = Fault("status", status=400, body=s3_error("ExpiredToken"))
        origin.fault(f"/{file.path}", expired, times=1)
    old = Auth(kind="sigv4", access_key="OLD", secret_key="s", region="r")
    rig.auths = [
        Auth(kind="sigv4", access_key="NEW", secret_key="s", session_token="t", region="r")
    ]
    await rig.mover(connections=12, workers=2)
    hold = origin.hold = threading.Event()
    task = asyncio.create_task(rig.fetch(plan_of(*files, auth=old)))
    await until(lambda: origin.requests() == 8)
    hold.set()
    await task
    assert rig.refreshed == 1
    assert rig.retries == ["credentials_expired"] * 8
    last = origin.seen[-1].headers
    assert "Credential=NEW/" in last["authorization"]
    assert last["x-amz-security-token"] == "t"


async def test_a_clock_that_is_off(rig: Rig, origin: FaultOrigin) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    skewed = Fault(
        "status", status=403, body=s3_error("RequestTimeTooSkewed"), headers={"Date": date}
    )
    origin.fault("/m", skewed, times=1)
    auth = Auth(kind="sigv4", access_key="A", secret_key="s", region="r")
    await rig.fetch(plan_of(planned(origin, "m", pattern(100)), auth=auth))
    assert origin.seen[-1].headers["x-amz-date"].startswith("20151021T0728")


async def test_no_more_space_for_a_stream(rig: Rig, origin: FaultOrigin) -> None:
    async def grow(count: int) -> None:
        raise NoSpace("there is no room")

    file = planned(origin, "m", pattern(MIB), size=None, ranges=False)
    assert (await rig.fails(plan_of(file), grow=grow)).code == "no_space"


async def test_a_journal_that_fails_ends_the_fetch(rig: Rig, origin: FaultOrigin) -> None:
    async def on_parts(parts: Any) -> None:
        raise NoSpace("the journal has no room")

    plan = plan_of(planned(origin, "m", pattern(MIB)), planned(origin, "n", pattern(MIB)))
    origin.fault("/n", Fault("silent"))
    assert (await rig.fails(plan, on_parts=on_parts)).code == "no_space"


async def test_the_deadline(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("*", Fault("drip", chunk=20_000, seconds=0.05))
    await rig.mover(deadline=1)
    error = await rig.fails(plan_of(planned(origin, "m", pattern(64 * MIB))))
    assert error.code == "deadline_exceeded"


async def test_the_bandwidth_cap(rig: Rig, origin: FaultOrigin) -> None:
    files = [planned(origin, f"m{i}", pattern(MIB, i)) for i in range(4)]
    await rig.mover(bandwidth=2 * MIB, workers=2)
    started = time.monotonic()
    await rig.fetch(plan_of(*files))
    assert time.monotonic() - started > 1.5


async def test_redirects_lose_the_pass_at_another_host(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(20 * MIB)
    with FaultOrigin() as other:
        body = origin.put("/m", data)
        other.put("/real", data, etag=body.etag)
        origin.fault("/m", Fault("redirect", location=other.url("/real?sig=1")))
        host = f"localhost:{origin.port}"
        auth = Auth(kind="headers", headers=(("authorization", "Bearer x"),), host=host)
        file = planned(origin, "m", data)
        file = planned(origin, "m", data, url=origin.url("/m").replace("127.0.0.1", "localhost"))
        await rig.mover(connections=1)
        await rig.fetch(plan_of(file, auth=auth))
        assert rig.read("m") == data
        assert origin.requests() == 1
        assert origin.seen[0].headers["authorization"] == "Bearer x"
        assert other.requests() == 3
        assert all("authorization" not in seen.headers for seen in other.seen)


async def test_a_redirect_to_metadata_is_refused(rig: Rig, origin: FaultOrigin) -> None:
    origin.fault("/m", Fault("redirect", location="http://169.254.169.254/latest"))
    error = await rig.fails(plan_of(planned(origin, "m", pattern(100))))
    assert error.code == "egress_forbidden"


async def test_nobody_listens(rig: Rig, origin: FaultOrigin) -> None:
    file = planned(origin, "m", pattern(100))
    origin.close()
    await rig.mover(attempts=2)
    assert (await rig.fails(plan_of(file))).code == "origin_unreachable"


async def test_an_archive_is_unpacked(rig: Rig, origin: FaultOrigin) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in (("a/x", pattern(100)), ("b", pattern(9 * MIB))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    plan = plan_of(planned(origin, "model.tar.gz", buffer.getvalue()), unpack="tar")
    result = await rig.fetch(plan)
    assert [(f.path, f.size) for f in result.files] == [("a/x", 100), ("b", 9 * MIB)]
    assert rig.read("b") == pattern(9 * MIB)
    assert sorted(p.name for p in rig.root.iterdir()) == ["tree"]
    assert sum(rig.grown) >= 9 * MIB + 100


async def test_a_broken_archive(rig: Rig, origin: FaultOrigin) -> None:
    plan = plan_of(planned(origin, "model.tar.gz", pattern(5000)), unpack="tar")
    assert (await rig.fails(plan)).code == "archive_invalid"


async def test_two_models_share_and_an_error_stays_with_its_own(
    rig: Rig, origin: FaultOrigin, tmp_path: Path
) -> None:
    good = plan_of(*(planned(origin, f"g{i}", pattern(3 * MIB, i)) for i in range(6)))
    bad = plan_of(*(planned(origin, f"b{i}", pattern(3 * MIB, i)) for i in range(6)))
    origin.fault("/b3", Fault("etag"))
    await rig.mover(connections=4)
    results = await asyncio.gather(
        rig.fetch(good, tree=tmp_path / "one"),
        rig.fetch(bad, tree=tmp_path / "two"),
        return_exceptions=True,
    )
    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], CachdError)
    assert (tmp_path / "one" / "g5").read_bytes() == pattern(3 * MIB, 5)


async def test_progress_comes_to_the_whole(rig: Rig, origin: FaultOrigin) -> None:
    job = rig.job(plan_of(planned(origin, "m", pattern(20 * MIB)), planned(origin, "e", b"")))
    origin.fault("/m", Fault("reset", after=MIB), times=2)
    await (await rig.mover()).fetch(job)
    shown = job.progress.to_json()
    assert (shown["bytes"], shown["total"]) == (20 * MIB, 20 * MIB)
    assert (shown["files_done"], shown["files_total"], shown["files"]) == (2, 2, [])
    assert job.progress.received >= 20 * MIB


async def test_no_secret_in_arguments_or_environment(rig: Rig, origin: FaultOrigin) -> None:
    mover = await rig.mover(workers=2)
    origin.fault("*", Fault("silent"))
    auth = Auth(kind="sigv4", access_key="AKIDVISIBLE", secret_key="verysecret", region="r")
    file = planned(origin, "m", pattern(10))
    task = asyncio.create_task(rig.fetch(plan_of(file, auth=auth), mover=mover))
    await until(lambda: origin.requests() == 1)
    pid = mover._pool.workers[0].child.pid
    with open(f"/proc/{pid}/cmdline", "rb") as args, open(f"/proc/{pid}/environ", "rb") as env:
        assert b"verysecret" not in args.read() + env.read()
    assert "verysecret" not in repr(rig.job(plan_of(file, auth=auth)))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_worker_is_small() -> None:
    import subprocess
    import sys

    code = (
        "import cachd.fetch.worker, sys;"
        "print([m for m in ('aiohttp', 'pydantic', 'asyncio', 'yaml') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"
