"""Sockets: bound safely, never stolen, never left behind."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from cachd.api.sockets import bind_socket, parse_address, prepare_directory
from cachd.errors import ConfigInvalid, SocketInUse


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def test_mode_and_directory_do_not_depend_on_the_umask(run: Path) -> None:
    path = run / "deep" / "er" / "cachd.sock"
    before = os.umask(0o077)
    try:
        bound = bind_socket(path, mode=0o666, group=str(os.getgid()))
    finally:
        os.umask(before)
    try:
        status = path.stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o666
        assert status.st_gid == os.getgid()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755
        assert answers(path)
    finally:
        bound.close()
    assert list(path.parent.iterdir()) == []


def test_a_living_socket_is_refused_and_untouched(run: Path) -> None:
    path = run / "s"
    first = bind_socket(path, mode=0o600)
    inode = path.stat().st_ino
    with pytest.raises(SocketInUse) as refused:
        bind_socket(path, mode=0o666)
    assert "listen.socket" in refused.value.hint
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o600)
    assert answers(path)
    first.close()
    assert list(run.iterdir()) == []


def test_a_full_backlog_is_a_living_socket(run: Path) -> None:
    path = run / "s"
    busy = socket.socket(socket.AF_UNIX)
    clients = []
    try:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            client.connect_ex(str(path))
        with pytest.raises(SocketInUse):
            bind_socket(path, mode=0o600)
    finally:
        for one in (busy, *clients):
            one.close()


def test_a_stale_socket_is_replaced(run: Path) -> None:
    path = run / "s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()
    assert path.exists()
    assert not answers(path)
    bound = bind_socket(path, mode=0o600)
    assert answers(path)
    assert [p.name for p in run.iterdir()] == ["s"]
    bound.close()


def test_a_socket_that_is_no_longer_ours_stays(run: Path) -> None:
    path = run / "s"
    first = bind_socket(path, mode=0o600)
    path.unlink()
    second = bind_socket(path, mode=0o600)
    first.close()
    assert answers(path)
    second.close()
    assert not path.exists()
    second.close()


def test_two_that_start_together_cannot_both_win(run: Path) -> None:
    path, won, lost = run / "s", [], []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        try:
            won.append(bind_socket(path, mode=0o600))
        except SocketInUse as error:
            lost.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(won), len(lost)) == (1, 7)
    assert answers(path)
    assert [p.name for p in run.iterdir()] == ["s"]
    won[0].close()


def test_somebody_elses_lock_is_not_waited_for_for_ever(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.sockets.LOCK_PATIENCE", 0.1)
    descriptor = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(SocketInUse, match="locked"):
            bind_socket(run / "s", mode=0o600)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_replaced(run: Path, kind: str) -> None:
    path = run / "s"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with pytest.raises(ConfigInvalid, match="is no socket"):
        bind_socket(path, mode=0o600)
    assert os.path.lexists(path)
    assert [p.name for p in run.iterdir()] == ["s"]


def test_the_limit_of_a_path_is_told_and_reached(run: Path) -> None:
    room = 107 - len(os.fsencode(run)) - 1
    longest = run / ("x" * room)
    bound = bind_socket(longest, mode=0o600)
    assert answers(longest)
    bound.close()
    with pytest.raises(ConfigInvalid, match="107 bytes, this one has 108"):
        bind_socket(run / ("x" * (room + 1)), mode=0o600)
    assert list(run.iterdir()) == []


def test_an_unknown_group_is_told(run: Path) -> None:
    with pytest.raises(ConfigInvalid) as error:
        bind_socket(run / "s", mode=0o660, group="no-such-group-here")
    assert error.value.field == "listen.socket_group"
    assert list(run.iterdir()) == []


def test_the_fallback_directory_must_be_private(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The rule is for /tmp/cachd-<uid>: take a uid that nobody has here.
    uid = 4_000_000 + os.getpid()
    directory = Path(f"/tmp/cachd-{uid}")
    assert not os.path.lexists(directory)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    try:
        directory.symlink_to(run)
        with pytest.raises(ConfigInvalid):
            prepare_directory(directory)
        directory.unlink()
        directory.mkdir(mode=0o700)
        with pytest.raises(ConfigInvalid, match="others own it"):
            prepare_directory(directory)
        directory.rmdir()
        monkeypatch.setattr(os, "getuid", lambda: uid)
        with pytest.raises(ConfigInvalid, match="others own it"):
            # Made by root here, so that it is not that uid's; its mode is right all the same.
            prepare_directory(directory)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    finally:
        if directory.is_symlink():
            directory.unlink()
        elif directory.exists():
            directory.rmdir()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("[::1]:9000", ("::1", 9000)),
        (":9000", (None, 9000)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses(address: str, expected: tuple[str | None, int]) -> None:
    assert parse_address(address, "f") == expected


@pytest.mark.parametrize("address", ["9000", "::1:9000", "h:", "h:x", "h:65536", "h:٣", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigInvalid) as error:
        parse_address(address, "listen.health_address")
    assert error.value.field == "listen.health_address"


def test_a_directory_of_somebody_else_is_named_with_the_option(run: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a directory of somebody else needs root")
    run.chmod(0o755)
    closed = run / "closed"
    closed.mkdir(mode=0o700)
    for path, option in ((closed / "x.sock", "--socket"), (closed / "a.sock", "--admin-socket")):
        field = f"listen.{option.removeprefix('--').replace('-', '_')}"
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigInvalid) as refused:
                bind_socket(path, mode=0o666, field=field)
            with pytest.raises(ConfigInvalid) as unmade:
                bind_socket(run / "new" / "x.sock", mode=0o666, field=field)
        finally:
            os.seteuid(0)
        assert refused.value.message == (
            f"the socket {path} can't be made by uid 65534: Permission denied"
        )
        for error in (refused.value, unmade.value):
            assert f"{option} or {field}" in error.hint
