"""Whose pass a shared fetch uses, what a lease opens, and what a drain lets begin."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from tests.harness import Daemon, UnixConnection, call, eventually, running
from tests.process.origin import CountingOrigin
from tests.servers.loopback import OCTETS, Handler, Server
from tests.servers.s3 import LISTABLE_BUCKET, S3Server


@contextmanager
def serving(answer: Callable[[Handler], None]) -> Iterator[str]:
    """An origin whose answers ``answer`` gives; its host and port."""

    class AnswerHandler(Handler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

    with Server(AnswerHandler) as server:
        yield server.host


def send(handler: Handler, status: int, body: bytes = b"", etag: str = "e") -> None:
    headers = {"Content_Type": OCTETS, "Accept_Ranges": "bytes", "ETag": f'"{etag}"'}
    handler.send(status, body, **headers)


def as_whom(host: str, name: str) -> dict[str, Any]:
    return {"headers": {host: {"Authorization": name}}}


def ask_later(daemon: Daemon, uri: str, credentials: dict[str, Any]) -> UnixConnection:
    """An ask whose answer is not awaited; closing the connection is going away."""
    connection = UnixConnection(daemon.socket)
    body = json.dumps({"uri": uri, "credentials": credentials})
    connection.request("POST", "/v1/models", body.encode())
    return connection


def board(daemon: Daemon, uri: str, credentials: dict[str, Any]) -> Waiting:
    """An ask that takes part in a fetch by now."""
    connection = UnixConnection(daemon.socket)
    body = json.dumps({"uri": uri, "credentials": credentials})
    headers = {"Accept": "application/x-ndjson"}
    connection.request("POST", "/v1/models", body.encode(), headers)
    waiting = Waiting(connection, connection.getresponse())
    while waiting.next()["event"] not in ("queued", "progress"):
        pass
    return waiting


@dataclass
class Waiting:
    connection: UnixConnection
    response: HTTPResponse

    def next(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.response.readline())
        return line

    def end(self) -> str:
        """``ready``, or the code of the error."""
        while (line := self.next())["event"] not in ("ready", "error"):
            pass
        self.close()
        return str(line.get("code", "ready"))

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def departures(daemon: Daemon) -> int:
    return daemon.log().count("nobody waits for")


def test_a_lingering_fetch_goes_on_with_the_pass_of_who_comes(tmp_path: Path) -> None:
    gate, used = threading.Event(), []

    def answer(handler: Handler) -> None:
        if handler.command == "GET":
            used.append(handler.headers["Authorization"])
            gate.wait(60)
            if len(used) == 1:
                return send(handler, 500)
        return send(handler, 200, b"x" * 1000)

    with serving(answer) as host, running(tmp_path) as daemon:
        uri = f"http://{host}/m.bin"
        first = board(daemon, uri, as_whom(host, "first"))
        eventually(lambda: used)
        first.close()
        eventually(lambda: departures(daemon))
        second = board(daemon, uri, as_whom(host, "second"))
        gate.set()
        assert second.end() == "ready"
    assert used == ["first", "second"]


def test_a_queued_fetch_begins_with_the_pass_of_who_still_waits(tmp_path: Path) -> None:
    gate, used = threading.Event(), []

    def answer(handler: Handler) -> None:
        if handler.path == "/block.bin":
            if handler.command == "GET":
                gate.wait(60)
        elif handler.command == "GET":
            used.append(handler.headers["Authorization"])
        send(handler, 200, b"x" * 1000)

    with (
        serving(answer) as host,
        running(tmp_path, FETCH_MAX_CONCURRENT_MODELS="1") as daemon,
    ):
        blocking = board(daemon, f"http://{host}/block.bin", {})
        uri = f"http://{host}/m.bin"
        first = board(daemon, uri, as_whom(host, "first"))
        first.close()
        eventually(lambda: departures(daemon))
        second = board(daemon, uri, as_whom(host, "second"))
        gate.set()
        assert second.end() == "ready"
        assert blocking.end() == "ready"
    assert used == ["second"]


def test_not_found_to_one_pass_ends_that_wait_alone(tmp_path: Path) -> None:
    gate, revoked = threading.Event(), set()

    def answer(handler: Handler) -> None:
        name = handler.headers["Authorization"]
        if handler.command == "GET":
            gate.wait(60)
        if name in revoked:
            return send(handler, 404 if handler.command == "HEAD" else 401)
        return send(handler, 200, b"x" * 1000)

    with serving(answer) as host, running(tmp_path) as daemon:
        uri = f"http://{host}/m.bin"
        first = board(daemon, uri, as_whom(host, "first"))
        second = board(daemon, uri, as_whom(host, "second"))
        revoked.add("first")
        gate.set()
        assert first.end() == "not_found"
        assert second.end() == "ready"


def test_a_lease_opens_its_own_revision_alone(tmp_path: Path) -> None:
    body = [b"one"]

    def answer(handler: Handler) -> None:
        send(handler, 200, body[0], etag=body[0].decode())

    with serving(answer) as host, running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        uri = f"http://{host}/m.bin"
        old = daemon.ask(uri, credentials=as_whom(host, "a"), lease={"holder": "a"}).json()
        body[0] = b"two"
        new = daemon.ask(uri, credentials=as_whom(host, "b")).json()
        assert new["revision"] != old["revision"]
        target = f"/v1/models/{old['key']}/files/m.bin"
        header = {"Cachd-Lease": old["lease"]["id"]}
        assert call(daemon.socket, "GET", target, headers=header).body == b"one"
        other = f"{target}?revision={new['revision']}"
        assert call(daemon.socket, "GET", other, headers=header).status == 403


def test_no_fetch_begins_once_the_drain_has(tmp_path: Path) -> None:
    looked, draining = threading.Event(), threading.Event()
    fetched: list[str] = []

    def answer(handler: Handler) -> None:
        if handler.command == "HEAD":
            looked.set()
            draining.wait(60)
        else:
            fetched.append(handler.path)
        send(handler, 200, b"x" * 1000)

    with serving(answer) as host, running(tmp_path) as daemon:
        asking = ask_later(daemon, f"http://{host}/m.bin", {})
        assert looked.wait(60)
        answers: list[str] = []
        reading = threading.Thread(
            target=lambda: answers.append(json.loads(asking.getresponse().read())["code"])
        )
        reading.start()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        try:
            eventually(lambda: "draining: no new asks" in daemon.log())
            draining.set()
            assert daemon.process.wait(60) == 0
        finally:
            draining.set()
            reading.join(60)
            asking.close()
    assert (answers, fetched) == (["draining"], [])


def test_who_may_only_list_is_given_nothing(daemons: Any, seaweed: S3Server) -> None:
    """A bucket that anybody may list and only some may read."""
    daemon = daemons(FRESHNESS_INTERVAL="0").start()
    seaweed.make_bucket({f"only-listed/{n}.bin": b"private" for n in range(3)}, LISTABLE_BUCKET)
    body = {"uri": f"s3://{LISTABLE_BUCKET}/only-listed", "options": {"endpoint": seaweed.endpoint}}
    keys = {"access_key_id": seaweed.access_key, "secret_access_key": seaweed.secret_key}
    nobody = {"anonymous": True}
    assert daemon.ask(**body, credentials=nobody).status in (401, 403)
    answer = daemon.ask(**body, credentials=keys)
    assert answer.status == 200, answer.body
    refused = daemon.ask(**body, credentials=nobody, lease={})
    assert refused.status in (401, 403), refused.body
    (model,) = daemon.admin("GET", "/v1/models").json()["models"]
    assert model["credentialed"]


def test_bytes_that_took_a_pass_are_published_as_such(daemons: Any, origin: CountingOrigin) -> None:
    """The flight begins without a pass and ends with one: what it publishes is not public."""
    daemon = daemons(FETCH_CONNECTIONS="1", FRESHNESS_INTERVAL="3600").start()
    origin.bodies["/m.bin"] = os.urandom(40 << 20)
    origin.hold(after=2 << 20)
    uri = f"{origin.url}/m.bin"
    host = origin.url.removeprefix("http://")
    first = UnixConnection(daemon.socket)
    first.request("POST", "/v1/models", json.dumps({"uri": uri}))
    assert origin.held.wait(60)
    second = board(daemon, uri, as_whom(host, "Bearer x"))
    first.close()
    eventually(lambda: "status=499" in daemon.log())
    origin.release()
    assert second.end() == "ready"
    (model,) = daemon.admin("GET", "/v1/models").json()["models"]
    assert model["credentialed"]


def test_tenants_are_kept_apart_where_nothing_tells_states_apart(
    daemons: Any, origin: CountingOrigin
) -> None:
    """No ETag, no date, the same size: only the caller's pass tells one tenant's bytes from the
    other's."""
    daemon = daemons(FRESHNESS_INTERVAL="0").start()
    bodies = {"Bearer a": b"a" * 5000, "Bearer b": b"b" * 5000}

    def answer(handler: Any, *, with_body: bool) -> None:
        body = bodies[handler.headers["Authorization"]]
        handler.send_response(200)
        handler.send_header("Content-Type", "application/octet-stream")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if with_body:
            handler.wfile.write(body)

    origin._answer = answer  # type: ignore[method-assign]
    host = origin.url.removeprefix("http://")
    for token in ("Bearer a", "Bearer b", "Bearer a"):
        reply = daemon.ask(
            f"{origin.url}/m.bin", credentials={"headers": {host: {"Authorization": token}}}
        )
        assert reply.status == 200, reply.body
        assert Path(reply.json()["path"], "m.bin").read_bytes() == bodies[token]
        assert not reply.json()["validated"]


