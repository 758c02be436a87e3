"""``hf://`` at a server that behaves as the Hub does (tests/servers/hub.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
    PathUnsafe,
)
from cachd.model import Digest
from tests.servers.hub import Hub
from tests.servers.repositories import git_name, sha256_of
from tests.sources.asking import NONE, context, paths, request, settings
from tests.sources.hubs import FILES, plan, probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READER = Credentials(token="hf_reader")
STRANGER = Credentials(token="hf_stranger")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.tokens = {"hf_stranger"}
        yield server


# --- what a URI means --------------------------------------------------------------------------


async def test_a_model_at_its_commit(hub: Hub) -> None:
    commit = hub.add("org/m", FILES).branches["main"]
    found = await plan(hub, "hf://org/m")
    assert paths(found) == {path: len(body) for path, body in FILES.items()}
    assert found.revision == commit
    assert not found.is_immutable
    assert found.is_validated
    assert not found.is_credentialed
    assert all(f"/org/m/resolve/{commit}/" in file.url for file in found.files)
    digests = {file.path: file.digest for file in found.files}
    weights = FILES["model.safetensors"]
    assert digests["model.safetensors"] == Digest(algorithm="sha256", value=sha256_of(weights))
    assert digests["config.json"] == Digest(algorithm="git-sha1", value=git_name(b"{}"))
    assert found.metadata["name"] == "org/m"
    assert found.metadata["author"] == "org"
    assert found.metadata["commit"] == commit
    assert found.metadata["property.license"] == "apache-2.0"


async def test_revisions(hub: Hub) -> None:
    repository = hub.add("org/m", {"a": b"1"})
    first = repository.branches["main"]
    second = repository.commit({"a": b"2"}, "dev")
    third = repository.commit({"a": b"3"}, "refs/pr/1")
    fourth = repository.commit({"a": b"4"}, "feature/x")
    for text, commit in (
        ("", first),
        (":main", first),
        (":dev", second),
        (":refs/pr/1", third),
        (":refs/pr/1/a", third),
        (":feature%2Fx", fourth),
        (f":{second}", second),
    ):
        found = await plan(hub, f"hf://org/m{text}")
        assert found.revision == commit, text
        assert found.is_immutable == (text == f":{second}")
    repository.branches["main"] = second
    assert (await plan(hub, "hf://org/m")).revision == second


async def test_paths_below_a_model(hub: Hub) -> None:
    hub.add("org/m", FILES)
    found = await plan(hub, "hf://org/m/onnx")
    assert paths(found) == {"model.onnx": 4, "fp16/model.onnx": 4}
    assert paths(await plan(hub, "hf://org/m:main/onnx/")) == paths(found)
    one = await plan(hub, "hf://org/m/onnx/fp16/model.onnx", allow=("*.json",))
    assert paths(one) == {"model.onnx": 4}
    assert paths(await plan(hub, "hf://org/m/config.json")) == {"config.json": 2}
    with pytest.raises(NotFound, match=r"No model found in hf://org/m/onn$"):
        await plan(hub, "hf://org/m/onn")


async def test_patterns_and_no_unpacking(hub: Hub) -> None:
    hub.add("org/m", {"model.tar.gz": b"x", "a.json": b"{}", "b/c.json": b"{}"})
    found = await plan(hub, "hf://org/m", allow=("*.json",), ignore=("b/*",))
    assert paths(found) == {"a.json": 2}
    assert (await plan(hub, "hf://org/m", allow=("*.gz",))).unpack == ""
    with pytest.raises(NotFound, match="No model found") as caught:
        await plan(hub, "hf://org/m", allow=("*.onnx",))
    assert "patterns" in caught.value.hint


async def test_listings_in_pages(hub: Hub) -> None:
    files = {f"d{n % 7}/f{n:03}.json": b"x" for n in range(100)}
    hub.add("org/m", files)
    hub.page = 9
    assert paths(await plan(hub, "hf://org/m")).keys() == files.keys()
    trees = [seen for seen in hub.seen if "/tree/" in seen.target]
    assert len(trees) == 12


async def test_a_hub_that_lists_in_a_circle(hub: Hub) -> None:
    hub.add("org/m", FILES)
    hub.page = 0
    with pytest.raises(OriginError, match="again"):
        await plan(hub, "hf://org/m")


async def test_datasets(hub: Hub) -> None:
    hub.add("datasets/org/d", {"train.csv": b"1,2"})
    found = await plan(hub, "hf://datasets/org/d")
    assert found.files[0].url.startswith(f"{hub.url}/datasets/org/d/resolve/")
    await probe(hub, "hf://datasets/org/d", "train.csv")


async def test_a_repository_that_was_renamed(hub: Hub) -> None:
    commit = hub.add("new/m", FILES).branches["main"]
    hub.add("old/m", {}, moved="new/m")
    found = await plan(hub, "hf://old/m")
    assert found.revision == commit
    assert found.metadata["name"] == "new/m"
    await probe(hub, "hf://old/m", "config.json")


async def test_names_that_cant_be_paths(hub: Hub) -> None:
    hub.add("org/m", {"../x": b"1", "ok.json": b"{}", "a b?#%é.json": b"{}"})
    with pytest.raises(PathUnsafe):
        await plan(hub, "hf://org/m")
    found = await plan(hub, "hf://org/m", ignore=("..*",))
    assert paths(found) == {"ok.json": 2, "a b?#%é.json": 2}
    await probe(hub, "hf://org/m", "a b?#%é.json")


async def test_nonsense_is_no_plan(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/m", FILES)
    answers: dict[str, bytes] = {}
    act = hub.act

    def lie(call: Any) -> None:
        for part, body in answers.items():
            if part in call.path:
                return call.send(200, body)
        return act(call)

    monkeypatch.setattr(hub, "act", lie)
    for part, body, error in (
        ("/revision/", b"<html>", OriginError),
        ("/revision/", b"[]", OriginError),
        ("/revision/", b'{"sha": "main"}', OriginError),
        ("/tree/", b"{}", OriginError),
        ("/tree/", b'["a"]', OriginError),
        ("/tree/", b'[{"type": "file", "size": 1}]', ContentError),
        ("/tree/", b'[{"type": "file", "size": -1, "path": "a"}]', ContentError),
        ("/tree/", b'[{"type": "file", "size": true, "path": "a"}]', ContentError),
        ("/tree/", b'[{"type": "file", "size": 1, "path": ""}]', PathUnsafe),
    ):
        answers.clear()
        answers[part] = body
        with pytest.raises(error):
            await plan(hub, "hf://org/m")


# --- who may -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "credentials", "error", "words"),
    [
        ("hf://org/none", NONE, CredentialsMissing, "there is no org/none, or a caller without"),
        ("hf://org/none", READER, NotFound, "there is no org/none, or the token that was sent"),
        ("hf://org/private", NONE, CredentialsMissing, "there is no org/private, or"),
        ("hf://org/private", STRANGER, NotFound, "there is no org/private, or"),
        ("hf://org/m", Credentials(token="hf_bad"), CredentialsInvalid, "is refused"),
        ("hf://org/m:none", NONE, NotFound, "no revision 'none'.*RevisionNotFound"),
        ("hf://org/disabled", READER, AccessError, "disabled"),
    ],
)
async def test_refusals(
    hub: Hub, uri: str, credentials: Credentials, error: type[CachdError], words: str
) -> None:
    hub.add("org/m", FILES)
    hub.add("org/private", FILES, private=True, readers={"hf_reader"})
    hub.add("org/disabled", FILES, disabled=True, readers={"hf_reader"})
    with pytest.raises(CachdError, match=words) as caught:
        await plan(hub, uri, credentials)
    assert type(caught.value) is error
    assert caught.value.hint
    assert "hf_" not in str(caught.value.to_wire()).replace("HF_TOKEN", "")


async def test_a_private_repository(hub: Hub) -> None:
    hub.add("org/m", FILES, private=True, readers={"hf_reader"})
    found = await plan(hub, "hf://org/m", READER)
    assert found.is_credentialed
    assert found.auth.host == hub.url.removeprefix("http://")
    assert dict(found.auth.headers) == {"Authorization": "Bearer hf_reader"}
    await probe(hub, "hf://org/m", "model.safetensors", READER)


async def test_a_gated_repository_lists_and_isnt_read(hub: Hub) -> None:
    hub.add("org/m", FILES, gated=True, readers={"hf_reader"})
    await plan(hub, "hf://org/m")
    with pytest.raises(CredentialsMissing, match="org/m is gated, and a caller without") as caught:
        await probe(hub, "hf://org/m", "config.json")
    assert f"{hub.url}/org/m" in caught.value.hint
    with pytest.raises(AccessError, match="org/m is gated, and the token that was sent") as refused:
        await probe(hub, "hf://org/m", "config.json", STRANGER)
    assert refused.value.detail == {"status": 403, "origin_code": "GatedRepo"}
    await probe(hub, "hf://org/m", "config.json", READER)


async def test_a_probe_reads_nothing_and_stays_at_the_hub(hub: Hub) -> None:
    hub.add("org/m", FILES)
    hub.store.seen.clear()
    await probe(hub, "hf://org/m", "model.safetensors")
    await probe(hub, "hf://org/m/onnx", "fp16/model.onnx")
    await probe(hub, "hf://org/m/onnx/model.onnx", "model.onnx")
    assert not hub.store.seen
    with pytest.raises(NotFound, match="no longer"):
        await probe(hub, "hf://org/m", "gone.json")


async def test_headers_for_the_hubs_host_beat_the_token(hub: Hub) -> None:
    hub.add("org/m", FILES, private=True, readers={"hf_reader"})
    given = (("127.0.0.1", (("Authorization", "Bearer hf_reader"),)),)
    found = await plan(hub, "hf://org/m", Credentials(token="hf_bad", headers=given))
    assert dict(found.auth.headers) == {"Authorization": "Bearer hf_reader"}
    with pytest.raises(CredentialsInvalid, match="line break") as caught:
        await plan(hub, "hf://org/m", Credentials(token="hf_a\nX-Evil: 1"))
    assert "Evil" not in str(caught.value.to_wire())


async def test_the_daemons_own_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/m", FILES, private=True, readers={"hf_one", "hf_two"})
    monkeypatch.setenv("HF_TOKEN", "hf_one\n")
    found = await plan(hub, "hf://org/m", identity="daemon")
    assert dict(found.auth.headers) == {"Authorization": "Bearer hf_one"}
    file = tmp_path / "token"
    given = settings(hf={"token_file": file})
    source, asked = request("hf://org/m", NONE, given=given, identity="daemon", endpoint=hub.url)
    for token in ("hf_two", "hf_three"):
        file.write_text(f"{token}\n")
        auth = await source.authorize(asked, context(given))
        assert dict(auth.headers) == {"Authorization": f"Bearer {token}"}
    with pytest.raises(CredentialsInvalid, match=r"the daemon's token \(sources.hf.token_file\)"):
        await source.resolve(asked, context(given))
    file.unlink()
    with pytest.raises(CachdError, match=r"can't read sources\.hf\.token_file"):
        await source.resolve(asked, context(given))
    with pytest.raises(CredentialsMissing):
        await plan(hub, "hf://org/m", identity="anonymous")


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"RateLimit": '"api";r=0;t=55'}, 55),
        (429, {"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 7),
        (429, {"RateLimit": '"pages";r=3;t=55'}, None),
        (503, {"Retry-After": "9"}, 9),
        (503, {}, None),
    ],
)
async def test_a_busy_hub_says_how_long(
    hub: Hub, status: int, headers: dict[str, str], wait: float | None
) -> None:
    hub.add("org/m", FILES)
    hub.next.append((status, headers))
    with pytest.raises(OriginBusy, match=str(status)) as caught:
        await plan(hub, "hf://org/m")
    assert caught.value.retry_after == wait
    hub.next.append((status, headers))
    with pytest.raises(OriginBusy):
        await probe(hub, "hf://org/m", "config.json")
