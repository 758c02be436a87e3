"""Models on the node, told as events: real daemons, an API server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cachd.errors import KubernetesFailed
from cachd.kube.events import BURST, REPEAT, UPDATE, Notice, Reporter, event_body, notice_of
from tests.harness import call, eventually, running
from tests.kube.cluster import NODE, Cluster
from tests.kube.tokenserver import make_token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.process.origin import CountingOrigin

MIB = 1 << 20
POD = ("team-a", "default", "llama-7", "5f6e-uid")


def told(cluster: Cluster, reason: str) -> dict[str, Any]:
    eventually(lambda: cluster.of(reason))
    return cluster.of(reason)[0]


def test_the_pod_that_asked_has_events(
    cluster: Cluster, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.bodies = {"/m.bin": os.urandom(2 * MIB)}
    token = make_token("system:serviceaccount:team-a:default")
    cluster.tokens[token] = POD
    secret = {"credentials": {"headers": {"127.0.0.1": {"X-Key": "a-callers-secret"}}}}
    with running(tmp_path, **cluster.settings(tmp_path, KUBERNETES_EVENTS="true")) as daemon:

        def ask(path: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            body = {"uri": origin.url + path, **secret}
            return call(daemon.socket, "POST", "/v1/models", body, headers).status

        assert ask("/m.bin") == 200
        ready = told(cluster, "ModelReady")
        assert ready["involvedObject"] == {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": "team-a",
            "name": "llama-7",
            "uid": "5f6e-uid",
        }
        assert ready["metadata"]["namespace"] == "team-a"
        assert ready["metadata"]["generateName"] == "cachd-"
        assert ready["source"] == {"component": "cachd", "host": NODE}
        assert ready["type"] == "Normal"
        assert f"{origin.url}/m.bin is here: {2 * MIB} bytes" in ready["message"]
        assert ask("/gone.bin") == 404
        failed = told(cluster, "ModelFailed")
        assert failed["type"] == "Warning"
        assert "/gone.bin can't be had: not_found; " in failed["message"]
        assert "a-callers-secret" not in json.dumps(cluster.events)
        assert token not in json.dumps(cluster.events)
        eventually(lambda: daemon.metric("cachd_kubernetes_events_total", result="created") == 2)


def test_the_node_has_them_where_no_pod_is_known(
    cluster: Cluster, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.bodies = {
        f"/{name}.bin": os.urandom(4 * MIB) for name in ("one", "two", "three", "four")
    }
    rules = json.dumps([{"uri": f"{origin.url}/one.bin"}])
    more = {"KUBERNETES_EVENTS": "true", "PREFETCH": rules, "STORE_QUOTA": "9MiB"}
    with running(tmp_path, **cluster.settings(tmp_path, **more)) as daemon:
        ready = told(cluster, "ModelReady")
        assert ready["involvedObject"]["kind"] == "Node"
        assert ready["involvedObject"]["name"] == ready["involvedObject"]["uid"] == NODE
        assert ready["metadata"]["namespace"] == "default"
        for name in ("two", "three"):
            assert daemon.ask(f"{origin.url}/{name}.bin").status == 200
        evicted = told(cluster, "ModelEvicted")
        assert f"{origin.url}/one.bin was evicted (quota)" in evicted["message"]
        # A hit of somebody unknown is not worth an event.
        eventually(lambda: len(cluster.of("ModelReady")) == 3)
        assert daemon.ask(f"{origin.url}/three.bin").json()["result"] == "hit"
        assert daemon.ask(f"{origin.url}/four.bin").status == 200
        eventually(lambda: len(cluster.of("ModelReady")) > 3)
        assert "four.bin" in cluster.of("ModelReady")[3]["message"]


def test_an_api_server_that_is_away_holds_nobody_up(
    cluster: Cluster, origin: CountingOrigin, tmp_path: Path
) -> None:
    origin.bodies = {"/one.bin": b"1", "/two.bin": b"2"}
    cluster.is_down = True
    with running(tmp_path, **cluster.settings(tmp_path, KUBERNETES_EVENTS="true")) as daemon:
        assert daemon.ask(f"{origin.url}/one.bin").status == 200
        eventually(lambda: daemon.metric("cachd_kubernetes_events_total", result="failed") == 1)
        cluster.is_down = False
        assert daemon.ask(f"{origin.url}/two.bin").status == 200
        assert "two.bin" in told(cluster, "ModelReady")["message"]
        assert daemon.log().count("events can't be told") == 1


# --- pure, and with a clock in the hand -----------------------------------------------------------


class Counted:
    def __init__(self) -> None:
        self.results: list[str] = []

    def kubernetes_event(self, result: str) -> None:
        self.results.append(result)


class Client:
    """What ``Reporter`` calls; no API server has such a clock."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.is_down = False

    async def call(
        self, method: str, path: str, *, body: dict[str, Any], content_type: str = ""
    ) -> dict[str, Any]:
        del content_type
        if self.is_down:
            raise KubernetesFailed("away")
        self.sent.append((method, path, body))
        return {"metadata": {"name": f"cachd-{len(self.sent)}"}}


