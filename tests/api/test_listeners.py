"""Which listener carries what, and for whom; drain and close."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme

from cachd.api.listeners import Listeners
from cachd.api.routes import ROUTES
from cachd.errors import ConfigInvalid, SocketInUse
from cachd.metrics import Metrics
from cachd.settings import Settings
from tests.api.conftest import Rig, eventually
from tests.api.memory import MemoryCache
from tests.servers.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cachd.api.routing import Route

URI = "s3://b/m"


def target(route: Route, key: str) -> str:
    path = route.path.replace("{key}", key).replace("{path}", "a.bin").replace("{id}", "none")
    path = path.replace("{pod}", "none")
    return path + ("?uri=s3://b/new" if route.name == "import_model" else "")


async def status_of(session: aiohttp.ClientSession, route: Route, key: str, base: str = "") -> Any:
    """Status and code; the answer's body may be endless."""
    body = {"uri": URI} if route.name in ("ask", "plan", "key") else None
    if route.name == "may":
        body = {"verb": "read", "uri": URI}
    url = base + target(route, key)
    async with session.request(route.method, url, json=body) as response:
        code = ""
        if response.content_type == "application/problem+json" and route.method != "HEAD":
            code = json.loads(await response.read())["code"]
        return response.status, code


def test_the_split_is_the_one_that_is_promised() -> None:
    admin = {route.name for route in ROUTES if route.is_admin}
    assert admin == {
        "remove",
        "pin",
        "unpin",
        "promote",
        "gc",
        "verify",
        "verify_all",
        "events",
        "import_model",
        "prefetch",
        "may",
        "metrics",
    }
    assert {r.name for r in ROUTES if r.is_health} == {"livez", "readyz", "metrics"}
    assert len({route.name for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_pods_are_kept_from_what_is_for_administrators(rig: Rig, route: Route) -> None:
    key = rig.cache.store(URI, {"a.bin": b"x"})
    pod = await status_of(rig.session(rig.pods), route, key)
    assert (pod == (403, "forbidden")) is route.is_admin
    admin = await status_of(rig.session(rig.admin), route, key)
    assert admin[1] != "forbidden"
    expected = {"lease": 201, "renew": 404, "release": 404, "import_model": 422}
    assert admin[0] == expected.get(route.name, 200)


async def test_the_administrators_socket_is_for_its_user_alone(rig: Rig) -> None:
    assert stat.S_IMODE(rig.pods.stat().st_mode) == 0o666
    assert stat.S_IMODE(rig.admin.stat().st_mode) == 0o600


async def opened(run: Path, tmp_path: Path, listen: dict[str, Any]) -> Listeners:
    settings = Settings.model_validate({"listen": listen, "drain_timeout": 5})
    return Listeners(MemoryCache(tmp_path / "models"), settings, Metrics())


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def test_the_health_listener_carries_three_routes_alone(
    run: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    [port] = free_ports(1)
    listeners = await opened(run, tmp_path, {"health_address": f"127.0.0.1:{port}"})
    cache: MemoryCache = listeners._cache  # type: ignore[assignment]
    key = cache.store(URI, {"a.bin": b"x"})
    try:
        await listeners.open_health()
        base = f"http://127.0.0.1:{port}"
        for route in ROUTES:
            expected = (200, "") if route.is_health else (404, "route_unknown")
            if route.method == "HEAD":
                expected = (404, "")
            assert await status_of(session, route, key, base) == expected, route.name
        cache.reasons = ["the store is being opened"]
        async with session.get(base + "/readyz") as response:
            assert response.status == 503
            assert await response.json() == {
                "ready": False,
                "reasons": ["the store is being opened"],
                "degraded": [],
            }
        async with session.get(base + "/livez") as response:
            assert response.status == 200
    finally:
        await listeners.close()


async def test_the_api_over_tcp_wants_tls_and_the_token(
    run: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, private_key, token = (run / name for name in ("c.pem", "k.pem", "token"))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(private_key))
    token.write_text("first-token\n")
    [port] = free_ports(1)
    api = {
        "address": f"127.0.0.1:{port}",
        "certificate": str(certificate),
        "private_key": str(private_key),
        "token_file": str(token),
    }
    listeners = await opened(run, tmp_path, {"api": api})
    cache: MemoryCache = listeners._cache  # type: ignore[assignment]
    key = cache.store(URI, {"a.bin": bytes(100_000) + b"end"})
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def get(path: str, sent: str | None) -> tuple[int, bytes]:
        headers = {"Authorization": sent} if sent else {}
        url = f"https://127.0.0.1:{port}{path}"
        async with session.get(url, headers=headers, ssl=context) as response:
            return response.status, await response.read()

    try:
        await listeners.open_sockets(run / "s", run / "a")
        for sent, code in (
            (None, b"credentials_missing"),
            ("Basic Zmlyc3QtdG9rZW4=", b"credentials_missing"),
            ("Bearer first-toke", b"credentials_invalid"),
            ("Bearer first-tokenx", b"credentials_invalid"),
        ):
            status, body = await get("/livez", sent)
            assert (status, code in body) == (401, True), sent
            assert b"first-token" not in body
        assert (await get("/v1/models", "Bearer first-token"))[0] == 200
        whole = await get(f"/v1/models/{key}/files/a.bin", "bearer first-token")
        assert whole == (200, bytes(100_000) + b"end")
        # A token over TCP has the role that the settings give it, and no uid.
        assert (await get("/v1/events", "Bearer first-token"))[0] == 403
        token.write_text("the-second-token")
        assert (await get("/livez", "Bearer first-token"))[0] == 401
        assert (await get("/livez", "Bearer the-second-token"))[0] == 200
        token.write_text("\n")
        assert (await get("/livez", "Bearer "))[0] == 503
        assert (await get("/livez", "Bearer the-second-token"))[0] == 503
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{port}/livez")
    finally:
        await listeners.close()


async def test_a_certificate_that_cant_be_used_is_told(run: Path, tmp_path: Path) -> None:
    for name in ("c", "k", "t"):
        (run / name).write_text("nothing of use")
    api = {
        "address": "127.0.0.1:0",
        "certificate": str(run / "c"),
        "private_key": str(run / "k"),
        "token_file": str(run / "t"),
    }
    listeners = await opened(run, tmp_path, {"api": api})
    try:
        with pytest.raises(ConfigInvalid, match="certificate"):
            await listeners.open_sockets(run / "s", run / "a")
    finally:
        await listeners.close()
    assert sorted(p.name for p in run.iterdir()) == ["c", "k", "t"]


async def test_a_port_that_is_taken_is_told(run: Path, tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        listeners = await opened(run, tmp_path, {"health_address": address})
        try:
            with pytest.raises(SocketInUse, match=address):
                await listeners.open_health()
        finally:
            await listeners.close()


async def test_a_second_daemon_is_refused_and_the_first_lives_on(
    rig: Rig, run: Path, tmp_path: Path
) -> None:
    second = await opened(run, tmp_path, {})
    try:
        with pytest.raises(SocketInUse):
            await second.open_sockets(rig.pods, rig.admin)
    finally:
        await second.close()
    assert (await rig.call("GET", "/livez")).status == 200
    assert (await rig.call("GET", "/livez", admin=True)).status == 200


async def test_drain_refuses_asks_ends_streams_and_waits_for_answers(
    run: Path, tmp_path: Path
) -> None:
    listeners = await opened(run, tmp_path, {})
    cache: MemoryCache = listeners._cache  # type: ignore[assignment]
    cache.add(URI, {"a": b"1"})
    await listeners.open_sockets(run / "s", run / "a")
    connector = aiohttp.UnixConnector(str(run / "a"))
    async with aiohttp.ClientSession("http://cachd", connector=connector) as session:

        async def ask() -> tuple[int, Any]:
            async with session.post("/v1/models", json={"uri": URI}) as response:
                return response.status, await response.json(content_type=None)

        async def follow() -> list[str]:
            async with session.get("/v1/events") as response:
                return [json.loads(line)["event"] async for line in response.content]

        running, following = asyncio.create_task(ask()), asyncio.create_task(follow())
        await eventually(lambda: sum(cache.waiting.values()) == 1 and cache.followers)
        cache.publish("pinned", key="k")
        draining = asyncio.create_task(listeners.drain())
        assert await asyncio.wait_for(following, 5) == ["following", "pinned"]
        status, problem = await ask()
        assert (status, problem["code"]) == (503, "draining")
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert (await response.json())["reasons"]
        async with session.get("/v1/models") as response:
            assert response.status == 200
        assert not draining.done()
        cache.origins[URI].gate.set()
        assert (await running)[1]["result"] == "miss"
        await asyncio.wait_for(draining, 5)
    await listeners.close()
    assert list(run.iterdir()) == []
    await cache.close()


async def test_close_is_bounded_though_a_caller_waits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.listeners.CLOSE_PATIENCE", 0.2)
    listeners = await opened(run, tmp_path, {})
    cache: MemoryCache = listeners._cache  # type: ignore[assignment]
    cache.add(URI, {"a": b"1"})
    await listeners.open_sockets(run / "s", run / "a")
    reader, writer = await asyncio.open_unix_connection(str(run / "s"))
    body = json.dumps({"uri": URI}).encode()
    head = f"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await eventually(lambda: sum(cache.waiting.values()) == 1)
    async with asyncio.timeout(5):
        await listeners.close()
    assert sum(cache.waiting.values()) == 0
    assert await reader.read() == b""
    writer.close()
    assert list(run.iterdir()) == []
    await cache.close()


async def test_events_are_a_stream_for_administrators(rig: Rig) -> None:
    async with rig.session(rig.admin).get("/v1/events") as response:
        assert json.loads(await response.content.readline())["event"] == "following"
        await eventually(lambda: rig.cache.followers)
        rig.cache.publish("evicted", key="k", reason="lru")
        line = json.loads(await response.content.readline())
        assert (line["event"], line["key"], line["reason"]) == ("evicted", "k", "lru")
    await eventually(lambda: not rig.cache.followers)


async def test_plan_and_gc(rig: Rig) -> None:
    rig.cache.store(URI, {"a": b"1"})
    asked = await rig.call("POST", "/v1/plan", {"uri": URI})
    assert (asked.status, asked.json()["result"]) == (200, "hit")
    assert asked.json()["evict"][0]["last_used"] == "1970-01-01T00:00:01.500Z"
    sized = await rig.call("POST", "/v1/plan", {"bytes": 77})
    assert (sized.json()["result"], sized.json()["needed"]) == ("miss", 77)
    wrong = await rig.call("POST", "/v1/plan", {"bytes": -1})
    assert (wrong.status, wrong.json()["field"]) == (400, "bytes")
    both = await rig.call("POST", "/v1/plan", {"bytes": 1, "uri": URI})
    assert (both.status, both.json()["field"]) == (400, "uri")
    collected = await rig.call("POST", "/v1/gc", {"dry_run": True, "target": 5}, admin=True)
    assert collected.json() == {"evicted": [], "freed": 5, "dry_run": True}
    assert (await rig.call("POST", "/v1/gc", admin=True)).json()["dry_run"] is False


async def test_verifying(rig: Rig) -> None:
    key = rig.cache.store(URI, {"a": b"1"})
    found = await rig.call("POST", f"/v1/models/{key}/verify", {"rate": 7}, admin=True)
    assert (found.json()["ok"], found.json()["findings"][0]["reason"]) == (
        False,
        "told not to, at 7",
    )
    lines = await rig.call(
        "POST",
        "/v1/verify",
        {"repair": True},
        admin=True,
        headers={"Accept": "application/x-ndjson"},
    )
    events = [json.loads(line) for line in lines.body.splitlines()]
    assert [event["event"] for event in events] == ["checking", "checked", "ready"]
    assert events[-1]["ok"]
    assert (await rig.call("POST", "/v1/verify")).status == 403
    wrong = await rig.call("POST", "/v1/verify", {"repair": 1}, admin=True)
    assert (wrong.status, wrong.json()["field"]) == (400, "repair")


async def test_a_follower_that_stops_reading_is_cut_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.stream.WRITE_TIMEOUT", 0.2)
    reader, writer = await asyncio.open_unix_connection(str(rig.admin), limit=4096)
    writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"following")
    await eventually(lambda: rig.cache.followers)
    for _ in range(20):
        rig.cache.publish("noise", text="x" * 100_000)
    await eventually(lambda: not rig.cache.followers)
    writer.transport.abort()
