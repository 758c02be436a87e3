"""What is held for pods ends with them: the real daemon, beside an API server of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Daemon, call, eventually
from tests.kube.apiserver import ApiServer
from tests.process.origin import CountingOrigin

MIB = 1 << 20


@pytest.fixture
def node(daemons, api: ApiServer) -> Daemon:
    """A quota of 5 MiB, and models of 3."""
    daemon = daemons(
        STORE_QUOTA="5MiB",
        FRESHNESS_INTERVAL="3600",
        LEASES_PROVIDER="kubernetes",
        LEASES_POD_GRACE="0.1",
    )
    daemon.environ |= api.environ()
    return daemon.start()


def ask(daemon: Daemon, origin: CountingOrigin, name: str, **body) -> dict:
    origin.bodies.setdefault(f"/{name}.bin", os.urandom(3 * MIB))
    reply = daemon.ask(f"{origin.url}/{name}.bin", **body)
    return {"status": reply.status, **reply.json()}


def size_on_disk(root: Path) -> int:
    """Bytes of models, each inode once."""
    found = {}
    for path in root.rglob("*.bin"):
        status = path.stat()
        found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def test_a_live_pods_bytes_stay_and_a_gone_ones_go(
    node: Daemon, api: ApiServer, origin: CountingOrigin
):
    """Under pressure not a byte of its model goes; when it is gone all of them can, at once."""
    pod = api.add("llama-0")
    first = ask(node, origin, "m", view={"pod": pod}, lease={"pod": pod, "holder": "init"})
    assert (first["status"], first["view"]["until"], first["lease"]["until"]) == (200, "pod", "pod")
    assert first["lease"]["expires_in"] is None
    before = size_on_disk(node.root)
    assert before >= 3 * MIB
    refused = ask(node, origin, "n")
    assert (refused["status"], refused["code"]) == (507, "no_space")
    node.admin("POST", "/v1/gc", {"target": 0})
    assert size_on_disk(node.root) == before
    (listed,) = node.admin("GET", "/v1/views").json()["views"]
    assert (listed["pod"], listed["pod_name"]) == (pod, "default/llama-0")
    shown = subprocess.run(
        [sys.executable, "-m", "cachd", "views"],
        env=node.variables(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "default/llama-0" in shown.stdout
    view = Path(first["view"]["path"], "m.bin")
    assert view.read_bytes() == origin.bodies["/m.bin"]
    assert node.metric("cachd_leases") == 1
    api.delete("llama-0")
    eventually(lambda: not view.exists())
    eventually(lambda: node.metric("cachd_leases") == 0)
    assert ask(node, origin, "n")["status"] == 200
    assert node.admin("GET", "/v1/views").json() == {"views": []}


def test_nothing_ends_while_the_api_server_is_away(
    node: Daemon, api: ApiServer, origin: CountingOrigin
):
    pods = [api.add("one"), api.add("two")]
    for pod in pods:
        ask(node, origin, "m", view={"pod": pod})
    api.stop()

    def degraded() -> str:
        return str(call(node.socket, "GET", "/readyz").json()["degraded"])

    eventually(lambda: "can't be seen" in degraded())
    assert call(node.socket, "GET", "/readyz").json()["ready"]
    assert node.metric("cachd_pods_visible") == 0
    api.delete("one")
    node.kill()
    node.start()
    assert len(node.admin("GET", "/v1/views").json()["views"]) == 2
    api.start()
    eventually(lambda: len(node.admin("GET", "/v1/views").json()["views"]) == 1)
    (left,) = node.admin("GET", "/v1/views").json()["views"]
    assert left["pod"] == pods[1]
    eventually(lambda: "can't be seen" not in degraded())
    assert node.metric("cachd_pods_visible") == 1
    assert 0 < node.metric("cachd_pods_answer_age_seconds") < 60


def test_a_pod_that_is_not_on_this_node_gets_nothing(
    node: Daemon, api: ApiServer, origin: CountingOrigin
):
    elsewhere = api.add("elsewhere", node="node-2")
    for body in ({"view": {"pod": elsewhere}}, {"lease": {"pod": elsewhere}}):
        found = ask(node, origin, "m", **body)
        assert (found["status"], found["code"]) == (403, "forbidden")
    here = api.add("here")
    assert ask(node, origin, "m", view={"pod": here})["status"] == 200
    mixed = ask(node, origin, "m", view={"pod": here}, lease={"pod": elsewhere})
    assert (mixed["status"], mixed["code"]) == (403, "forbidden")
    key = ask(node, origin, "m")["key"]
    leased = call(node.socket, "POST", f"/v1/models/{key}/leases", {"pod": here})
    assert (leased.status, leased.json()["until"]) == (201, "pod")
    refused = call(node.socket, "POST", f"/v1/models/{key}/leases", {"pod": elsewhere})
    assert refused.status == 403


def test_a_view_ends_before_its_pod_for_who_proves_to_be_it(
    node: Daemon, api: ApiServer, origin: CountingOrigin
):
    pod = api.add("here")
    view = ask(node, origin, "m", view={"pod": pod})["view"]
    other = call(node.socket, "DELETE", f"/v1/views/{pod}")
    assert (other.status, other.json()["code"]) == (403, "forbidden")
    assert (Path(view["path"]) / "m.bin").exists()
    assert node.admin("DELETE", f"/v1/views/{pod}").json() == {"pod": pod, "removed": 1}


def test_without_a_proof_nobody_speaks_for_a_pod_where_one_is_wanted(
    daemons, api: ApiServer, origin: CountingOrigin
):
    daemon = daemons(LEASES_PROVIDER="kubernetes", LEASES_REQUIRE_POD_PROOF="true")
    daemon.environ |= api.environ()
    daemon.start()
    pod = api.add("one")
    refused = ask(daemon, origin, "m", view={"pod": pod})
    assert (refused["status"], refused["code"]) == (403, "forbidden")
    assert "CACHD_TOKEN_FILE" in refused["hint"]
    assert call(daemon.socket, "DELETE", f"/v1/views/{pod}").status == 403
    uri = f"{origin.url}/m.bin"
    assert daemon.admin("POST", "/v1/models", {"uri": uri, "view": {"pod": pod}}).status == 200
