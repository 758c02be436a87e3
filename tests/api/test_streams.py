"""Answers line by line, and callers that go away in their midst."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cachd.errors import NoSpace
from tests.api.conftest import Rig, eventually

URI = "s3://bucket/llama"
FILES = {"config.json": b"{}", "sub/model.safetensors": bytes(range(256)) * 64}


async def test_progress_is_streamed_and_ends_with_the_answer(rig: Rig) -> None:
    rig.cache.add(URI, FILES)
    session = rig.session()
    headers = {"Accept": "application/x-ndjson"}
    async with session.post("/v1/models", json={"uri": URI}, headers=headers) as response:
        assert response.content_type == "application/x-ndjson"
        first = json.loads(await response.content.readline())
        second = json.loads(await response.content.readline())
        assert (first["event"], second["event"]) == ("resolving", "progress")
        rig.cache.origins[URI].gate.set()
        rest = (await response.read()).splitlines()
    last = json.loads(rest[-1])
    assert (last["event"], last["result"], last["files"]) == ("ready", "miss", 2)
    assert last["request_id"] == response.headers["X-Request-Id"]


async def test_a_quiet_stream_has_heartbeats(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachd.api.stream.HEARTBEAT", 0.05)
    rig.cache.add(URI, FILES)
    headers = {"Accept": "application/x-ndjson"}
    async with rig.session().post("/v1/models", json={"uri": URI}, headers=headers) as response:
        seen = [json.loads(await response.content.readline()) for _ in range(5)]
    assert [line["event"] for line in seen] == ["resolving", "progress"] + ["heartbeat"] * 3
    assert 0 < seen[2]["elapsed"] < seen[3]["elapsed"] < seen[4]["elapsed"]


async def test_an_error_after_the_first_line_is_the_last_line(rig: Rig) -> None:
    rig.cache.add(URI, FILES, error=NoSpace("no room", hint="unpin", needed=5, free=1))
    rig.cache.origins[URI].gate.set()
    headers = {"Accept": "application/x-ndjson"}
    reply = await rig.call("POST", "/v1/models", {"uri": URI}, headers=headers)
    assert reply.status == 200
    last = json.loads(reply.body.splitlines()[-1])
    assert (last["event"], last["code"], last["status"]) == ("error", "no_space", 507)
    assert (last["needed"], last["free"], last["hint"]) == (5, 1, "unpin")
    text = rig.metrics.render()[0].decode()
    assert 'cachd_requests_total{code="507",endpoint="ask"} 1.0' in text


async def test_an_error_before_the_first_line_has_its_own_status(rig: Rig) -> None:
    headers = {"Accept": "application/x-ndjson"}
    reply = await rig.call("POST", "/v1/models", {"uri": "s3://none/x"}, headers=headers)
    assert (reply.status, reply.headers["Content-Type"], reply.json()["code"]) == (
        404,
        "application/problem+json",
        "not_found",
    )


async def test_a_defect_in_a_stream_tells_nothing_of_its_inside(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.cache.add(URI, FILES, error=ValueError("inner matter"))
    rig.cache.origins[URI].gate.set()
    for headers in ({}, {"Accept": "application/x-ndjson"}):
        reply = await rig.call("POST", "/v1/models", {"uri": URI}, headers=headers)
        last = json.loads(reply.body.splitlines()[-1])
        assert (last["code"], last["status"]) == ("internal", 500)
        assert b"inner matter" not in reply.body
        assert "inner matter" in caplog.text
        assert reply.headers["X-Request-Id"] in last["hint"]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_a_caller_that_goes_away_is_noticed_and_harms_nobody(rig: Rig, accept: str) -> None:
    key = rig.cache.add(URI, FILES)
    staying = asyncio.create_task(rig.ask(URI))
    body = json.dumps({"uri": URI}).encode()
    reader, writer = await asyncio.open_unix_connection(str(rig.pods))
    writer.write(
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nAccept: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (accept.encode(), len(body), body)
    )
    await eventually(lambda: rig.cache.waiting.get(key) == 2)
    writer.close()
    await eventually(lambda: rig.cache.waiting[key] == 1)
    rig.cache.origins[URI].gate.set()
    assert (await staying).json()["result"] == "miss"
    assert rig.cache.origins[URI].fetches == 1
    text = rig.metrics.render()[0].decode()
    assert 'cachd_requests_total{code="499",endpoint="ask"} 1.0' in text
    del reader


async def test_a_hundred_callers_share_one_fetch(rig: Rig) -> None:
    rig.cache.add(URI, FILES)
    asks = [asyncio.create_task(rig.ask(URI)) for _ in range(100)]
    await eventually(lambda: sum(rig.cache.waiting.values()) == 100)
    rig.cache.origins[URI].gate.set()
    assert {reply.status for reply in await asyncio.gather(*asks)} == {200}
    assert rig.cache.origins[URI].fetches == 1


async def test_who_leaves_after_the_ready_line_was_served(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.cache.store(URI, FILES)
    ask = rig.cache.ask

    async def slowly(wanted: Any, caller: Any) -> AsyncIterator[Any]:
        async for event in ask(wanted, caller):
            yield event
        await asyncio.Event().wait()

    monkeypatch.setattr(rig.cache, "ask", slowly)
    body = json.dumps({"uri": URI}).encode()
    reader, writer = await asyncio.open_unix_connection(str(rig.pods))
    writer.write(
        b"POST /v1/models HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await reader.readuntil(b'"event":"ready"')
    writer.transport.abort()
    wanted = 'cachd_requests_total{code="200",endpoint="ask"} 1.0'
    await eventually(lambda: wanted in rig.metrics.render()[0].decode())
    assert 'code="499"' not in rig.metrics.render()[0].decode()


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError()])
async def test_no_departure_is_logged_as_an_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    key = rig.cache.store(URI, FILES)
    failed = asyncio.Event()

    async def leave(request: Any, *_: object) -> None:
        # The reader is gone, and no cancellation has come yet.
        request.transport.abort()
        failed.set()
        raise error

    monkeypatch.setattr("cachd.api.files.send_file", leave)
    monkeypatch.setattr("cachd.api.archive._send", leave)
    for name in ("files/config.json", "archive.tar"):
        reader, writer = await asyncio.open_unix_connection(str(rig.pods))
        writer.write(f"GET /v1/models/{key}/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.wait_for(failed.wait(), 30)
        failed.clear()
        writer.transport.abort()
        del reader
    for name in ("file", "archive"):
        wanted = f'cachd_requests_total{{code="499",endpoint="{name}"}} 1.0'
        await eventually(lambda w=wanted: w in rig.metrics.render()[0].decode())
    await rig.call("GET", "/livez")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