def test_the_queue_is_bounded_and_prefetches_leave_room(
    daemons: Any, origin: CountingOrigin
) -> None:
    daemon = daemons(FETCH_MAX_CONCURRENT_MODELS="2", FETCH_MAX_QUEUED_MODELS="2").start()
    for n in range(6):
        origin.bodies[f"/{n}.bin"] = os.urandom(1 << 20)
    origin.hold(after=0)
    states = [daemon.ask(f"{origin.url}/{n}.bin", wait=False).status for n in range(3)]
    assert states == [202, 202, 202]
    assert origin.held.wait(60)
    refused = daemon.ask(f"{origin.url}/4.bin", wait=False)
    assert (refused.status, refused.json()["code"]) == (503, "overloaded")
    # The same again is no new one.
    assert daemon.ask(f"{origin.url}/1.bin", wait=False).status == 202
    usage = daemon.admin("GET", "/v1/models").json()["store"]
    assert usage["flights_in_flight"] == 1
    origin.release()
    for n in range(3):
        assert daemon.ask(f"{origin.url}/{n}.bin").status == 200


def test_stalled_imports_hold_up_nobody(daemons: Any, origin: CountingOrigin) -> None:
    daemon = daemons().start()
    stalled = []
    for n in range(12):
        connection = UnixConnection(daemon.admin_socket)
        connection.putrequest("POST", f"/v1/import?uri=s3://models/{n}")
        connection.putheader("Content-Type", "application/x-tar")
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders()
        info = tarfile.TarInfo("w.bin")
        info.size = 1 << 29
        connection.send(info.tobuf() + bytes(64 * 1024))
        stalled.append(connection)
    eventually(lambda: len(list((daemon.root / "ingest").iterdir())) == 12)
    origin.bodies["/m.bin"] = b"x" * 1000
    assert daemon.ask(f"{origin.url}/m.bin").status == 200
    assert call(daemon.socket, "GET", "/v1/models").status == 200
    for connection in stalled:
        connection.close()
    eventually(lambda: not list((daemon.root / "ingest").iterdir()))
