"""Credentials serve their caller only; hits are given to those whose own pass is good; the same URI
at two endpoints is two models. Against servers that check signatures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness import Daemon, UnixConnection, eventually
from tests.process.origin import CountingOrigin
from tests.servers.s3 import S3Server

SECRET_WORDS = ("testsecret", "wrong-secret-3141", "header-secret-2718", "bogus-token-1618")


def keys(server: S3Server, secret: str | None = None) -> dict[str, str]:
    return {
        "access_key_id": server.access_key,
        "secret_access_key": secret or server.secret_key,
    }


def at(server: S3Server) -> dict[str, str]:
    return {"endpoint": server.endpoint}


_AS_OTHER_UID = """
import os, sys, json
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.harness import call
uid, arguments = int(sys.argv[2]), json.loads(sys.argv[3])
os.setgid(uid); os.setuid(uid)
reply = call(Path(arguments.pop(0)), *arguments)
print(json.dumps([reply.status, reply.body.decode()]))
"""


def call_as_other_uid(
    daemon: Daemon, method: str, target: str, body: dict | None, headers: dict, uid: int = 4242
) -> tuple[int, str]:
    """A call from a process of another uid (the daemon's own is root's in these tests)."""
    here = str(Path(__file__).parents[2])
    arguments = json.dumps([str(daemon.socket), method, target, body, headers])
    done = subprocess.run(
        [sys.executable, "-c", _AS_OTHER_UID, here, str(uid), arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, answer = json.loads(done.stdout)
    return status, answer


def as_other_uid(daemon: Daemon, body: dict) -> tuple[int, dict]:
    status, answer = call_as_other_uid(daemon, "POST", "/v1/models", body, {})
    return status, json.loads(answer)


def assert_no_secret(daemon: Daemon) -> None:
    """Neither in the log, nor in a metric, nor anywhere below the root, nor in a process's
    arguments."""
    places = [daemon.log(), daemon.admin("GET", "/metrics").body.decode()]
    for path in daemon.root.rglob("*"):
        if path.is_file():
            places.append(path.read_bytes().decode("latin-1"))
        places.append(str(path))
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = arguments.read_bytes().decode("latin-1")
        except OSError:
            continue
        if "cachd" in text and "-c" not in text.split("\0"):
            places.append(text)
    for word in SECRET_WORDS:
        assert not any(word in place for place in places), word


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="changing the uid needs root")


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
        thread.join(40)
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
    files = b"".join(p.read_bytes() for p in daemon.root.rglob("state/**/*") if p.is_file())
    assert lease.encode() not in files


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


def test_a_tenants_header_decides_what_it_gets(daemons, origin: CountingOrigin):
    """The same URL shows different tenants different bytes: nobody gets another's."""
    daemon = daemons(FRESHNESS_INTERVAL="3600").start()
    bodies = {"Bearer header-secret-2718": b"of a" * 100, "Bearer b": b"of b" * 90}
    original = origin._answer

    def choose(handler, *, with_body):
        origin.bodies["/m.bin"] = bodies.get(handler.headers.get("Authorization"), b"public")
        original(handler, with_body=with_body)

    origin._answer = choose  # type: ignore[method-assign]
    host = origin.url.removeprefix("http://")

    def ask(token: str | None) -> bytes:
        extra = {"credentials": {"headers": {host: {"Authorization": token}}}} if token else {}
        reply = daemon.ask(f"{origin.url}/m.bin", **extra)
        assert reply.status == 200, reply.body
        return Path(reply.json()["path"], "m.bin").read_bytes()

    for token, expected in [*bodies.items(), *bodies.items()]:
        assert ask(token) == expected
    assert_no_secret(daemon)


class Tokens:
    """Makes ``origin`` ask for one of some tokens, and remembers which one each range came with."""

    def __init__(self, origin: CountingOrigin, *tokens: str) -> None:
        self.valid = set(tokens)
        self.used: list[str | None] = []
        original = origin._answer

        def check(handler, *, with_body):
            token = handler.headers.get("Authorization")
            if token not in self.valid:
                handler.send_response(403)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            if with_body:
                self.used.append(token)
            original(handler, with_body=with_body)

        origin._answer = check  # type: ignore[method-assign]


class Following:
    """An ask whose events are read as they come."""

    def __init__(self, daemon: Daemon, origin: CountingOrigin, token: str) -> None:
        host = origin.url.removeprefix("http://")
        body = {
            "uri": f"{origin.url}/m.bin",
            "credentials": {"headers": {host: {"Authorization": token}}},
        }
        self.connection = UnixConnection(daemon.socket)
        self.connection.request(
            "POST", "/v1/models", json.dumps(body), {"Accept": "application/x-ndjson"}
        )
        self.lines = self.connection.getresponse()

    def until(self, *names: str) -> dict:
        for line in self.lines:
            event = json.loads(line)
            if event["event"] in names:
                return event
        raise AssertionError(f"the stream ended before {names}")


