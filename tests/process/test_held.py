"""What is given goes on being given: where room is scarce, and where a mirror says otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon, eventually, running
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, pattern
from tests.process.test_updates import (
    CONFIG,
    LAST,
    MIB,
    NEW,
    OLD,
    WEIGHTS,
    ask,
    config,
    promote,
    rules,
    shown,
    state,
    updated,
)


def fill(one: Bucket, data: bytes = OLD) -> None:
    one.put(WEIGHTS, pattern(3 * MIB))
    one.put(CONFIG, data)


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        fill(one)
        yield one


@pytest.fixture
def mirror() -> Iterator[Bucket]:
    with Bucket() as one:
        yield one


def mirrored(mirror: Bucket, *, stale: bool = False) -> dict[str, str]:
    rule = {"match": "*", "endpoints": [mirror.base]}
    return {
        **rules(every="1h"),
        "FETCH_ORIGIN_PATIENCE": "0",
        "FETCH_BACKOFF_BASE": "0.02",
        "FETCH_BACKOFF_MAX": "0.1",
        "FRESHNESS_SERVE_STALE": str(stale).lower(),
        "SOURCES_MIRRORS": json.dumps([rule]),
    }


def test_what_waits_pushes_nothing_out_that_is_given(tmp_path: Path, origin: Bucket) -> None:
    """There is no room for both. Approved, it takes the other one's."""
    with running(tmp_path, **rules(), STORE_QUOTA="5MiB") as daemon:
        first = ask(daemon, origin)
        key = first["key"]
        origin.put(WEIGHTS, pattern(3 * MIB)[::-1])
        looks = daemon.metric("cachd_refreshes_total", result="held") or 0
        eventually(lambda: daemon.metric("cachd_refreshes_total", result="held") >= looks + 2)
        for _ in range(2):
            answer = ask(daemon, origin)
            assert (answer["result"], answer["revision"]) == ("hit", first["revision"])
        assert state(daemon, key) == "seen"
        assert origin.bytes_sent(WEIGHTS) == 3 * MIB
        assert promote(daemon, key)["status"] == 202
        eventually(lambda: shown(daemon, key)["revision"] not in (first["revision"], None))
        assert ask(daemon, origin)["result"] == "hit"


@pytest.mark.parametrize("stale", [False, True])
def test_a_newer_one_at_a_mirror_is_held_as_well(
    tmp_path: Path, origin: Bucket, mirror: Bucket, stale: bool
) -> None:
    fill(mirror, NEW)
    with running(tmp_path, **mirrored(mirror, stale=stale)) as daemon:
        first = ask(daemon, origin)
        origin.list_fault = Fault("status", status=503)
        answer = ask(daemon, origin)
        assert (answer["revision"], config(answer)) == (first["revision"], OLD)
        # Whether the origin has it, nobody knows.
        assert state(daemon, first["key"]) is None


def test_an_older_one_at_a_mirror_takes_no_update_back(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(mirror, OLD)
    with running(tmp_path, **mirrored(mirror)) as daemon:
        first = updated_by_asking(daemon, origin)
        origin.list_fault = Fault("status", status=503)
        assert ask(daemon, origin)["revision"] == first["revision"]
        assert state(daemon, first["key"]) == "ready"


def updated_by_asking(daemon: Daemon, origin: Bucket) -> dict[str, str]:
    first = ask(daemon, origin)
    origin.put(CONFIG, NEW)
    ask(daemon, origin)
    eventually(lambda: state(daemon, first["key"]) == "ready")
    return first


def test_an_update_that_is_on_its_way_is_given_to_nobody_from_a_mirror(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    """The origin fails in the middle of it; the mirror has the rest."""
    new = pattern(3 * MIB)[::-1]
    with running(tmp_path, **mirrored(mirror)) as daemon:
        first = ask(daemon, origin)
        fill(mirror, OLD)
        for one in (origin, mirror):
            one.put(WEIGHTS, new)
        origin.fault(WEIGHTS, Fault("status", status=500))
        ask(daemon, origin)
        origin.list_fault = Fault("status", status=503)
        answer = ask(daemon, origin)
        assert answer["revision"] == first["revision"]
        eventually(lambda: state(daemon, first["key"]) == "ready")
        assert mirror.bytes_sent(WEIGHTS) == 3 * MIB
        assert ask(daemon, origin)["revision"] == first["revision"]


def test_what_was_refused_can_be_taken_up_though_it_made_room(
    tmp_path: Path, origin: Bucket
) -> None:
    with running(tmp_path, **rules(), STORE_MIN_IDLE="0") as daemon:
        first = updated(daemon, origin)
        key = first["key"]
        second = promote(daemon, key)["revision"]
        assert promote(daemon, key, first["revision"])["state"] == "promoted"

        def is_gone() -> bool:
            daemon.admin("POST", "/v1/gc", {})
            return shown(daemon, key)["revisions"] == [first["revision"]]

        eventually(is_gone)
        assert promote(daemon, key, second)["status"] == 202
        eventually(lambda: shown(daemon, key)["revision"] == second)
        assert config(ask(daemon, origin)) == NEW


def test_an_approval_that_comes_too_late_says_so(tmp_path: Path, origin: Bucket) -> None:
    with running(tmp_path, **rules(every="1h", ahead=False)) as daemon:
        first = ask(daemon, origin)
        origin.put(CONFIG, NEW)
        waiting = ask(daemon, origin)["update"]["revision"]
        origin.put(CONFIG, LAST)
        late = promote(daemon, first["key"], waiting)
        assert (late["status"], late["code"]) == (404, "model_unknown")
        assert "cachd show" in late["hint"]
        update = shown(daemon, first["key"])["update"]
        assert update["revision"] != waiting
        assert not update["approved"]
