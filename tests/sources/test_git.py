"""Git servers: refs, listings, LFS, passes, errors. A real ``git http-backend``, pushed to by the
real client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
    PathUnsafe,
)
from cachd.model import Digest, Plan
from tests.servers.git import GitServer, git_server
from tests.sources.asking import NOBODY, context, request, resolve, settings

WEIGHTS = bytes(range(256)) * 500
ME = Credentials(username="me", password="sesame")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with git_server(tmp_path_factory.mktemp("git")) as one:
        fill(one)
        yield one


@pytest.fixture(autouse=True)
def _forget(server: GitServer) -> Iterator[None]:
    server.seen.clear()
    yield
    server.status.clear()
    server.moved.clear()
    server.has_lfs = True


def fill(server: GitServer) -> None:
    server.make("plain.git")
    server.commit("plain.git", {"config.json": b"{}", "sub/a.txt": b"first", "sub/b.bin": b"b"})
    copy = server.folder / "work/plain.git"
    server.git(copy, "tag", "-a", "-m", "x", "v1")
    server.git(copy, "push", "-q", "origin", "v1", "HEAD:feature/x")
    server.commit("plain.git", {"sub/a.txt": b"second", "sub/c.txt": b"c" * 5000})
    server.make("lfs.git", is_private=True)
    server.track("lfs.git", "*.bin")
    links = {"same.bin": "w/model.bin", "w/up.txt": "../README"}
    server.commit("lfs.git", {"w/model.bin": WEIGHTS, "README": b"hello"}, links=links)
    server.make("empty.git")
    server.make("unfiltered.git", allows_filter=False)
    server.commit("unfiltered.git", {"a": b"a" * 3000})


def rules(plan: Plan) -> dict[str, Any]:
    return {rule.into or "pack": rule.detail or rule.file for rule in plan.rules}


def head(server: GitServer, name: str, ref: str = "HEAD") -> str:
    return server.git(server.folder / "work" / name, "rev-parse", f"{ref}^{{commit}}")


async def test_a_commit_is_one_pack(server: GitServer) -> None:
    plan = await resolve(f"{server.url}/plain.git", NOBODY)
    commit = head(server, "plain.git")
    assert (plan.revision, plan.unpack, plan.is_immutable) == (commit, "rules", False)
    (file,) = plan.files
    assert (file.url, file.size, file.ranges) == (
        f"{server.url}/plain.git/git-upload-pack", None, False,
    )  # fmt: skip
    assert f"want {commit}\n" in file.post
    assert "filter" not in file.post
    assert plan.metadata["commit"] == commit
    assert not plan.is_credentialed
    assert plan.is_read_proven
    # The listing came without the contents.
    asked = [a.body for a in server.asked("front", "git-upload-pack")]
    assert b"filter blob:limit=1024" in asked[-1]


async def test_refs(server: GitServer) -> None:
    async def commit_of(ref: str) -> str:
        return (await resolve(f"{server.url}/plain.git@{ref}", NOBODY)).revision

    first, last = head(server, "plain.git", "v1"), head(server, "plain.git")
    assert await commit_of("main") == await commit_of("refs%2Fheads%2Fmain") == last
    assert await commit_of("v1") == await commit_of("tags%2Fv1") == first
    assert await commit_of("feature%2Fx") == first
    assert (await resolve(f"{server.url}/plain.git?ref=feature/x", NOBODY)).revision == first
    plan = await resolve(f"{server.url}/plain.git@{first.upper()}", NOBODY)
    assert (plan.revision, plan.is_immutable) == (first, True)
    for ref in ("nothing", first[:10], "mai"):
        with pytest.raises(NotFound, match="no branch and no tag"):
            await commit_of(ref)


async def test_the_listing_is_remembered_and_the_server_asked(server: GitServer) -> None:
    source, asked = request(f"{server.url}/plain.git", NOBODY)
    for _ in range(2):
        await source.resolve(asked, context())
    assert len(server.asked("front", "info/refs")) == 2
    assert len(server.asked("front", "git-upload-pack")) == 3


async def test_paths_and_patterns(server: GitServer) -> None:
    repository = f"{server.url}/plain.git@main"
    plan = await resolve(f"{repository}/sub", NOBODY, allow=("*.txt",), ignore=("c*",))
    detail = rules(plan)["pack"]
    assert detail == {
        "commit": head(server, "plain.git"), "path": "sub", "allow": ["*.txt"], "ignore": ["c*"],
        "skip": [],
    }  # fmt: skip
    # A file that is named bypasses patterns.
    plan = await resolve(f"{repository}/sub/b.bin", NOBODY, allow=("*.txt",))
    assert rules(plan)["pack"]["allow"] == []
    with pytest.raises(NotFound, match=r"No model found in .*patterns"):
        await resolve(repository, NOBODY, allow=("*.gguf",))
    with pytest.raises(NotFound, match="there is no 'sub/nothing' in the commit"):
        await resolve(f"{repository}/sub/nothing", NOBODY)


async def test_what_is_in_lfs_comes_from_there(server: GitServer) -> None:
    plan = await resolve(f"{server.url}/lfs.git", ME)
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    planned, pack = plan.files
    assert planned.url == f"{server.url}/lfs.git/info/lfs/objects/{oid}"
    assert (planned.size, planned.digest) == (
        len(WEIGHTS), Digest(algorithm="sha256", value=oid),
    )  # fmt: skip
    assert pack.path == "pack"
    found = rules(plan)
    assert found["w/model.bin"] == found["same.bin"] == f"lfs/{oid}"
    assert found["pack"]["skip"] == ["same.bin", "w/model.bin"]
    (signed,) = plan.auth.signed
    assert (signed.planned, signed.url) == (planned.url, f"{server.storage}/{oid}?token=link-1")
    assert signed.headers == (("X-Link", "link-1"),)
    assert plan.auth.expires is not None
    assert plan.auth.host == server.host
    assert plan.is_credentialed
    # Only what is wanted: then there is no pack, or nothing of LFS.
    only = await resolve(f"{server.url}/lfs.git", ME, allow=("*.bin",))
    assert [f.path for f in only.files] == [f"lfs/{oid}"]
    none = await resolve(f"{server.url}/lfs.git", ME, ignore=("*.bin",))
    assert [f.path for f in none.files] == ["pack"]
    assert none.auth.signed == ()


async def test_links_into_lfs_are_renewed(server: GitServer) -> None:
    source, asked = request(f"{server.url}/lfs.git", ME)
    before = await source.resolve(asked, context())
    server.expire()
    renewed = await source.authorize(asked, context())
    assert renewed.signed[0].planned == before.auth.signed[0].planned
    assert renewed.signed[0].url != before.auth.signed[0].url
    assert renewed.headers == before.auth.headers


async def test_an_object_that_was_never_pushed(server: GitServer) -> None:
    ((oid, data),) = server.objects.items()
    del server.objects[oid]
    try:
        with pytest.raises(NotFound, match=f"LFS object {oid[:12]}"):
            await resolve(f"{server.url}/lfs.git", ME)
    finally:
        server.objects[oid] = data
    server.has_lfs = False
    with pytest.raises(NotFound, match="no LFS server"):
        await resolve(f"{server.url}/lfs.git", ME)


async def test_a_server_without_partial_clone(server: GitServer) -> None:
    plan = await resolve(f"{server.url}/unfiltered.git", NOBODY)
    assert [f.path for f in plan.files] == ["pack"]
    assert b"filter" not in server.asked("front", "git-upload-pack")[-1].body
    given = settings(git={"max_listing": 100})
    with pytest.raises(ContentError, match="without partial clone"):
        await resolve(f"{server.url}/unfiltered.git", NOBODY, given=given)


async def test_hostile_names_are_refused(server: GitServer) -> None:
    server.make("hostile.git")
    server.put_raw("hostile.git", [".."])
    with pytest.raises(PathUnsafe):
        await resolve(f"{server.url}/hostile.git", NOBODY)


# --- passes and errors -----------------------------------------------------------------------


async def test_passes(server: GitServer, tmp_path: Path) -> None:
    private = f"{server.url}/lfs.git"
    with pytest.raises(CredentialsMissing, match="private, or not found"):
        await resolve(private, NOBODY)
    with pytest.raises(CredentialsInvalid, match="the caller's user and password") as caught:
        await resolve(private, Credentials(username="me", password="swordfish"))
    assert "swordfish" not in caught.value.message + (caught.value.hint or "")
    # The URL's user beats the variable.
    source, asked = request(private.replace("http://", "http://me:wrong@"), ME)
    asked = request(private, Credentials(query="username=me", username="x", password="sesame"))[1]
    assert (await source.resolve(asked, context())).is_credentialed
    # The daemon's own goes to its host alone.
    (tmp_path / "password").write_text("sesame\n")
    own = {"username": "me", "password_file": tmp_path / "password"}
    given = settings(git={"host": server.host, **own})
    assert (await resolve(private, NOBODY, given=given, identity="daemon")).is_credentialed
    given = settings(git={"host": "elsewhere.example", **own})
    with pytest.raises(CredentialsMissing):
        await resolve(private, NOBODY, given=given, identity="daemon")


async def test_a_pass_does_not_follow_to_another_host(server: GitServer) -> None:
    # Another port is another host.
    other = server.storage
    server.moved["/gone.git"] = f"{other}/lfs.git"
    server.moved["/renamed.git"] = f"{server.url}/lfs.git"
    plan = await resolve(f"{server.url}/renamed.git", ME)
    assert plan.files[-1].url == f"{server.url}/lfs.git/git-upload-pack"
    with pytest.raises((OriginError, AccessError, NotFound)):
        await resolve(f"{server.url}/gone.git", ME)
    assert server.asked("store")
    assert all("authorization" not in a.headers for a in server.asked("store"))


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (403, AccessError, "access denied"),
        (404, NotFound, "was not found"),
        (429, OriginBusy, "busy"),
        (418, OriginError, "418"),
    ],
)
async def test_what_a_server_answers(
    server: GitServer, status: int, error: type[Exception], says: str
) -> None:
    server.status["info/refs"] = status
    with pytest.raises(error, match=says):
        await resolve(f"{server.url}/plain.git", NOBODY)


async def test_nothing_there(server: GitServer) -> None:
    with pytest.raises(NotFound, match="was not found"):
        await resolve(f"{server.url}/nothing.git", NOBODY)
    with pytest.raises(NotFound, match="the repository is empty"):
        await resolve(f"{server.url}/empty.git", NOBODY)
    with pytest.raises((OriginError, NotFound)):
        await resolve(f"git+{server.url}/nowhere", NOBODY)
