"""Whose pass a shared fetch uses, what a lease opens, and what a drain lets begin."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.harness import Daemon, UnixConnection, call, eventually, running


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An origin whose answers ``answer`` gives; its host and port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", etag: str = "e") -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Content-Type", "application/octet-stream")
    handler.send_header("Accept-Ranges", "bytes")
    handler.send_header("ETag", f'"{etag}"')
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


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

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "GET":
            used.append(handler.headers["Authorization"])
            gate.wait(20)
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

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/block.bin":
            if handler.command == "GET":
                gate.wait(20)
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

    def answer(handler: BaseHTTPRequestHandler) -> None:
        name = handler.headers["Authorization"]
        if handler.command == "GET":
            gate.wait(20)
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

    def answer(handler: BaseHTTPRequestHandler) -> None:
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
    looked = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "HEAD":
            looked.set()
            time.sleep(1.5)
        else:
            time.sleep(15)
        send(handler, 200, b"x" * 1000)

    with serving(answer) as host, running(tmp_path) as daemon:
        asking = ask_later(daemon, f"http://{host}/m.bin", {})
        assert looked.wait(10)
        answers: list[str] = []
        reading = threading.Thread(
            target=lambda: answers.append(json.loads(asking.getresponse().read())["code"])
        )
        started = time.monotonic()
        reading.start()
        try:
            assert daemon.terminate() == 0
            assert time.monotonic() - started < 10
        finally:
            reading.join(10)
            asking.close()
    assert answers == ["draining"]
