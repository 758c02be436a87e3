"""Starting, draining, dying, coming back: the real process and real signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.harness import Daemon, UnixConnection, call, eventually, running
from tests.process.origin import CountingOrigin
from tests.servers.ports import free_ports

MIB = 1 << 20


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # Threads end while one looks.
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def start_fetch(daemon: Daemon, origin: CountingOrigin, uri: str) -> tuple[threading.Thread, list]:
    """An ask that hangs because the origin is held; it may end without an answer."""
    replies: list = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            replies.append(daemon.ask(uri))

    asking = threading.Thread(target=ask)
    asking.start()
    assert origin.held.wait(60)
    return asking, replies


@pytest.mark.parametrize("end", ["drain", "kill"])
def test_a_fetch_goes_on_after_a_restart(end: str, daemons, origin: CountingOrigin):
    """SIGTERM and kill -9 in mid-fetch: what was journalled is not fetched again."""
    size = 64 * MIB
    body = origin.bodies["/m.bin"] = os.urandom(size)
    uri = f"{origin.url}/m.bin"
    daemon: Daemon = daemons(FETCH_CONNECTIONS="1", DRAIN_TIMEOUT="10").start()
    origin.hold(after=52 * MIB)
    asking, replies = start_fetch(daemon, origin, uri)
    eventually(lambda: _journalled(daemon) >= 3)
    assert daemon.process is not None
    offspring = children(daemon.process.pid)
    assert offspring
    if end == "kill":
        daemon.kill()
    else:
        started = time.monotonic()
        assert daemon.terminate() == 0
        assert time.monotonic() - started < 15
        asking.join(60)
        assert replies[0].status == 503
        assert replies[0].json()["code"] == "draining"
        assert "retry-after" in replies[0].headers
        assert not daemon.socket.exists()
    eventually(lambda: not any(map(is_alive, offspring)))
    assert not list((daemon.root / "snapshots").rglob("m.bin"))
    origin.release()
    sent = origin.sent.total()
    daemon.start()
    reply = daemon.ask(uri)
    assert reply.status == 200, reply.body
    assert Path(reply.json()["path"], "m.bin").read_bytes() == body
    # Three parts of 16 MiB were journalled. (A connection that was cut still counts what the
    # origin had under way.)
    assert origin.sent.total() - sent <= size - 48 * MIB + MIB
    assert daemon.ask(uri).json()["result"] == "hit"
    if end == "kill":
        asking.join(60)


def _journalled(daemon: Daemon) -> int:
    return sum(
        max(0, len(journal.read_bytes().splitlines()) - 1)
        for journal in daemon.root.glob("ingest/*/journal")
    )


def test_hits_pins_leases_and_recency_survive_a_restart(daemons, origin: CountingOrigin):
    daemon: Daemon = daemons(STORE_MIN_IDLE="0").start()
    answers = {}
    for name in "abc":
        origin.bodies[f"/{name}.bin"] = name.encode() * 100_000
        answers[name] = daemon.ask(f"{origin.url}/{name}.bin", lease={"holder": name}).json()
    assert daemon.admin("PUT", f"/v1/models/{answers['b']['key']}/pin").status == 200
    daemon.ask(f"{origin.url}/a.bin")
    order = [m["key"] for m in daemon.admin("GET", "/v1/models").json()["models"]]
    assert daemon.terminate() == 0
    daemon.start()
    models = daemon.admin("GET", "/v1/models").json()["models"]
    assert [m["key"] for m in models] == order
    assert {m["key"] for m in models if m["pinned"]} == {answers["b"]["key"]}
    assert all(m["leases"] == 1 for m in models)
    lease = answers["c"]["lease"]["id"]
    key = answers["c"]["key"]
    renewed = call(daemon.socket, "PUT", f"/v1/models/{key}/leases/{lease}", {"ttl": 5})
    assert renewed.status == 200, renewed.body
    assert call(daemon.socket, "DELETE", f"/v1/models/{key}/leases/{lease}").status in (200, 204)
    assert daemon.ask(f"{origin.url}/c.bin").json()["result"] == "hit"


def test_a_second_daemon_is_refused_and_says_why(daemon: Daemon, tmp_path: Path):
    other = Daemon(tmp_path / "other")
    other.root = daemon.root
    try:
        other.start(wait=False)
        assert other.process is not None
        assert other.process.wait(60) != 0
        assert "standby" in other.log()
        assert not other.socket.exists()
    finally:
        other.close()
    same_socket = Daemon(tmp_path / "same", environ={"CACHD_SOCKET": str(daemon.socket)})
    try:
        same_socket.start(wait=False)
        assert same_socket.process is not None
        assert same_socket.process.wait(60) != 0
        assert str(daemon.run) in same_socket.log()
    finally:
        same_socket.close()
    assert call(daemon.socket, "GET", "/readyz").status == 200


def test_a_standby_is_live_but_not_ready_and_takes_over(tmp_path: Path):
    [port] = free_ports(1)
    first = Daemon(tmp_path / "first")
    second = Daemon(
        tmp_path / "second",
        settings={"STORE_STANDBY": "true", "LISTEN_HEALTH_ADDRESS": f"127.0.0.1:{port}"},
    )
    second.root = first.root
    second.socket, second.admin_socket = first.socket, first.admin_socket
    try:
        first.start()
        second.start(wait=False)
        eventually(lambda: _health(port, "/livez")[0] == 200)
        status, body = _health(port, "/readyz")
        assert status == 503
        assert json.loads(body)["reasons"]
        assert first.terminate() == 0
        eventually(lambda: _health(port, "/readyz")[0] == 200)
        eventually(lambda: second.socket.exists())
        assert call(second.socket, "GET", "/v1/models").status == 200
    finally:
        second.close()
        first.close()


def _health(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def test_the_health_listener_carries_nothing_else(daemons):
    [port] = free_ports(1)
    daemons(LISTEN_HEALTH_ADDRESS=f"127.0.0.1:{port}").start()
    assert _health(port, "/livez")[0] == 200
    assert _health(port, "/readyz")[0] == 200
    assert b"cachd_build_info" in _health(port, "/metrics")[1]
    for path in ("/v1/models", "/openapi.json", "/v1/events", "/"):
        assert _health(port, path)[0] == 404


def test_a_stale_socket_file_is_replaced(daemons):
    daemon: Daemon = daemons()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(daemon.socket))
    stale.close()
    daemon.start()
    assert oct(daemon.socket.stat().st_mode)[-3:] == "666"
    assert oct(daemon.admin_socket.stat().st_mode)[-3:] == "600"


def test_the_daemon_is_small_at_rest_after_work(daemon: Daemon, origin: CountingOrigin):
    origin.bodies["/m.bin"] = os.urandom(40 * MIB)
    assert daemon.ask(f"{origin.url}/m.bin").status == 200
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    assert int(match[1]) < 80 * 1024


def test_children_end_when_idle(daemons, origin: CountingOrigin):
    daemon: Daemon = daemons(FETCH_WORKER_IDLE="0.2", SOURCES_RESOLVER_IDLE="0.2").start()
    origin.bodies["/m.bin"] = os.urandom(MIB)
    assert daemon.ask(f"{origin.url}/m.bin").status == 200
    assert daemon.process is not None
    pid = daemon.process.pid
    eventually(lambda: not children(pid))
    assert daemon.ask(f"{origin.url}/m.bin").status == 200


def test_a_killed_worker_costs_nobody_the_model(daemons, origin: CountingOrigin):
    daemon: Daemon = daemons().start()
    body = origin.bodies["/m.bin"] = os.urandom(64 * MIB)
    origin.hold(after=20 * MIB)
    asking, replies = start_fetch(daemon, origin, f"{origin.url}/m.bin")
    assert daemon.process is not None
    for child in children(daemon.process.pid):
        if b"fetch.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
    origin.release()
    asking.join(60)
    assert replies[0].status == 200, replies[0].body
    assert Path(replies[0].json()["path"], "m.bin").read_bytes() == body


def serve_fails(tmp_path: Path, arguments: list[str], **environ: str) -> str:
    run = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CACHD_SOCKET": str(tmp_path / "s"),
        "CACHD_STORE_ROOT": str(tmp_path / "root"),
        **environ,
    }
    done = subprocess.run(
        [sys.executable, "-m", "cachd", "serve", *arguments],
        capture_output=True, text=True, timeout=60, env=run, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_bad_configuration_is_refused_with_the_way_out(tmp_path: Path):
    config = tmp_path / "c.yaml"
    cases = [
        ("fech: {}\n", "fech"),
        ("store: {low_watermark: 90, high_watermark: 80}\n", "low_watermark"),
        ("store: {quota: lots}\n", "store.quota"),
        ("[1]\n", "mapping"),
        ("listen: {api: {address: '127.0.0.1:1'}}\n", "certificate"),
        ("store: {expected_mount: /no/such/mount}\n", "/no/such/mount"),
    ]
    for text, expected in cases:
        config.write_text(text)
        assert expected in serve_fails(tmp_path, ["--config", str(config)])
    assert "CACHD_STORE_QUOTA" in serve_fails(tmp_path, [], CACHD_STORE_QOUTA="1GiB")
    assert not (tmp_path / "root" / "layout.json").exists()


def test_a_quota_beyond_the_volume_is_said(tmp_path: Path):
    with running(tmp_path, STORE_QUOTA="1000TiB") as daemon:
        assert "store.quota is 1000.00 TiB, and the volume has" in daemon.log()
        assert "(the whole volume)" in daemon.log()


def test_names_that_kubernetes_injects_are_no_settings(tmp_path: Path):
    links = {
        "CACHD_PORT": "tcp://10.0.0.1:80",
        "CACHD_SERVICE_HOST": "10.0.0.1",
        "CACHD_SERVICE_PORT_HTTP": "80",
        "CACHD_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    daemon = Daemon(tmp_path, environ=links)
    try:
        daemon.start()
    finally:
        daemon.close()


def test_a_root_that_holds_something_else_is_not_touched(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "thesis.txt").write_text("years of work")
    assert str(root) in serve_fails(tmp_path, [])
    assert [p.name for p in root.iterdir()] == ["thesis.txt"]


def test_a_root_that_cannot_be_made_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("in the way")
    error = serve_fails(tmp_path, [], CACHD_STORE_ROOT=str(file / "root"))
    assert str(file) in error
    assert file.read_text() == "in the way"
    assert "/sys/cachd" in serve_fails(tmp_path, [], CACHD_STORE_ROOT="/sys/cachd")


def test_a_waiting_caller_times_out_by_its_own_limit(daemon: Daemon, origin: CountingOrigin):
    origin.bodies["/m.bin"] = os.urandom(4 * MIB)
    origin.hold(after=0)
    reply = daemon.ask(f"{origin.url}/m.bin", timeout=0.5)
    assert reply.status in (408, 504)
    assert reply.json()["code"] == "deadline_exceeded"
    origin.release()
    assert daemon.ask(f"{origin.url}/m.bin").status == 200


def test_answers_stay_quick_while_bytes_move(daemon: Daemon, origin: CountingOrigin):
    """Not a timing: an answer comes while a fetch is held, over the same sockets."""
    origin.bodies["/m.bin"] = os.urandom(8 * MIB)
    origin.hold(after=MIB)
    asking, replies = start_fetch(daemon, origin, f"{origin.url}/m.bin")
    for _ in range(50):
        assert call(daemon.socket, "GET", "/livez", timeout=30).status == 200
    connection = UnixConnection(daemon.socket, timeout=30)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 200
    connection.close()
    origin.release()
    asking.join(60)
    assert replies[0].status == 200
