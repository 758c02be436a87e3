"""A mirror goes on where its origin fails, keeps what is there, and sees nobody's credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import MIB, PART, QUICK
from tests.harness import Daemon, Reply, eventually, running
from tests.origins.bucket import Bucket
from tests.origins.fault import Fault, pattern
from tests.servers.hub import Hub

pytestmark = pytest.mark.slow

DATA = pattern(2 * PART + 1000)
MAIN, SMALL = "/models/m/weights.bin", "/models/m/config.json"
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "not-a-secret"}


@pytest.fixture
def origin() -> Iterator[Bucket]:
    with Bucket() as one:
        yield one


@pytest.fixture
def mirror() -> Iterator[Bucket]:
    with Bucket() as one:
        yield one


def fill(origin: Bucket, data: bytes = DATA) -> None:
    headers = {"Content_Type": "application/octet-stream", "Accept_Ranges": "bytes"}
    origin.put(MAIN, data, **headers)
    origin.put(SMALL, b"{}", **headers)


def settings(mirror: Bucket, **more: str) -> dict[str, str]:
    rule = {"match": "*", "endpoints": [mirror.base], **more}
    return {
        **QUICK,
        "FETCH_CONNECTIONS": "1",
        "FETCH_ORIGIN_PATIENCE": "0",
        "FRESHNESS_SERVE_STALE": "true",
        "SOURCES_MIRRORS": json.dumps([rule]),
    }


def ask(daemon: Daemon, origin: Bucket, **more: object) -> Reply:
    options = {"endpoint": origin.base, "region": "us-east-1"}
    return daemon.ask("s3://models/m", options=options, **more)


def check(answer: dict[str, str], data: bytes = DATA) -> None:
    assert "path" in answer, answer
    assert (Path(answer["path"]) / "weights.bin").read_bytes() == data


def test_a_fetch_goes_on_at_the_mirror_and_keeps_its_parts(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(origin)
    fill(mirror)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    with running(tmp_path, **settings(mirror)) as daemon:
        answer = ask(daemon, origin).json()
        check(answer)
        assert answer["mirror"] == mirror.base
        assert answer["origin"] == f"s3+{origin.base}"
        assert origin.bytes_sent(MAIN) >= PART
        assert origin.bytes_sent(MAIN) + mirror.bytes_sent(MAIN) == len(DATA)
        assert daemon.metric("cachd_mirror_bytes_total") == mirror.bytes_sent()
        assert daemon.metric("cachd_mirror_uses_total", result="same") == 1
        # The origin lists what the mirror gave: a hit.
        again = ask(daemon, origin).json()
        assert (again["result"], again["mirror"]) == ("hit", None)


def test_what_nobody_waits_for_goes_on_too(tmp_path: Path, origin: Bucket, mirror: Bucket) -> None:
    fill(origin)
    fill(mirror)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    with running(tmp_path, **settings(mirror)) as daemon:
        assert ask(daemon, origin, wait=False).status == 202
        eventually(
            lambda: (
                daemon.metric("cachd_store_snapshots") == 1
                and daemon.metric("cachd_flights_in_flight") == 0
            )
        )
        assert ask(daemon, origin).json()["result"] == "hit"
        assert origin.bytes_sent(MAIN) + mirror.bytes_sent(MAIN) == len(DATA)


def test_an_origin_that_is_gone(tmp_path: Path, origin: Bucket, mirror: Bucket) -> None:
    fill(mirror)
    origin.close()
    with running(tmp_path, **settings(mirror)) as daemon:
        answer = ask(daemon, origin).json()
        check(answer)
        assert (answer["mirror"], answer["origin"]) == (mirror.base, f"s3+{origin.base}")
        assert ask(daemon, origin).json()["result"] == "hit"


def test_another_state_at_the_mirror_is_planned_anew(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    other = pattern(PART + MIB, 9)
    fill(origin)
    fill(mirror, other)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    with running(tmp_path, **settings(mirror)) as daemon:
        answer = ask(daemon, origin).json()
        check(answer, other)
        assert mirror.bytes_sent(MAIN) == len(other)
        assert daemon.metric("cachd_mirror_uses_total", result="other") == 1


def test_what_is_cached_is_stale_rather_than_another_states(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(origin)
    fill(mirror, pattern(MIB, 9))
    with running(tmp_path, **settings(mirror)) as daemon:
        check(ask(daemon, origin).json())
        origin.list_fault = Fault("status", status=503)
        answer = ask(daemon, origin).json()
        assert answer["result"] == "stale"
        check(answer)
        assert not mirror.requests()


def test_a_change_that_the_origin_showed_is_had_from_the_mirror(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(origin, pattern(MIB, 3))
    fill(mirror)
    with running(tmp_path, **settings(mirror)) as daemon:
        check(ask(daemon, origin).json(), pattern(MIB, 3))
        fill(origin)
        origin.fault(MAIN, Fault("status", status=500), skip=1)
        answer = ask(daemon, origin).json()
        check(answer)
        assert (answer["result"], answer["mirror"]) == ("miss", mirror.base)


@pytest.mark.parametrize("identity", ["anonymous", "daemon", "caller"])
def test_a_mirror_sees_a_callers_keys_only_where_configuration_says_so(
    tmp_path: Path, origin: Bucket, mirror: Bucket, identity: str
) -> None:
    fill(origin)
    fill(mirror)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    with running(tmp_path, **settings(mirror, identity=identity)) as daemon:
        answer = ask(daemon, origin, credentials=KEYS).json()
        check(answer)
        assert answer["mirror"] == mirror.base
        assert all("authorization" in s.headers for s in origin.seen if s.method != "LIST")
        signed = ["authorization" in s.headers for s in mirror.seen if s.method != "LIST"]
        assert signed
        assert set(signed) == {identity == "caller"}


def test_https_files_and_archives_have_mirrors_too(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(origin)
    fill(mirror)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    with running(tmp_path, **settings(mirror)) as daemon:
        headers = {"127.0.0.1": {"X-Secret": "s"}}
        answer = daemon.ask(origin.url(MAIN), credentials={"headers": headers}).json()
        check(answer)
        assert answer["mirror"] == mirror.base
        assert origin.bytes_sent(MAIN) >= PART
        assert origin.bytes_sent(MAIN) + mirror.bytes_sent(MAIN) == len(DATA)
        assert all("x-secret" not in s.headers for s in mirror.seen)


def test_mirrors_that_fail_too_leave_the_origins_error(
    tmp_path: Path, origin: Bucket, mirror: Bucket
) -> None:
    fill(origin)
    fill(mirror)
    origin.fault(MAIN, Fault("status", status=500), skip=2)
    mirror.fault(MAIN, Fault("status", status=500))
    with running(tmp_path, **settings(mirror)) as daemon:
        assert ask(daemon, origin).json()["code"] == "origin_failed"
        origin.clear_faults()
        check(ask(daemon, origin).json())
        assert origin.bytes_sent(MAIN) + mirror.bytes_sent(MAIN) == len(DATA)


def test_a_hub_that_is_gone(tmp_path: Path) -> None:
    """Its mirror shows the same commit, and nobody's token."""
    files = {"config.json": b"{}", "w.safetensors": pattern(MIB)}
    with Hub() as hub, Hub() as other:
        hub.add("org/m", files)
        commit = other.add("org/m", files).branches["main"]
        rule = {"match": hub.url, "endpoints": [other.url]}
        chosen = {**QUICK, "FETCH_ORIGIN_PATIENCE": "0", "SOURCES_MIRRORS": json.dumps([rule])}
        hub.close()
        with running(tmp_path, {"HF_ENDPOINT": hub.url}, **chosen) as daemon:
            answer = daemon.ask("hf://org/m", credentials={"token": "hf_secret"}).json()
            assert answer["revision"] == commit
            assert (answer["mirror"], answer["origin"]) == (other.url, f"hf+{hub.url}")
            held = {p.name: p.read_bytes() for p in Path(answer["path"]).iterdir()}
        assert held == files
        assert other.seen
        assert all("authorization" not in seen.headers for seen in other.seen)
