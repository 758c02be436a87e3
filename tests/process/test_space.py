"""Quota, eviction, pins and leases of the real daemon; what can't fit is refused before a byte."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.harness import Daemon, call, eventually
from tests.kube.tokenserver import TokenServer
from tests.process.origin import CountingOrigin

MIB = 1 << 20


@pytest.fixture
def small(daemons) -> Daemon:
    """A quota of 40 MiB."""
    return daemons(STORE_QUOTA="40MiB", STORE_MIN_IDLE="3600", FRESHNESS_INTERVAL="3600").start()


def pull(daemon: Daemon, origin: CountingOrigin, name: str, size: int = 12 * MIB, **body) -> dict:
    origin.bodies.setdefault(f"/{name}.bin", os.urandom(size))
    reply = daemon.ask(f"{origin.url}/{name}.bin", **body)
    return {"status": reply.status, **reply.json()}


def names(daemon: Daemon) -> set[str]:
    models = daemon.admin("GET", "/v1/models").json()["models"]
    return {m["uri"].rpartition("/")[2].removesuffix(".bin") for m in models}


def test_the_least_recently_used_goes_and_it_is_said(small: Daemon, origin: CountingOrigin):
    for name in "abc":
        assert pull(small, origin, name)["status"] == 200
    assert pull(small, origin, "a")["result"] == "hit"
    plan = call(small.socket, "POST", "/v1/plan", {"bytes": 12 * MIB}).json()
    assert plan["fits"]
    assert len(plan["evict"]) == 1
    admin_plan = small.admin("POST", "/v1/plan", {"bytes": 12 * MIB}).json()
    assert admin_plan["evict"][0]["uri"].endswith("/b.bin")
    assert names(small) == {"a", "b", "c"}
    assert pull(small, origin, "d")["status"] == 200
    assert names(small) == {"a", "c", "d"}
    assert small.metric("cachd_evictions_total", reason="quota") == 1
    assert "evicted" in small.log()
    usage = small.admin("GET", "/v1/models").json()["store"]
    assert usage["allocated"] + usage["reserved"] <= usage["quota"] == 40 * MIB


def test_pinned_and_leased_models_stay_and_the_refusal_names_them(
    small: Daemon, origin: CountingOrigin
):
    first = pull(small, origin, "a", lease={"holder": "pod-a"})
    second = pull(small, origin, "b")
    assert small.admin("PUT", f"/v1/models/{second['key']}/pin").status == 200
    third = pull(small, origin, "c", lease={"holder": "pod-c"})
    refused = pull(small, origin, "d")
    assert (refused["status"], refused["code"]) == (507, "no_space")
    assert refused["needed"] >= 12 * MIB
    assert {h["what"] for h in refused["held_by"]} >= {"lease", "pin"}
    assert refused["hint"]
    assert origin.sent["/d.bin"] == 0
    assert names(small) == {"a", "b", "c"}
    assert not list(small.root.glob("ingest/*"))
    lease = f"/v1/models/{first['key']}/leases/{first['lease']['id']}"
    assert call(small.socket, "DELETE", lease).status in (200, 204)
    assert pull(small, origin, "d")["status"] == 200
    assert names(small) == {"b", "c", "d"}
    assert small.admin("PUT", f"/v1/models/{third['key']}/pin").status == 200
    in_use = small.admin("DELETE", f"/v1/models/{third['key']}")
    assert (in_use.status, in_use.json()["code"]) == (409, "in_use")
    assert in_use.json()["held_by"] == ["pin", "lease"]
    assert f"cachd unpin {third['key']}" in in_use.json()["hint"]
    assert "cachd rm --force" in in_use.json()["hint"]
    assert small.admin("DELETE", f"/v1/models/{third['key']}?force=true").status == 200


def test_what_can_never_fit_is_refused_at_once(small: Daemon, origin: CountingOrigin):
    assert pull(small, origin, "a")["status"] == 200
    refused = pull(small, origin, "huge", size=50 * MIB)
    assert (refused["status"], refused["code"]) == (507, "too_large")
    assert origin.sent["/huge.bin"] == 0
    assert names(small) == {"a"}
    plan = small.admin("POST", "/v1/plan", {"uri": f"{origin.url}/huge.bin"}).json()
    assert (plan["result"], plan["fits"]) == ("miss", False)
    assert plan["shortfall"] > 0


def test_collecting_on_demand(small: Daemon, origin: CountingOrigin):
    for name in "ab":
        pull(small, origin, name)
    dry = small.admin("POST", "/v1/gc", {"dry_run": True, "target": 0}).json()
    assert len(dry["evicted"]) == 2
    assert names(small) == {"a", "b"}
    done = small.admin("POST", "/v1/gc", {"target": 13 * MIB}).json()
    assert [v["uri"].rpartition("/")[2] for v in done["evicted"]] == ["a.bin"]
    assert names(small) == {"b"}
    trash = small.root / "trash"
    eventually(lambda: not any(trash.iterdir()))


def test_the_background_stops_at_the_low_watermark(daemons, origin: CountingOrigin):
    daemon = daemons(
        STORE_QUOTA="60MiB",
        STORE_HIGH_WATERMARK="60",
        STORE_LOW_WATERMARK="45",
        STORE_MIN_IDLE="0",
        STORE_WATCH_INTERVAL="0.1",
        FRESHNESS_INTERVAL="3600",
    ).start()
    for name in "abc":
        assert pull(daemon, origin, name, lease={"holder": "h", "ttl": 600})["status"] == 200
    assert pull(daemon, origin, "d")["status"] == 200
    eventually(lambda: daemon.metric("cachd_evictions_total", reason="watermark") == 1)
    assert names(daemon) == {"a", "b", "c"}


def test_an_old_revision_stays_while_it_is_leased(daemons, origin: CountingOrigin):
    daemon = daemons(FRESHNESS_INTERVAL="0", STORE_MIN_IDLE="0", STORE_WATCH_INTERVAL="0.1").start()
    old, new = os.urandom(MIB), os.urandom(MIB)
    origin.bodies["/m.bin"] = old
    first = pull(daemon, origin, "m", lease={"holder": "old pod"})
    origin.bodies["/m.bin"] = new
    second = pull(daemon, origin, "m")
    assert (first["key"], second["result"]) == (second["key"], "miss")
    assert Path(second["path"], "m.bin").read_bytes() == new
    third = pull(daemon, origin, "m")
    assert third["result"] == "hit"
    assert Path(first["path"], "m.bin").read_bytes() == old
    lease = f"/v1/models/{first['key']}/leases/{first['lease']['id']}"
    call(daemon.socket, "DELETE", lease)
    eventually(lambda: not Path(first["path"]).exists())
    assert Path(second["path"], "m.bin").read_bytes() == new


def test_a_cached_model_is_served_stale_while_its_source_is_down(daemons, origin: CountingOrigin):
    daemon = daemons(FRESHNESS_INTERVAL="0").start()
    first = pull(daemon, origin, "m")
    origin.close()
    second = pull(daemon, origin, "m")
    assert (second["status"], second["result"]) == (200, "stale")
    assert second["path"] == first["path"]
    assert daemon.metric("cachd_lookups_total", result="stale") == 1
    unknown = pull(daemon, origin, "other")
    assert (unknown["status"], unknown["code"]) == (502, "origin_unreachable")


def test_a_namespace_pays_for_what_it_fetched(
    tmp_path: Path, origin: CountingOrigin, tokens: TokenServer
):
    quotas = json.dumps({"team-a": "30MiB", "*": "20MiB"})
    daemon = Daemon(
        tmp_path / "d",
        settings={"STORE_NAMESPACE_QUOTAS": quotas, "FRESHNESS_INTERVAL": "3600"},
        environ=tokens.environ(tmp_path),
    )
    a, b = (tokens.admit(f"team-{t}", "s") for t in "ab")

    def ask(name: str, token: str | None, **body) -> dict:
        origin.bodies.setdefault(f"/{name}.bin", os.urandom(12 * MIB))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = {"uri": f"{origin.url}/{name}.bin", **body}
        reply = call(daemon.socket, "POST", "/v1/models", body, headers)
        return {"status": reply.status, **reply.json()}

    try:
        daemon.start()
        assert ask("a1", a)["result"] == "miss"
        assert ask("a2", a)["result"] == "miss"
        assert ask("b1", b)["result"] == "miss"
        # A hit is free, whoever has it.
        assert ask("b1", a)["result"] == "hit"
        assert ask("a1", a)["result"] == "hit"
        assert ask("a3", a)["result"] == "miss"
        assert names(daemon) == {"a1", "a3", "b1"}
        assert daemon.metric("cachd_evictions_total", reason="namespace") == 1
        assert 24 * MIB <= daemon.metric("cachd_namespace_bytes", namespace="team-a") < 30 * MIB
        assert daemon.metric("cachd_namespace_quota_bytes", namespace="team-b") == 20 * MIB

        daemon.terminate()
        daemon.start()
        for name in ("a1", "a3"):
            ask(name, a, lease={"holder": name})
        refused = ask("a4", a)
        assert (refused["status"], refused["code"]) == (507, "no_space")
        assert refused["namespace"] == "team-a"
        assert refused["namespace_quota"] == 30 * MIB
        assert len(refused["held_by"]) == 2
        assert "namespace 'team-a'" in refused["detail"]
        assert names(daemon) == {"a1", "a3", "b1"}
        # Who sends no token is a namespace too, and administrators are none.
        assert ask("n1", None)["status"] == 200
        assert ask("n2", None)["status"] == 200
        assert names(daemon) == {"a1", "a3", "b1", "n2"}
        origin.bodies["/big.bin"] = os.urandom(31 * MIB)
        assert ask("big", b)["code"] == "too_large"
        uri = f"{origin.url}/big.bin"
        assert daemon.admin("POST", "/v1/models", {"uri": uri}).status == 200
        of_admin = {
            m["uri"].rpartition("/")[2]: m["namespace"]
            for m in daemon.admin("GET", "/v1/models").json()["models"]
        }
        assert of_admin == {
            "a1.bin": "team-a", "a3.bin": "team-a", "b1.bin": "team-b",
            "n2.bin": "", "big.bin": None,
        }  # fmt: skip
        listed = call(daemon.socket, "GET", "/v1/models", None, {"Authorization": f"Bearer {b}"})
        assert {m["namespace"] for m in listed.json()["models"]} == {"team-b", None}
        assert set(listed.json()["store"]["namespaces"]) == {"team-b"}
    finally:
        daemon.close()
