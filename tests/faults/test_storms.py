"""An origin that is busy or gone is left alone by all models of the node together, and they come
back one by one. Counted at the origin."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.conftest import MIB
from tests.harness import Daemon, Reply, call, eventually, running
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, pattern, s3_error

pytestmark = pytest.mark.slow

MODELS = 20
CONNECTIONS = 12
BUSY = Fault("status", status=503, headers={"Retry-After": "1"}, body=s3_error("SlowDown"))


SOON_GONE = {
    "FETCH_BREAKER_FAILURES": "3",
    "FETCH_ORIGIN_PATIENCE": "0",
    "FRESHNESS_INTERVAL": "0",
}


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        yield one


def put_models(origin: Bucket) -> dict[str, bytes]:
    data = {f"m{n}": pattern(4 * MIB, n) for n in range(MODELS)}
    for name, body in data.items():
        for part in range(4):
            origin.put(f"/models/{name}/f{part}", body[part * MIB : (part + 1) * MIB])
    return data


def ask(daemon: Daemon, origin: Bucket, name: str, **more: object) -> Reply:
    options = {"endpoint": origin.base, "region": "us-east-1"}
    body = {"uri": f"s3://models/{name}", "options": options, **more}
    return call(daemon.socket, "POST", "/v1/models", body)


def calls(origin: Bucket) -> int:
    return len(origin.seen)


@pytest.mark.parametrize("what", ["parts", "everything"])
def test_twenty_models_hold_off_together(tmp_path: Path, origin: Bucket, what: str) -> None:
    """During the hold-off come what was under way when the first 503 arrived (the connections; of
    each model's resolving a HEAD and a LIST at most), and one probe for each time it ends."""
    data = put_models(origin)
    origin.fault("*", BUSY)
    if what == "everything":
        origin.list_fault = BUSY
    with (
        running(tmp_path, FETCH_BACKOFF_BASE="0.1", FETCH_BACKOFF_MAX="2") as daemon,
        ThreadPoolExecutor(MODELS) as pool,
    ):
        replies = [pool.submit(ask, daemon, origin, name) for name in data]
        refused = lambda: sum(s.method in ("GET", "LIST") for s in origin.seen)  # noqa: E731
        eventually(lambda: refused() >= 1)
        # Two holds of a second each, and a half.
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 2.5)
        # More, where this test was kept waiting.
        probes = 1 + int(time.monotonic() - began)
        if what == "parts":
            assert origin.requests() <= CONNECTIONS + probes
        else:
            assert origin.requests() == 0
            assert origin.lists <= MODELS + probes
        origin.clear_faults()
        origin.list_fault = None
        for name, reply in zip(data, replies, strict=True):
            answer = reply.result(60).json()
            assert "path" in answer, answer
            tree = Path(answer["path"])
            assert b"".join((tree / f"f{n}").read_bytes() for n in range(4)) == data[name]
        assert daemon.metric("cachd_breaker_changes_total", state="open") >= 2
        assert daemon.metric("cachd_breaker_changes_total", state="closed") == 1
        assert daemon.metric("cachd_origin_held_seconds_total", cause="busy") > 1.5
        assert daemon.metric("cachd_origins_held") == 0


def test_an_origin_that_is_gone_is_not_called_and_asks_fail_fast(
    tmp_path: Path, origin: Bucket
) -> None:
    put_models(origin)
    with running(tmp_path, **SOON_GONE, FETCH_BACKOFF_BASE="60", FETCH_BACKOFF_MAX="60") as daemon:
        assert ask(daemon, origin, "m0").status == 200
        origin.list_fault = Fault("status", status=500)
        for name in ("m1", "m2", "m3"):
            assert ask(daemon, origin, name).json()["code"] == "origin_failed"
        before = calls(origin)
        for name in ("m4", "m5", "m6"):
            reply = ask(daemon, origin, name)
            assert reply.json()["code"] == "origin_unreachable"
            assert 1 <= int(reply.headers["retry-after"]) <= 75
        assert ask(daemon, origin, "m0").json()["result"] == "stale"
        assert calls(origin) == before


def test_an_origin_that_comes_back_is_noticed(tmp_path: Path, origin: Bucket) -> None:
    put_models(origin)
    with running(tmp_path, **SOON_GONE, FETCH_BACKOFF_BASE="1", FETCH_BACKOFF_MAX="1") as daemon:
        origin.list_fault = Fault("status", status=500)
        for name in ("m1", "m2", "m3"):
            assert ask(daemon, origin, name).json()["code"] == "origin_failed"
        assert daemon.metric("cachd_breaker_changes_total", state="open") >= 1
        origin.list_fault = None
        eventually(lambda: ask(daemon, origin, "m4").status == 200)


def test_an_ask_waits_no_longer_than_it_said(tmp_path: Path, origin: Bucket) -> None:
    put_models(origin)
    with running(tmp_path) as daemon, ThreadPoolExecutor(1) as pool:
        assert ask(daemon, origin, "m2").status == 200
        origin.fault("*", Fault("status", status=503, headers={"Retry-After": "60"}))
        began = time.monotonic()
        first = pool.submit(ask, daemon, origin, "m0", timeout=10)
        eventually(lambda: daemon.metric("cachd_origins_held") == 1)
        # Sixty seconds are more than a new ask's patience; with jitter a few more.
        reply = ask(daemon, origin, "m1")
        assert reply.json()["code"] == "origin_busy"
        assert 45 < int(reply.headers["retry-after"]) <= 70
        assert not first.done()
        assert first.result(60).json()["code"] == "deadline_exceeded"
        assert 9.5 < time.monotonic() - began < 45


def test_other_origins_go_on(tmp_path: Path, origin: Bucket) -> None:
    put_models(origin)
    origin.fault("*", Fault("status", status=503, headers={"Retry-After": "30"}))
    with running(tmp_path) as daemon, Bucket() as other:
        put_models(other)
        waiting = threading.Thread(target=ask, args=(daemon, origin, "m0"))
        waiting.start()
        eventually(lambda: origin.requests() >= 1)
        assert ask(daemon, other, "m0").status == 200
        assert daemon.terminate() == 0
        waiting.join(60)
