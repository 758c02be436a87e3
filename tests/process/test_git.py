"""Models of git repositories, end to end: packs, LFS by the real client, what moves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk import tree_of
from tests.harness import pull, running
from tests.origins.fault import pattern
from tests.servers.git import GitServer, git_server

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
WEIGHTS = pattern(9 * MIB)
LINES = b"".join(b"%d\n" % n for n in range(20_000))
FILES = {
    "config.json": b"{}",
    "a/one.txt": LINES,
    "a/two.txt": LINES + b"and more\n",
    "a/copy.txt": LINES,
    "empty": b"",
    "run.sh": b"#!/bin/sh\n",
    "ü n.txt": b"u",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with git_server(tmp_path_factory.mktemp("git")) as one:
        one.make("m.git", is_private=True)
        one.track("m.git", "*.bin")
        links = {"a/link.txt": "one.txt", "same.bin": "w/model.bin"}
        one.commit("m.git", {**FILES, "w/model.bin": WEIGHTS}, links=links)
        yield one


@pytest.fixture(autouse=True)
def _forget(server: GitServer) -> None:
    server.seen.clear()
    server.status.clear()


ME = {"GIT_USERNAME": "me", "GIT_PASSWORD": "sesame"}


def test_a_private_repository_with_lfs(tmp_path: Path, server: GitServer) -> None:
    attributes = (server.folder / "work/m.git/.gitattributes").read_bytes()
    whole = {
        **FILES,
        ".gitattributes": attributes,
        "a/link.txt": LINES,
        "same.bin": WEIGHTS,
        "w/model.bin": WEIGHTS,
    }
    with running(tmp_path) as daemon:
        refused = pull(daemon, f"{server.url}/m.git", tmp_path / "no")
        assert refused.returncode == 5
        assert "GIT_USERNAME" in refused.stderr
        done = pull(daemon, f"{server.url}/m.git", tmp_path / "out", **ME)
        assert done.returncode == 0, done.stderr
        assert tree_of(tmp_path / "out") == whole
        # Of LFS the same bytes are fetched once, whatever names them.
        puts = {a.path for a in server.asked("store") if a.method == "GET"}
        assert len(puts) == 1
        server.seen.clear()
        named = server.url.replace("http://", "http://me:ignored@")
        done = pull(daemon, f"{named}/m.git@main/w", tmp_path / "w", GIT_PASSWORD="sesame")
        assert done.returncode == 0, done.stderr
        assert tree_of(tmp_path / "w") == {"model.bin": WEIGHTS}
        assert not server.asked("store")
        for secret in ("sesame", "ignored", "link-1"):
            assert secret not in daemon.log()
        for found in tmp_path.glob("daemon*/**/*"):
            assert not found.is_file() or b"sesame" not in found.read_bytes()


def test_a_branch_that_moves_is_followed(tmp_path: Path, server: GitServer) -> None:
    server.make("moving.git")
    server.commit("moving.git", {"v": b"1"})
    uri = f"{server.url}/moving.git"
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        old = daemon.ask(uri).json()
        assert daemon.ask(uri).json()["result"] == "hit"
        commit = server.commit("moving.git", {"v": b"2"})
        new = daemon.ask(uri).json()
        assert (new["revision"], new["result"]) == (commit, "miss")
        assert (Path(new["path"]) / "v").read_bytes() == b"2"
        pinned = daemon.ask(f"{uri}@{old['revision']}").json()
        assert (Path(pinned["path"]) / "v").read_bytes() == b"1"


def test_links_into_lfs_that_expire_meanwhile(tmp_path: Path, server: GitServer) -> None:
    server.make("late.git", is_private=True)
    server.track("late.git", "*.bin")
    server.commit("late.git", {"w.bin": pattern(3 * MIB, seed=3)})
    before = server.token

    class Expiring(list):  # type: ignore[type-arg]
        def append(self, asked: object) -> None:
            super().append(asked)
            is_batch = getattr(asked, "path", "").endswith("objects/batch")
            if is_batch and server.token != before:
                return
            if getattr(asked, "server", "") == "store" and server.token == before:
                server.expire()

    server.seen = Expiring()
    with running(tmp_path) as daemon:
        done = pull(daemon, f"{server.url}/late.git", tmp_path / "out", **ME)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out/w.bin").read_bytes() == pattern(3 * MIB, seed=3)
    assert server.token != before
    assert len(server.asked("front", "objects/batch")) == 2


def test_links_that_lead_to_no_file(tmp_path: Path, server: GitServer) -> None:
    cases = {"up": "../x", "d/l": "../folder", "l": "nowhere"}
    with running(tmp_path) as daemon:
        for number, (link, to) in enumerate(cases.items()):
            name = f"links{number}.git"
            server.make(name)
            server.commit(name, {"folder/file": b"x"}, links={link: to})
            reply = daemon.ask(f"{server.url}/{name}").json()
            assert reply["code"] == "archive_invalid"
            assert f"{link!r}" in reply["detail"]
            # An ignore pattern leaves it out.
            spared = daemon.ask(f"{server.url}/{name}", ignore=[link]).json()
            assert tree_of(Path(spared["path"])) == {"folder/file": b"x"}


def test_a_submodule_is_left_out(tmp_path: Path, server: GitServer) -> None:
    server.make("outer.git")
    copy = server.work("outer.git")
    server.git(copy, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},inner")
    (copy / "file").write_bytes(b"x")
    server.git(copy, "add", "file")
    server.git(copy, "commit", "-q", "-m", "x")
    server.git(copy, "push", "-q", "origin", "HEAD:main")
    with running(tmp_path) as daemon:
        answer = daemon.ask(f"{server.url}/outer.git").json()
        assert tree_of(Path(answer["path"])) == {"file": b"x"}


def test_a_damaged_pack_is_never_published(tmp_path: Path, server: GitServer) -> None:
    server.make("broken.git")
    server.commit("broken.git", {"a": pattern(50_000)})
    with running(tmp_path, FETCH_ATTEMPTS="1") as daemon:
        daemon.ask(f"{server.url}/broken.git", allow=["nothing"])
        server.status["git-upload-pack"] = 500
        reply = daemon.ask(f"{server.url}/broken.git").json()
        assert reply["code"] == "origin_failed"
        server.status.clear()
        assert daemon.ask(f"{server.url}/broken.git").json()["result"] == "miss"
