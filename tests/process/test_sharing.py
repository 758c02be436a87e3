"""Many callers, one download; callers that go away harm nobody. Counted at the origin."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import aiohttp
import pytest

from tests.filesystems.conftest import journalled
from tests.harness import Daemon, UnixConnection, eventually
from tests.process.origin import CountingOrigin

MIB = 1024 * 1024


async def ask_many(daemon: Daemon, uris: list[str]) -> list[dict]:
    connector = aiohttp.UnixConnector(str(daemon.socket), limit=0)
    timeout = aiohttp.ClientTimeout(total=150)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(uri: str) -> dict:
            async with session.post("http://cachd/v1/models", json={"uri": uri}) as response:
                answer = await response.json()
                assert response.status == 200, answer
                return answer

        return await asyncio.gather(*map(one, uris))


async def test_a_hundred_callers_of_one_model_are_one_download(
    daemon: Daemon, origin: CountingOrigin
):
    body = os.urandom(20 * MIB)
    origin.bodies["/m/model.bin"] = body
    origin.hold(after=MIB)
    asking = asyncio.create_task(ask_many(daemon, [f"{origin.url}/m/model.bin"] * 100))
    assert await asyncio.to_thread(origin.held.wait, 60)
    origin.release()
    answers = await asking
    assert origin.sent["/m/model.bin"] == len(body)
    assert {a["revision"] for a in answers} == {answers[0]["revision"]}
    assert [a["result"] for a in answers].count("miss") >= 1
    with open(f"{answers[0]['path']}/model.bin", "rb") as file:
        assert file.read() == body


async def test_a_thousand_callers_of_ten_models_are_ten_downloads(daemons, origin: CountingOrigin):
    daemon = daemons().start()
    for n in range(10):
        origin.bodies[f"/{n}/model.bin"] = os.urandom(2 * MIB + n)
    uris = [f"{origin.url}/{n}/model.bin" for n in range(10)] * 100
    answers = await ask_many(daemon, uris)
    for n in range(10):
        assert origin.sent[f"/{n}/model.bin"] == 2 * MIB + n
    assert len({a["key"] for a in answers}) == 10
    assert sum(a["result"] == "miss" and not a["shared_flight"] for a in answers) == 10


def _ask_and_hang_up(daemon: Daemon, uri: str) -> None:
    connection = UnixConnection(daemon.socket)
    connection.request("POST", "/v1/models", json.dumps({"uri": uri}))
    connection.close()


def test_callers_that_hang_up_leave_the_fetch_to_the_others(daemon: Daemon, origin: CountingOrigin):
    body = origin.bodies["/m.bin"] = os.urandom(20 * MIB)
    origin.hold(after=MIB)
    uri = f"{origin.url}/m.bin"
    first = UnixConnection(daemon.socket)
    first.request("POST", "/v1/models", json.dumps({"uri": uri}))
    assert origin.held.wait(60)
    replies: list = []
    patient = threading.Thread(target=lambda: replies.append(daemon.ask(uri)))
    patient.start()
    for _ in range(10):
        _ask_and_hang_up(daemon, uri)
    first.close()
    origin.release()
    patient.join(60)
    assert replies[0].status == 200, replies[0].body
    assert origin.sent["/m.bin"] == len(body)


def test_a_fetch_that_nobody_waits_for_lingers_and_ends(daemon: Daemon, origin: CountingOrigin):
    origin.bodies["/m.bin"] = os.urandom(12 * MIB)
    origin.hold(after=MIB)
    _ask_and_hang_up_when_held(daemon, origin, "/m.bin")
    origin.release()
    eventually(lambda: _state(daemon) == ["ready"])
    assert daemon.ask(f"{origin.url}/m.bin").json()["result"] == "hit"
    assert origin.sent["/m.bin"] == 12 * MIB


def test_after_the_linger_the_fetch_stops_and_its_journal_is_kept(daemons, origin: CountingOrigin):
    daemon = daemons(FETCH_LINGER="0.2", FETCH_CONNECTIONS="1").start()
    size = 50 * MIB
    body = origin.bodies["/m.bin"] = os.urandom(size)
    origin.hold(after=35 * MIB)
    _ask_and_hang_up_when_held(daemon, origin, "/m.bin", parts=2)
    eventually(lambda: _state(daemon) == [])
    origin.release()
    reply = daemon.ask(f"{origin.url}/m.bin").json()
    assert reply["result"] == "miss"
    # Two parts of 16 MiB were journalled; the third was under way.
    assert reply["fetched_bytes"] <= size - 32 * MIB
    with open(f"{reply['path']}/m.bin", "rb") as file:
        assert file.read() == body


def _ask_and_hang_up_when_held(
    daemon: Daemon, origin: CountingOrigin, path: str, parts: int = 0
) -> None:
    """``parts``: how many are in the journal by then."""
    connection = UnixConnection(daemon.socket)
    connection.request("POST", "/v1/models", json.dumps({"uri": origin.url + path}))
    assert origin.held.wait(60)
    eventually(lambda: journalled(daemon) >= parts)
    connection.close()
    eventually(lambda: "the fetch lingers" in daemon.log())


def _state(daemon: Daemon) -> list[str]:
    return [m["state"] for m in daemon.admin("GET", "/v1/models").json()["models"]]


def test_an_ask_that_does_not_wait_is_fetched_to_the_end(daemons, origin: CountingOrigin):
    daemon = daemons(FETCH_LINGER="0").start()
    origin.bodies["/m.bin"] = os.urandom(2 * MIB)
    origin.hold(after=0)
    reply = daemon.ask(f"{origin.url}/m.bin", wait=False)
    assert (reply.status, reply.json()["state"]) == (202, "fetching")
    assert _state(daemon) == ["fetching"]
    origin.release()
    eventually(lambda: _state(daemon) == ["ready"])


def test_progress_is_streamed(daemon: Daemon, origin: CountingOrigin):
    origin.bodies["/m.bin"] = os.urandom(20 * MIB)
    origin.hold(after=MIB)
    connection = UnixConnection(daemon.socket)
    connection.request(
        "POST",
        "/v1/models",
        json.dumps({"uri": f"{origin.url}/m.bin"}),
        {"Accept": "application/x-ndjson"},
    )
    response = connection.getresponse()
    events = []
    for line in response:
        events.append(json.loads(line))
        if origin.held.is_set():
            origin.release()
    connection.close()
    names = [e["event"] for e in events]
    assert names[0] == "resolving"
    assert "progress" in names
    assert names[-1] == "ready"
    assert events[-1]["bytes"] == 20 * MIB
    totals = {e["total"] for e in events if e["event"] == "progress" and e["files_total"]}
    assert totals <= {20 * MIB, None}


@pytest.mark.parametrize("change", ["before", "during"])
def test_a_model_that_changes_is_never_mixed(change: str, daemons, origin: CountingOrigin):
    daemon = daemons(FRESHNESS_INTERVAL="0", FETCH_CONNECTIONS="1").start()
    old, new = os.urandom(40 * MIB), os.urandom(40 * MIB)
    origin.bodies["/m.bin"] = old
    uri = f"{origin.url}/m.bin"
    if change == "before":
        first = daemon.ask(uri).json()
        origin.bodies["/m.bin"] = new
        second = daemon.ask(uri).json()
        assert (first["result"], second["result"]) == ("miss", "miss")
        assert first["revision"] != second["revision"]
    else:
        origin.hold(after=20 * MIB)
        replies: list = []
        asking = threading.Thread(target=lambda: replies.append(daemon.ask(uri)))
        asking.start()
        assert origin.held.wait(60)
        origin.bodies["/m.bin"] = new
        origin.release()
        asking.join(60)
        second = replies[0].json()
        assert replies[0].status == 200, second
    with open(f"{second['path']}/m.bin", "rb") as file:
        assert file.read() == new
