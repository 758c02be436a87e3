"""Connections that are held for nothing don't shut others out."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import TYPE_CHECKING

import pytest

from cachd.api.connections import Gate, effective_limit
from cachd.api.listeners import Listeners
from cachd.metrics import Metrics
from cachd.settings import Settings
from tests.api.conftest import Rig, eventually
from tests.api.memory import MemoryCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def small(run: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    """Sockets for eight connections, six of one uid."""
    cache, metrics = MemoryCache(tmp_path / "models"), Metrics()
    settings = Settings.model_validate({"listen": {"max_connections": 8}})
    listeners = Listeners(cache, settings, metrics)
    made = Rig(cache, metrics, run / "cachd.sock", run / "admin.sock")
    try:
        await listeners.open_sockets(made.pods, made.admin)
        yield made
    finally:
        for session in made.sessions.values():
            await session.close()
        await listeners.close()
        await cache.close()


def refused(rig: Rig, reason: str) -> float:
    name, labels = "cachd_connections_refused_total", {"reason": reason}
    return rig.metrics.registry.get_sample_value(name, labels) or 0.0


async def test_idle_connections_leave_room_for_others(
    small: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    held = [await asyncio.open_unix_connection(str(small.pods)) for _ in range(20)]
    await eventually(lambda: refused(small, "uid") == 14)
    assert refused(small, "all") == 0
    assert [r.levelno for r in caplog.records if "max_connections" in r.getMessage()] == [
        logging.WARNING
    ]
    for reader, _ in held[6:]:
        assert await asyncio.wait_for(reader.read(), 5) == b""
    # Those within the limit live, and so does the administrators' socket.
    held[0][1].write(REQUEST)
    assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200")
    assert (await small.call("GET", "/livez", admin=True)).status == 200
    held[1][1].close()
    await held[1][1].wait_closed()

    async def is_served() -> bool:
        reader, writer = await asyncio.open_unix_connection(str(small.pods))
        writer.write(REQUEST)
        try:
            return (await reader.readline()).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False
        finally:
            writer.close()

    async with asyncio.timeout(30):
        while not await is_served():
            await asyncio.sleep(0.01)
    for _, writer in held:
        writer.close()


async def test_many_connections_in_turn_are_no_problem(small: Rig) -> None:
    for _ in range(30):
        reader, writer = await asyncio.open_unix_connection(str(small.pods))
        writer.write(REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert refused(small, "uid") == refused(small, "all") == 0


def test_the_limits_of_all_and_of_one(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    metrics = Metrics()
    gate = Gate(8, metrics, clock=lambda: now[0])
    assert [gate.enter(1) for _ in range(7)] == [True] * 6 + [False]
    assert [gate.enter(2) for _ in range(3)] == [True, True, False]
    found = metrics.registry.get_sample_value
    assert found("cachd_connections_refused_total", {"reason": "uid"}) == 1
    assert found("cachd_connections_refused_total", {"reason": "all"}) == 1
    assert len(caplog.records) == 1
    now[0] = 1.0
    assert not gate.enter(3)
    assert len(caplog.records) == 2
    gate.leave(1)
    assert gate.enter(3)
    assert not gate.enter(1)


def test_the_limit_leaves_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[0])
    assert (effective_limit(4096), effective_limit(100)) == (512, 100)
    limits[0] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert effective_limit(4096) == 4096


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTT", REQUEST, REQUEST + b"GET /li"])
async def test_a_connection_without_a_whole_head_is_closed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("cachd.api.app.KEEPALIVE", 0.2)
    cache = MemoryCache(tmp_path / "models")
    listeners = Listeners(cache, Settings(), Metrics())
    try:
        await listeners.open_sockets(run / "s", run / "a")
        for path in (run / "s", run / "a"):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(sent)
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 200") is (REQUEST in sent)
            writer.close()
    finally:
        await listeners.close()
        await cache.close()


def test_a_head_must_come_within_half_a_minute() -> None:
    from cachd.api.app import connection_options

    assert connection_options()["keepalive_timeout"] == 30
