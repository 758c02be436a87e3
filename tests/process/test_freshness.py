"""Moving refs: how often the source is asked, what a change does, what an outage does. Counted at
the origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, eventually, running
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, pattern

MIB = 1024 * 1024
WEIGHTS, CONFIG = "/models/m/weights.bin", "/models/m/config.json"


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        one.put(WEIGHTS, pattern(3 * MIB))
        one.put(CONFIG, b"{}")
        yield one


def ask(daemon: Daemon, origin: Bucket, **more: Any) -> dict[str, Any]:
    options = {"endpoint": origin.base, "region": "us-east-1"}
    reply = daemon.ask("s3://models/m", options=options, **more).json()
    assert isinstance(reply, dict)
    return reply


def test_the_source_is_asked_once_an_interval(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path) as daemon:
        assert ask(daemon, origin)["result"] == "miss"
        calls = len(origin.seen)
        assert [ask(daemon, origin)["result"] for _ in range(5)] == ["hit"] * 5
        assert len(origin.seen) == calls


def test_the_source_is_asked_cheaply(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        ask(daemon, origin)
        gets, lists = origin.requests(), origin.lists
        assert [ask(daemon, origin)["result"] for _ in range(5)] == ["hit"] * 5
        assert (origin.requests(), origin.lists) == (gets, lists + 5)


def test_a_change_is_fetched_beside_the_old_and_only_what_changed(
    tmp_path: Path, origin: Bucket
) -> None:
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        old = ask(daemon, origin, lease={"holder": "test"})
        before = origin.bytes_sent(WEIGHTS)
        origin.put(CONFIG, b'{"new": 1}')
        new = ask(daemon, origin)
        assert (new["result"], new["fetched_bytes"]) == ("miss", 10)
        assert new["revision"] != old["revision"]
        assert origin.bytes_sent(WEIGHTS) == before
        assert (Path(new["path"]) / "config.json").read_bytes() == b'{"new": 1}'
        assert (Path(new["path"]) / "weights.bin").read_bytes() == pattern(3 * MIB)
        # Who reads the old one goes on reading it, also when room is made.
        daemon.admin("POST", "/v1/gc", {"target": 0})
        assert (Path(old["path"]) / "config.json").read_bytes() == b"{}"
        details = daemon.admin("GET", f"/v1/models/{new['key']}").json()
        assert set(details["revisions"]) >= {old["revision"]}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=500),
        Fault("status", status=503),
        Fault("status", status=503, headers={"Retry-After": "30"}),
    ],
    ids=["500", "503", "503-after"],
)
def test_an_outage_is_answered_stale_and_said(tmp_path: Path, origin: Bucket, fault: Fault) -> None:
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        ask(daemon, origin)
        origin.list_fault = fault
        assert ask(daemon, origin)["result"] == "stale"
        assert daemon.metric("cachd_lookups_total", result="stale") == 1


def test_a_new_revision_that_cannot_be_fetched_leaves_the_old_one(
    tmp_path: Path, origin: Bucket
) -> None:
    settings = {"FETCH_ATTEMPTS": "2", "FETCH_BACKOFF_BASE": "0.05"}
    with running(tmp_path, FRESHNESS_INTERVAL="0", **settings) as daemon:
        old = ask(daemon, origin)
        origin.put(CONFIG, b'{"new": 1}')
        origin.fault(CONFIG, Fault("status", status=500))
        answer = ask(daemon, origin)
        assert (answer["result"], answer["revision"]) == ("stale", old["revision"])
        origin.clear_faults()
        assert ask(daemon, origin)["result"] == "miss"


def test_offline_never_calls_out(tmp_path: Path, origin: Bucket) -> None:
    rules = json.dumps([{"match": "*", "every": "1s"}])
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        ask(daemon, origin)
    calls = len(origin.seen)
    settings = {"OFFLINE": "true", "FRESHNESS_INTERVAL": "0", "FRESHNESS_REFRESH": rules}
    with running(tmp_path, **settings) as daemon:
        answer = ask(daemon, origin)
        assert answer["result"] == "hit"
        other = daemon.ask("s3://models/other", options={"endpoint": origin.base}).json()
        assert other["code"] == "offline"
        details = daemon.admin("GET", f"/v1/models/{answer['key']}").json()
        assert details["refresh_in"] is None
    assert len(origin.seen) == calls


def test_a_new_revision_is_there_before_anyone_asks(tmp_path: Path, origin: Bucket) -> None:
    rules = json.dumps([{"match": "s3://other/*", "every": "1h"}, {"match": "s3://*", "every": 1}])
    with running(tmp_path, FRESHNESS_REFRESH=rules) as daemon:
        first = ask(daemon, origin)
        target = f"/v1/models/{first['key']}"
        details = daemon.admin("GET", target).json()
        assert details["checked_ago"] < 60
        assert details["refresh_in"] <= 1.1
        eventually(lambda: daemon.metric("cachd_refreshes_total", result="unchanged") >= 2)
        gets = origin.requests()
        origin.put(CONFIG, b'{"new": 1}')
        eventually(lambda: daemon.admin("GET", target).json()["revision"] != first["revision"])
        assert daemon.metric("cachd_refreshes_total", result="changed") >= 1
        assert origin.requests() == gets + 1
        answer = ask(daemon, origin)
        assert (answer["result"], answer["fetched_bytes"]) == ("hit", 0)
        assert (Path(answer["path"]) / "config.json").read_bytes() == b'{"new": 1}'
        # An outage is no reason to ask more often.
        origin.list_fault = Fault("status", status=503)
        eventually(lambda: daemon.metric("cachd_refreshes_total", result="failed") >= 1)
        assert ask(daemon, origin)["result"] in ("hit", "stale")


def test_what_took_a_callers_pass_is_not_refreshed(tmp_path: Path, origin: Bucket) -> None:
    rules = json.dumps([{"match": "*", "every": "0.5s"}])
    keys = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "not-a-secret"}
    with running(tmp_path, FRESHNESS_REFRESH=rules, FRESHNESS_REFRESH_UNUSED="5") as daemon:
        private = ask(daemon, origin, credentials=keys)
        options = {"endpoint": origin.base, "region": "us-east-1"}
        public = daemon.ask("s3://models/m/config.json", options=options).json()
        details = daemon.admin("GET", f"/v1/models/{private['key']}").json()
        assert details["refresh_in"] is None
        details = daemon.admin("GET", f"/v1/models/{public['key']}").json()
        assert details["refresh_in"] is not None
        # Nobody asks for it any more: it is left alone after five seconds.
        eventually(
            lambda: daemon.admin("GET", f"/v1/models/{public['key']}").json()["refresh_in"] is None
        )
        assert daemon.metric("cachd_refreshes_total", result="unchanged") >= 1
        assert "authorization" not in origin.seen[-1].headers