def reporter(now: list[float]) -> tuple[Reporter, Client, Counted]:
    client, counted = Client(), Counted()
    made = Reporter(client, NODE, counted, clock=lambda: now[0])  # type: ignore[arg-type]
    return made, client, counted


def notice(about: str = "a") -> Notice:
    return Notice(reason="ModelFailed", message="m", about=about, is_warning=True)


def test_updates_are_told_of_the_node() -> None:
    facts = {"key": "k", "uri": "s3://b/m", "revision": "2b", "previous": "1a", "by": "schedule"}
    ready = notice_of({"event": "update_ready", **facts})
    moved = notice_of({"event": "promoted", **facts})
    assert ready is not None
    assert moved is not None
    assert (ready.reason, ready.pod_name) == ("ModelUpdateReady", "")
    assert ready.message == "s3://b/m: revision 2b is here, and not given yet"
    assert moved.reason == "ModelPromoted"
    assert moved.message == "s3://b/m: revision 2b is given from now on (schedule), and 1a no more"
    assert notice_of({"event": "update_seen", **facts}) is None


def test_the_same_again_counts_up_and_seldom() -> None:
    now = [0.0]
    made, client, counted = reporter(now)

    async def go() -> None:
        for _ in range(5):
            await made.tell(notice())
        now[0] += UPDATE
        await made.tell(notice())
        now[0] += REPEAT
        await made.tell(notice())

    asyncio.run(go())
    assert [(method, body.get("count")) for method, _, body in client.sent] == [
        ("POST", 1),
        ("PATCH", 6),
        ("POST", 1),
    ]
    assert client.sent[1][1] == "/api/v1/namespaces/default/events/cachd-1"
    assert counted.results == ["created", "updated", "created"]


def test_there_are_never_too_many() -> None:
    now = [0.0]
    made, client, counted = reporter(now)

    async def go() -> None:
        for number in range(3 * BURST):
            await made.tell(notice(str(number)))
        now[0] += 60
        await made.tell(notice("later"))

    asyncio.run(go())
    assert len(client.sent) == BURST + 1
    assert counted.results.count("dropped") == 2 * BURST


def test_what_is_told_of_what_happens() -> None:
    item = {"event": "model_failed", "uri": "s3://b/m", "code": "no_space", "hint": "make room"}
    found = notice_of(item)
    assert found is not None
    assert found.message == "s3://b/m can't be had: no_space; make room"
    assert notice_of({"event": "evicted", "reason": "superseded", "uri": "s3://b/m"}) is None
    assert notice_of({"event": "fetch_started", "key": "k"}) is None
    body = event_body(notice(), NODE, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert body["firstTimestamp"] == "2026-01-02T03:04:05Z"
