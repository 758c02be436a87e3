"""Views of the real daemon: asked for over the pods' socket, seen by administrators."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness import Daemon, call, eventually
from tests.process.origin import CountingOrigin

MIB = 1 << 20
POD = "0f8b3c2a-1111-4222-8333-944444444444"
NEXT = "1f8b3c2a-1111-4222-8333-944444444444"


def ask(daemon: Daemon, origin: CountingOrigin, pod: str = POD, **body) -> dict:
    reply = daemon.ask(f"{origin.url}/m.bin", view={"pod": pod, **body.pop("view", {})}, **body)
    return {"status": reply.status, **reply.json()}


def test_a_pod_keeps_its_revision_and_a_new_pod_gets_the_next(
    daemon: Daemon, origin: CountingOrigin
):
    origin.bodies["/m.bin"] = old = os.urandom(MIB)
    first = ask(daemon, origin)
    assert (first["status"], first["result"]) == (200, "miss")
    view = first["view"]
    path = Path(view["path"])
    assert path == daemon.root / "views" / POD
    assert (path / "m.bin").read_bytes() == old
    assert (view["device"], view["inode"]) == (path.stat().st_dev, path.stat().st_ino)
    assert (view["mode"], view["files"], view["revision"]) == ("link", 1, first["revision"])
    origin.bodies["/m.bin"] = new = os.urandom(MIB)
    again = ask(daemon, origin)
    assert (again["revision"], again["view"]["inode"]) == (first["revision"], view["inode"])
    assert (path / "m.bin").read_bytes() == old
    other = ask(daemon, origin, NEXT)
    assert other["revision"] != first["revision"]
    assert (daemon.root / "views" / NEXT / "m.bin").read_bytes() == new
    listed = daemon.admin("GET", "/v1/views").json()["views"]
    assert {v["pod"]: v["revision"] for v in listed} == {
        POD: first["revision"],
        NEXT: other["revision"],
    }
    assert daemon.metric("cachd_views") == 2


def test_a_restarted_container_is_answered_without_its_source(
    daemon: Daemon, origin: CountingOrigin
):
    """At once, also after a restart of the daemon, and with the origin gone."""
    origin.bodies["/m.bin"] = os.urandom(MIB)
    first = ask(daemon, origin)
    daemon.kill()
    daemon.start()
    origin.close()
    again = ask(daemon, origin)
    assert (again["status"], again["result"]) == (200, "hit")
    for name in ("path", "inode", "revision", "files"):
        assert again["view"][name] == first["view"][name]


def test_other_pods_are_told_of_nothing(daemon: Daemon, origin: CountingOrigin):
    """Where nobody tells of pods, as without Kubernetes, who knows a pod's uid ends its views."""
    origin.bodies["/m.bin"] = os.urandom(MIB)
    ask(daemon, origin)
    assert call(daemon.socket, "GET", "/v1/views").json() == {"views": []}
    gone = call(daemon.socket, "DELETE", f"/v1/views/{POD}")
    assert gone.json() == {"pod": POD, "removed": 1}
    assert not (daemon.root / "views" / POD).exists()
    again = call(daemon.socket, "DELETE", f"/v1/views/{POD}")
    assert again.json() == {"pod": POD, "removed": 0}


@pytest.mark.parametrize(
    ("view", "field"),
    [
        ({"pod": "../x"}, "view.pod"),
        ({"pod": ".."}, "view.pod"),
        ({"pod": POD, "name": "../x"}, "view.name"),
        ({"pod": POD, "name": "/x"}, "view.name"),
        ({"pod": POD, "name": "a//b"}, "view.name"),
        ({"pod": POD, "mode": "move"}, "view.mode"),
        ({"name": "a"}, "view.pod"),
    ],
)
def test_a_view_that_would_lead_elsewhere_is_refused(
    daemon: Daemon, origin: CountingOrigin, view: dict, field: str
):
    origin.bodies["/m.bin"] = b"x"
    reply = daemon.ask(f"{origin.url}/m.bin", view=view)
    assert (reply.status, reply.json()["field"]) == (400, field)
    assert list((daemon.root / "views").iterdir()) == []


def test_another_model_does_not_take_a_views_place(daemon: Daemon, origin: CountingOrigin):
    origin.bodies |= {"/m.bin": b"one", "/n.bin": b"two"}
    ask(daemon, origin)
    reply = daemon.ask(f"{origin.url}/n.bin", view={"pod": POD})
    assert (reply.status, reply.json()["code"]) == (409, "in_use")
    reply = daemon.ask(f"{origin.url}/n.bin", view={"pod": NEXT, "name": "deep/er"})
    assert Path(reply.json()["view"]["path"], "n.bin").read_bytes() == b"two"


def test_pods_are_not_told_of_other_pods_when_there_is_no_room(daemons, origin: CountingOrigin):
    daemon = daemons(STORE_QUOTA="3MiB", FRESHNESS_INTERVAL="3600").start()
    origin.bodies |= {"/m.bin": os.urandom(2 * MIB), "/n.bin": os.urandom(2 * MIB)}
    ask(daemon, origin)
    refused = daemon.ask(f"{origin.url}/n.bin").json()
    assert [h["what"] for h in refused["held_by"]] == ["view"]
    assert POD not in str(refused)
    admin = daemon.admin("POST", "/v1/models", {"uri": f"{origin.url}/n.bin"}).json()
    assert admin["held_by"][0]["views"] == [f"{POD}/"]
    plan = daemon.admin("POST", "/v1/plan", {"bytes": 2 * MIB}).json()
    assert plan["held_by"][0]["views"] == [f"{POD}/"]
    assert POD not in str(call(daemon.socket, "POST", "/v1/plan", {"bytes": 2 * MIB}).json())


def test_a_view_without_anybody_who_tells_of_pods_has_an_end(daemons, origin: CountingOrigin):
    daemon = daemons(LEASES_TTL="1", LEASES_MAX_TTL="2").start()
    origin.bodies["/m.bin"] = b"one"
    view = ask(daemon, origin, lease={"pod": POD, "holder": "init"})
    assert view["view"]["until"] == view["lease"]["until"] == "ttl"
    assert view["view"]["expires_in"] <= 2
    eventually(lambda: not (daemon.root / "views" / POD).exists())
