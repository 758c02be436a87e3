"""Descriptors over the socket, from a daemon that behaves and from ones that don't."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.fake_files import FakeFiles, Trouble
from tests.disk import tree_of
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Run
    from tests.cli.fake_daemon import FakeDaemon

    Serve = Callable[..., FakeFiles]

URI = "s3://bucket/model"
FILES = {"config.json": b"{}", "a/b/weights.bin": os.urandom(3_000_000), "empty": b""}


@pytest.fixture
def serve(daemon: FakeDaemon) -> Iterator[Serve]:
    made: list[FakeFiles] = []

    def start(trouble: Trouble = "") -> FakeFiles:
        model = daemon.add(URI, FILES)
        daemon.script.hide_path = True
        made.append(FakeFiles(daemon.socket.with_name("files.sock"), model.tree, trouble))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_come_as_descriptors_where_the_cache_is_hidden(
    daemon: FakeDaemon, serve: Serve, run: Run, tmp_path: Path
) -> None:
    files = serve()
    before = open_descriptors()
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--verify", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["materialised"]["way"] == "descriptor"
    assert outcome.json["materialised"]["verified"] is True
    assert tree_of(tmp_path / "d") == FILES
    assert not any("/files/" in path for _, path in daemon.script.requests)
    asked = {request["path"] for request in files.requests}
    assert asked == set(FILES)
    (model,) = daemon.models.values()
    assert {(r["key"], r["revision"], r["lease"]) for r in files.requests} == {
        (model.key, model.revision, "lease-0")
    }
    # A connection a thread, and none of them, nor any descriptor, is left.
    assert files.connections <= 5
    eventually(lambda: open_descriptors() <= before + files.connections)


def test_a_cache_that_can_be_read_is_not_asked_for_descriptors(
    daemon: FakeDaemon, serve: Serve, run: Run, tmp_path: Path
) -> None:
    files = serve()
    daemon.script.hide_path = False
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--json")
    assert outcome.json["materialised"]["way"] in ("copy", "reflink")
    assert files.requests == []


@pytest.mark.parametrize(
    "trouble", ["problem", "size", "writable", "none", "closes", "nonsense", "directory"]
)
def test_whatever_is_wrong_with_them_the_files_are_streamed(
    trouble: Trouble, daemon: FakeDaemon, serve: Serve, run: Run, tmp_path: Path
) -> None:
    files = serve(trouble)
    before = open_descriptors()
    outcome = run("pull", URI, tmp_path / "d", "--socket", daemon.socket, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["materialised"]["way"] == "stream"
    assert tree_of(tmp_path / "d") == FILES
    assert files.requests
    # What came with a wrong answer is closed too; the other ends are the test's own server's.
    eventually(lambda: open_descriptors() <= before + files.connections)


def test_the_token_goes_along(
    daemon: FakeDaemon,
    serve: Serve,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = serve()
    (tmp_path / "token").write_text("pods-token")
    monkeypatch.setenv("CACHD_TOKEN_FILE", str(tmp_path / "token"))
    assert run("pull", URI, tmp_path / "d", "--socket", daemon.socket).code == 0
    assert {request["token"] for request in files.requests} == {"pods-token"}


def test_it_says_which_way(daemon: FakeDaemon, serve: Serve, run: Run, tmp_path: Path) -> None:
    serve()
    assert "; descriptor in " in run("pull", URI, tmp_path / "d", "--socket", daemon.socket).out
