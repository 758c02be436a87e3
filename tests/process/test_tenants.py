"""Credentials serve their caller only; hits are given to those whose own pass is good; the same URI
at two endpoints is two models. Against servers that check signatures."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.process.origin import CountingOrigin
from tests.process.other_uid import as_other_uid, call_as_other_uid
from tests.process.secrecy import assert_no_secret, texts_below
from tests.servers.require import needs_root
from tests.servers.s3 import S3Server


def keys(server: S3Server, secret: str | None = None) -> dict[str, str]:
    return {
        "access_key_id": server.access_key,
        "secret_access_key": secret or server.secret_key,
    }


def at(server: S3Server) -> dict[str, str]:
    return {"endpoint": server.endpoint}


def test_one_uri_at_two_endpoints_is_two_models(
    daemon: Daemon, seaweed: S3Server, juicefs: S3Server
):
    bucket = seaweed.make_bucket({"llama/w.bin": b"of seaweed"})
    juicefs.make_bucket({"llama/w.bin": b"of juicefs"}, bucket)
    answers = [
        daemon.ask(f"s3://{bucket}/llama", credentials=keys(s), options=at(s)).json()
        for s in (seaweed, juicefs, seaweed)
    ]
    assert answers[0]["key"] == answers[2]["key"] != answers[1]["key"]
    read = [Path(a["path"], "w.bin").read_bytes() for a in answers]
    assert read == [b"of seaweed", b"of juicefs", b"of seaweed"]
    assert [a["result"] for a in answers] == ["miss", "miss", "hit"]


def test_bad_credentials_beside_good_ones(daemon: Daemon, s3_server: S3Server):
    bucket = s3_server.make_bucket({"m/w.bin": os.urandom(300_000)})
    uri = f"s3://{bucket}/m"
    bad = keys(s3_server, "wrong-secret-3141")
    replies: dict[str, list] = {"good": [], "bad": []}

    def ask(kind: str, credentials: dict) -> None:
        reply = daemon.ask(uri, credentials=credentials, options=at(s3_server))
        replies[kind].append(reply)

    threads = [
        threading.Thread(target=ask, args=(kind, credentials))
        for _ in range(5)
        for kind, credentials in (("bad", bad), ("good", keys(s3_server)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [r.status for r in replies["good"]] == [200] * 5
    assert [r.status for r in replies["bad"]] == [401] * 5
    assert {r.json()["code"] for r in replies["bad"]} == {"credentials_invalid"}
    # What is cached by now is no more theirs than it was before.
    assert daemon.ask(uri, credentials=bad, options=at(s3_server)).status == 401
    assert daemon.ask(uri, credentials={"anonymous": True}, options=at(s3_server)).status in (
        401,
        403,
    )
    hit = daemon.ask(uri, credentials=keys(s3_server), options=at(s3_server))
    assert hit.json()["result"] == "hit"
    bogus = {**keys(s3_server), "session_token": "bogus-token-1618"}
    daemon.ask(uri, credentials=bogus, options=at(s3_server))
    assert_no_secret(daemon)


@needs_root
def test_a_hit_within_the_freshness_interval_still_needs_the_callers_own_pass(
    daemons, seaweed: S3Server
):
    daemon = daemons(FRESHNESS_INTERVAL="3600").start()
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    body = {"uri": f"s3://{bucket}/m", "options": at(seaweed)}
    assert daemon.ask(**body, credentials=keys(seaweed)).json()["result"] == "miss"
    assert daemon.ask(**body, credentials=keys(seaweed)).json()["result"] == "hit"
    for credentials in (None, {"anonymous": True}, keys(seaweed, "wrong-secret-3141")):
        extra = {} if credentials is None else {"credentials": credentials}
        status, answer = as_other_uid(daemon, {**body, **extra})
        assert status in (401, 403), answer
        assert "path" not in answer
    status, answer = as_other_uid(daemon, {**body, "credentials": keys(seaweed)})
    assert (status, answer["result"]) == (200, "hit")


@needs_root
def test_reading_private_content_takes_a_lease(daemons, seaweed: S3Server):
    daemon = daemons().start()
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    body = {"uri": f"s3://{bucket}/m", "options": at(seaweed), "credentials": keys(seaweed)}
    status, answer = as_other_uid(daemon, {**body, "lease": {"holder": "pod-a"}})
    assert status == 200
    target = f"/v1/models/{answer['key']}/files/w.bin"
    lease = answer["lease"]["id"]
    assert _get_as(daemon, target, {"Cachd-Lease": lease}) == (200, "private")
    assert _get_as(daemon, target, {})[0] == 403
    assert _get_as(daemon, target, {"Cachd-Lease": "x" * len(lease)})[0] == 403
    assert daemon.admin("GET", target).body == b"private"
    # Nor does a list tell of it.
    status, text = _get_as(daemon, "/v1/models", {})
    assert status == 200
    assert answer["key"] not in text
    assert not any(lease in text for text in texts_below(daemon.root / "state"))


def _get_as(daemon: Daemon, target: str, headers: dict) -> tuple[int, str]:
    return call_as_other_uid(daemon, "GET", target, None, headers, uid=4243)


@needs_root
@pytest.mark.parametrize("is_shared", [False, True])
def test_the_daemons_own_identity_is_lent_by_one_switch(
    is_shared: bool, tmp_path: Path, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    daemon = Daemon(
        tmp_path,
        settings={
            "ACCESS_SHARE_IDENTITY": str(is_shared).lower(),
            "SOURCES_S3_ENDPOINT": seaweed.endpoint,
        },
        environ={
            "AWS_ACCESS_KEY_ID": seaweed.access_key,
            "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        },
    )
    try:
        daemon.start()
        status, answer = as_other_uid(daemon, {"uri": f"s3://{bucket}/m"})
        if is_shared:
            assert (status, answer["result"]) == (200, "miss")
        else:
            assert status in (401, 403), answer
        # The daemon's own uid is served either way; a stranger's endpoint never sees a signature.
        assert daemon.ask(f"s3://{bucket}/m").status == 200
        assert_no_secret(daemon)
    finally:
        daemon.close()


@needs_root
def test_the_lent_identity_is_not_lured_to_another_endpoint(
    tmp_path: Path, seaweed: S3Server, origin: CountingOrigin
):
    daemon = Daemon(
        tmp_path,
        settings={"ACCESS_SHARE_IDENTITY": "true", "SOURCES_S3_ENDPOINT": seaweed.endpoint},
        environ={
            "AWS_ACCESS_KEY_ID": seaweed.access_key,
            "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        },
    )
    seen: list[str | None] = []
    original = origin._answer

    def record(handler, *, with_body):
        seen.append(handler.headers.get("Authorization"))
        original(handler, with_body=with_body)

    origin._answer = record  # type: ignore[method-assign]
    try:
        daemon.start()
        status, _ = as_other_uid(
            daemon, {"uri": "s3://bucket/m", "options": {"endpoint": origin.url}}
        )
        assert status >= 400
        assert seen
        assert set(seen) == {None}
    finally:
        daemon.close()
