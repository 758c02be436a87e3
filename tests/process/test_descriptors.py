"""``files.sock``: descriptors of files, which nobody can reopen for writing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, call, eventually
from tests.kube.tokenserver import TokenServer
from tests.process.origin import CountingOrigin
from tests.servers import require

BODY = os.urandom(300_000)


class Client:
    """One connection to ``files.sock``."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(30)
        self.sock.connect(str(path))

    def ask(self, **request: Any) -> tuple[dict[str, Any], int]:
        """The answer, and the descriptor or -1."""
        return self.send(json.dumps(request).encode())

    def send(self, packet: bytes) -> tuple[dict[str, Any], int]:
        self.sock.send(packet)
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
        assert len(fds) <= 1
        return json.loads(data), fds[0] if fds else -1


def twin_of(daemon: Daemon, options: str) -> Daemon:
    """The daemon gets a mount namespace of its own, where its root is mounted a second time."""
    require.root()
    twin = daemon.home / "twin"
    for path in (daemon.root, twin):
        path.mkdir(parents=True)
    script = f'mount --bind "{daemon.root}" "{twin}" && {options} && exec "$@"'
    daemon.prefix = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"]
    daemon.settings["STORE_READONLY_ROOT"] = str(twin)
    return daemon


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "one")
    twin_of(daemon, f'mount -o remount,bind,ro "{tmp_path / "one" / "twin"}"')
    yield daemon.start()
    daemon.close()


@pytest.fixture
def model(shared: Daemon, origin: CountingOrigin) -> dict[str, Any]:
    origin.bodies["/m.bin"] = BODY
    found: dict[str, Any] = shared.ask(f"{origin.url}/m.bin", lease={"holder": "x"}).json()
    return found


@pytest.fixture
def client(shared: Daemon) -> Iterator[Client]:
    one = Client(shared.run / "files.sock")
    yield one
    one.sock.close()


def test_root_can_not_write_through_a_descriptor(client: Client, model: dict[str, Any]):
    """Not by it, not by opening it anew, not by changing its mode; as uid 0 with all rights."""
    assert os.geteuid() == 0
    answer, fd = client.ask(key=model["key"], path="m.bin", lease=model["lease"]["id"])
    assert answer == {"size": len(BODY), "revision": model["revision"]}
    try:
        assert os.pread(fd, len(BODY) + 1, 0) == BODY
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"evil", 0)
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError, match="Read-only file system"):
                os.open(f"/proc/self/fd/{fd}", flags)
        for change in (lambda: os.fchmod(fd, 0o666), lambda: os.ftruncate(fd, 0)):
            with pytest.raises(OSError, match=r"Read-only file system|Invalid argument"):
                change()
    finally:
        os.close(fd)
    tree = Path(model["path"])
    assert (tree / "m.bin").read_bytes() == BODY


def test_what_is_open_stays_whole_when_the_model_goes(
    shared: Daemon, client: Client, model: dict[str, Any]
):
    _, fd = client.ask(key=model["key"], path="m.bin")
    assert shared.admin("DELETE", f"/v1/models/{model['key']}?force=true").status == 200
    eventually(lambda: not Path(model["path"]).exists())
    assert os.pread(fd, len(BODY), 0) == BODY
    os.close(fd)
    answer, fd = client.ask(key=model["key"], path="m.bin")
    assert (answer["problem"]["code"], fd) == ("model_unknown", -1)


def test_what_is_wrong_is_a_problem_and_the_connection_goes_on(
    client: Client, model: dict[str, Any]
):
    key = model["key"]
    for request, code in (
        ({"key": key, "path": "../m.bin"}, "file_unknown"),
        ({"key": key, "path": "no.bin"}, "file_unknown"),
        ({"key": "../../etc", "path": "m.bin"}, "model_unknown"),
        ({"key": key, "path": "m.bin", "revision": "ff" * 16}, "model_unknown"),
        ({"key": key}, "request_invalid"),
        ({"key": key, "path": "m.bin", "more": 1}, "request_invalid"),
    ):
        answer, fd = client.ask(**request)
        assert (answer["problem"]["code"], fd) == (code, -1), request
    for packet in (b"{", b"[]", b"\xff", b"x" * 66_000):
        answer, fd = client.send(packet)
        assert (answer["problem"]["code"], fd) == ("request_invalid", -1)
    answer, fd = client.ask(key=key, path="m.bin")
    assert answer["size"] == len(BODY)
    os.close(fd)