def test_the_flight_switches_when_the_caller_whose_pass_it_uses_goes(
    daemons, origin: CountingOrigin
):
    daemon = daemons(FETCH_LINGER="0", FETCH_CONNECTIONS="1", FRESHNESS_INTERVAL="0").start()
    tokens = Tokens(origin, "A", "B")
    body = origin.bodies["/m.bin"] = os.urandom(60 << 20)
    origin.hold(after=4 << 20)
    first = Following(daemon, origin, "A")
    first.until("progress")
    assert origin.held.wait(20)
    second = Following(daemon, origin, "B")
    second.until("progress")
    first.connection.close()
    eventually(lambda: "endpoint=ask status=499" in daemon.log())
    origin.release()
    ready = second.until("ready", "error")
    second.connection.close()
    assert ready["event"] == "ready", ready
    assert Path(ready["path"], "m.bin").read_bytes() == body
    assert tokens.used[0] == "A"
    assert tokens.used[-1] == "B"


def test_a_caller_that_is_refused_in_mid_fetch_fails_alone(daemons, origin: CountingOrigin):
    daemon = daemons(FETCH_CONNECTIONS="1", FRESHNESS_INTERVAL="0").start()
    tokens = Tokens(origin, "A", "B")
    body = origin.bodies["/m.bin"] = os.urandom(60 << 20)
    origin.hold(after=4 << 20)
    first = Following(daemon, origin, "A")
    first.until("progress")
    assert origin.held.wait(20)
    second = Following(daemon, origin, "B")
    second.until("progress")
    tokens.valid.remove("A")
    origin.release()
    refused = first.until("ready", "error")
    ready = second.until("ready", "error")
    first.connection.close()
    second.connection.close()
    assert ready["event"] == "ready", ready
    assert Path(ready["path"], "m.bin").read_bytes() == body
    assert refused["event"] == "error", refused
    assert refused["status"] in (401, 403)
    assert tokens.used[-1] == "B"


class Signatures:
    """Makes ``origin`` want a signature in the query, as presigned URLs have it."""

    def __init__(self, origin: CountingOrigin, *valid: str) -> None:
        self.valid = set(valid)
        self.seen: list[str] = []
        original = origin._answer

        def check(handler, *, with_body):
            path, _, query = handler.path.partition("?")
            self.seen.append(query)
            if handler.command == "HEAD" or query not in self.valid:
                handler.send_response(403)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.path = path
            original(handler, with_body=with_body)

        origin._answer = check  # type: ignore[method-assign]


def signed(origin: CountingOrigin, signature: str) -> tuple[str, str]:
    query = f"X-Amz-Expires=60&X-Amz-Signature={signature}"
    return f"{origin.url}/m.bin?{query}", query


def test_a_presigned_url_is_a_pass_and_not_a_name(daemons, origin: CountingOrigin):
    daemon = daemons(FRESHNESS_INTERVAL="3600").start()
    (first, query), (second, other), (forged, _) = (
        signed(origin, name) for name in ("aaaa-secret-1", "bbbb-secret-2", "cccc-secret-3")
    )
    signatures = Signatures(origin, query, other)
    body = origin.bodies["/m.bin"] = os.urandom(3 << 20)
    miss = daemon.ask(first).json()
    assert miss["result"] == "miss", miss
    assert Path(miss["path"], "m.bin").read_bytes() == body
    hit = daemon.ask(second).json()
    assert (hit["result"], hit["key"]) == ("hit", miss["key"])
    assert origin.sent["/m.bin"] <= len(body) + 16
    for url in (forged, f"{origin.url}/m.bin"):
        refused = daemon.ask(url)
        assert refused.status in (401, 403), refused.body
        assert b"secret" not in refused.body
    signatures.valid.clear()
    assert daemon.ask(forged).status in (401, 403)
    everything = [daemon.log(), daemon.admin("GET", "/v1/models").body.decode()]
    everything += [p.read_bytes().decode("latin-1") for p in daemon.root.rglob("*") if p.is_file()]
    assert not any("secret" in text for text in everything)


def test_a_signature_that_ends_in_mid_fetch_fails_its_caller_alone(daemons, origin: CountingOrigin):
    daemon = daemons(FETCH_CONNECTIONS="1", FRESHNESS_INTERVAL="0").start()
    (first, query), (second, other) = (signed(origin, name) for name in ("one", "two"))
    signatures = Signatures(origin, query, other)
    body = origin.bodies["/m.bin"] = os.urandom(60 << 20)
    origin.hold(after=4 << 20)
    replies: dict[str, object] = {}

    def ask(url: str) -> None:
        replies[url] = daemon.ask(url)

    threads = [threading.Thread(target=ask, args=(url,)) for url in (first, second)]
    threads[0].start()
    assert origin.held.wait(20)
    threads[1].start()
    eventually(lambda: other in signatures.seen)
    signatures.valid.remove(query)
    origin.release()
    for thread in threads:
        thread.join(40)
    assert replies[first].status in (401, 403), replies[first].body
    assert replies[second].status == 200, replies[second].body
    assert Path(replies[second].json()["path"], "m.bin").read_bytes() == body
