"""Headers and signed URLs are their caller's own: what they get, and what becomes of a flight that
loses them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from tests.harness import Daemon, UnixConnection, eventually
from tests.process.origin import CountingOrigin
from tests.process.secrecy import assert_no_secret, written


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
                handler.send(403)
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


def two_following(daemon: Daemon, origin: CountingOrigin) -> tuple[Following, Following]:
    """A and B at one flight, which began with A's pass and is held in mid-body."""
    origin.hold(after=4 << 20)
    first = Following(daemon, origin, "A")
    first.until("progress")
    assert origin.held.wait(60)
    second = Following(daemon, origin, "B")
    second.until("progress")
    return first, second


def test_the_flight_switches_when_the_caller_whose_pass_it_uses_goes(
    daemons, origin: CountingOrigin
):
    daemon = daemons(FETCH_LINGER="0", FETCH_CONNECTIONS="1", FRESHNESS_INTERVAL="0").start()
    tokens = Tokens(origin, "A", "B")
    body = origin.bodies["/m.bin"] = os.urandom(60 << 20)
    first, second = two_following(daemon, origin)
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
    first, second = two_following(daemon, origin)
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
                handler.send(403)
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
    everything = [daemon.admin("GET", "/v1/models").body.decode(), *written(daemon)]
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
    assert origin.held.wait(60)
    threads[1].start()
    eventually(lambda: other in signatures.seen)
    signatures.valid.remove(query)
    origin.release()
    for thread in threads:
        thread.join(60)
    assert replies[first].status in (401, 403), replies[first].body
    assert replies[second].status == 200, replies[second].body
    assert Path(replies[second].json()["path"], "m.bin").read_bytes() == body