def test_the_daemon_keeps_no_descriptor(shared: Daemon, client: Client, model: dict[str, Any]):
    assert shared.process is not None
    place = Path(f"/proc/{shared.process.pid}/fd")
    before = len(list(place.iterdir()))
    for _ in range(100):
        _, fd = client.ask(key=model["key"], path="m.bin")
        os.close(fd)
    # Some come and go with the processes that fetch.
    assert len(list(place.iterdir())) < before + 50
    client.sock.close()
    assert shared.terminate() == 0
    assert not (shared.run / "files.sock").exists()


def test_both_sockets_share_the_connections_that_one_uid_may_have(tmp_path: Path):
    daemon = Daemon(tmp_path / "one", settings={"LISTEN_MAX_CONNECTIONS": "4"})
    twin_of(daemon, f'mount -o remount,bind,ro "{tmp_path / "one" / "twin"}"')
    with contextlib.closing(daemon), contextlib.ExitStack() as stack:
        daemon.start()
        for _ in range(3):
            one = Client(daemon.run / "files.sock")
            stack.callback(one.sock.close)
            assert "problem" in one.send(b"{}")[0]
        with pytest.raises(ConnectionError):
            call(daemon.socket, "GET", "/v1/models")
        one.sock.close()

        def is_let_in() -> bool:
            try:
                return call(daemon.socket, "GET", "/v1/models").status == 200
            except ConnectionError:
                return False

        eventually(is_let_in)


@pytest.mark.parametrize(
    ("options", "what"),
    [("true", "is mounted writable"), ('umount "$(dirname "$PWD")/one/twin"', "another directory")],
)
def test_without_a_read_only_mount_the_daemon_does_not_start(
    tmp_path: Path, options: str, what: str
):
    daemon = twin_of(Daemon(tmp_path / "one"), options)
    daemon.start(wait=False)
    try:
        assert daemon.process is not None
        assert daemon.process.wait(60) == 2
        assert what in daemon.log()
    finally:
        daemon.close()


def test_rules_hold_for_descriptors_too(
    tmp_path: Path, origin: CountingOrigin, tokens: TokenServer
):
    rules = [
        {"name": "a", "namespaces": ["team-a"]},
        {"name": "none", "effect": "deny", "uris": [f"{origin.url}/*"]},
    ]
    daemon = twin_of(
        Daemon(
            tmp_path / "one",
            settings={"ACCESS_RULES": json.dumps(rules)},
            environ=tokens.environ(tmp_path),
        ),
        f'mount -o remount,bind,ro "{tmp_path / "one" / "twin"}"',
    )
    try:
        daemon.start()
        origin.bodies["/m.bin"] = BODY
        asked = {"uri": f"{origin.url}/m.bin", "lease": {"holder": "x"}}
        answer = daemon.admin("POST", "/v1/models", asked).json()
        request = {"key": answer["key"], "path": "m.bin"}
        client = Client(daemon.run / "files.sock")
        for more in ({}, {"lease": answer["lease"]["id"]}, {"token": tokens.admit("team-b", "s")}):
            refused, fd = client.ask(**request, **more)
            assert fd == -1
            assert (refused["problem"]["code"], refused["problem"]["rule"]) == ("forbidden", "none")
        found, fd = client.ask(**request, token=tokens.admit("team-a", "s"))
        assert found["size"] == os.fstat(fd).st_size == len(BODY)
        os.close(fd)
        client.sock.close()
    finally:
        daemon.close()
