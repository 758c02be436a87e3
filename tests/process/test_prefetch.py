"""Models that a node has without being asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.harness import Daemon, call, eventually
from tests.process.origin import CountingOrigin

MIB = 1 << 20


def rows(daemon: Daemon) -> dict[str, dict[str, Any]]:
    listed = daemon.admin("GET", "/v1/prefetch").json()["prefetch"]
    return {row["uri"].rpartition("/")[2]: row for row in listed}


def rules(origin: CountingOrigin, *names: str, **more: object) -> str:
    return json.dumps([{"uri": f"{origin.url}/{name}", **more} for name in names])


def test_a_node_warms_itself(daemons: Any, origin: CountingOrigin) -> None:
    origin.bodies = {"/a.bin": os.urandom(9 * MIB), "/b.bin": os.urandom(MIB)}
    daemon: Daemon = daemons(PREFETCH=rules(origin, "a.bin", "b.bin", pin=True)).start()
    eventually(lambda: {r["state"] for r in rows(daemon).values()} == {"ready"})
    assert daemon.metric("cachd_prefetch_wanted") == daemon.metric("cachd_prefetch_ready") == 2
    models = daemon.admin("GET", "/v1/models").json()["models"]
    # Pinned, and the lease that kept it until then is gone.
    assert [(m["pinned"], m["leases"]) for m in models] == [(True, 0), (True, 0)]
    answer = daemon.ask(f"{origin.url}/a.bin").json()
    assert (answer["result"], answer["revision"]) == ("hit", rows(daemon)["a.bin"]["revision"])
    assert origin.sent["/a.bin"] == 9 * MIB
    daemon.terminate()
    # The next start finds it, and fetches nothing.
    daemon.start()
    eventually(lambda: daemon.metric("cachd_prefetch_ready") == 2)
    assert origin.sent.total() == 10 * MIB
    # What a person removes is said to be gone, and without a schedule stays so.
    key = rows(daemon)["b.bin"]["key"]
    assert daemon.admin("DELETE", f"/v1/models/{key}?force=true").status == 200
    assert {name: row["state"] for name, row in rows(daemon).items()} == {
        "a.bin": "ready",
        "b.bin": "gone",
    }
    assert daemon.metric("cachd_prefetch_ready") == 1


def test_one_that_fails_is_tried_again_and_said(daemons: Any, origin: CountingOrigin) -> None:
    origin.bodies = {"/good.bin": b"good"}
    daemon: Daemon = daemons(
        PREFETCH=rules(origin, "late.bin", "good.bin"), FETCH_BACKOFF_BASE="0.02"
    ).start()
    eventually(lambda: rows(daemon)["late.bin"]["failures"] >= 2)
    eventually(lambda: rows(daemon)["good.bin"]["state"] == "ready")
    row = rows(daemon)["late.bin"]
    assert row["code"] == "not_found"
    assert row["message"]
    # But for the moments in which it is tried again.
    eventually(lambda: daemon.metric("cachd_prefetch_failed") == 1)
    assert "late.bin can't be prefetched (not_found)" in daemon.log()

    def is_shown() -> bool:
        command = [sys.executable, "-m", "cachd", "ls"]
        shown = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=daemon.variables()
        ).stdout
        assert "prefetched: 1 of 2" in shown
        return "late.bin failed (not_found)" in shown

    eventually(is_shown)
    origin.bodies["/late.bin"] = b"late"
    eventually(lambda: rows(daemon)["late.bin"]["state"] == "ready")
    assert rows(daemon)["late.bin"]["code"] is None


def test_a_new_revision_is_had_by_schedule(daemons: Any, origin: CountingOrigin) -> None:
    origin.bodies = {"/m.bin": b"one"}
    daemon: Daemon = daemons(
        PREFETCH=rules(origin, "m.bin", every="0.2s"), FRESHNESS_INTERVAL="0"
    ).start()
    eventually(lambda: rows(daemon)["m.bin"]["state"] == "ready")
    first = rows(daemon)["m.bin"]["revision"]
    origin.bodies["/m.bin"] = b"the second"
    eventually(lambda: rows(daemon)["m.bin"]["revision"] != first)
    # Removed by a person: the state says so, and the schedule has it again.
    assert daemon.admin("DELETE", f"/v1/models/{rows(daemon)['m.bin']['key']}").status == 200
    eventually(lambda: rows(daemon)["m.bin"]["state"] == "ready")


def test_who_waits_comes_before_what_nobody_waits_for(daemons: Any, origin: CountingOrigin) -> None:
    origin.bodies = {"/m.bin": b"one", "/x.bin": b"x", "/y.bin": b"y"}
    daemon: Daemon = daemons(
        PREFETCH=rules(origin, "m.bin", every="0.2s"),
        FRESHNESS_INTERVAL="0",
        FETCH_MAX_CONCURRENT_MODELS="1",
    ).start()
    eventually(lambda: rows(daemon)["m.bin"]["state"] == "ready")

    origin.sent.clear()
    origin.hold(after=0)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(daemon.ask, f"{origin.url}/x.bin")]
        assert origin.held.wait(60)
        origin.bodies["/m.bin"] = b"the second"
        eventually(lambda: daemon.metric("cachd_flights_queued") == 1)
        asked.append(pool.submit(daemon.ask, f"{origin.url}/y.bin"))
        eventually(lambda: daemon.metric("cachd_flights_queued") == 2)
        origin.release()
        assert [each.result(60).status for each in asked] == [200, 200]
    eventually(lambda: origin.sent.total() == len(b"xythe second"))
    assert list(origin.sent) == ["/x.bin", "/y.bin", "/m.bin"]


def test_pods_may_not_see_the_list(daemons: Any, origin: CountingOrigin) -> None:
    daemon: Daemon = daemons(PREFETCH=rules(origin, "a.bin")).start()
    assert call(daemon.socket, "GET", "/v1/prefetch").status == 403
