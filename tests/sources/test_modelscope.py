"""``modelscope://`` at a server that behaves as ModelScope does (tests/servers/modelscope.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
)
from cachd.model import Digest
from cachd.sources import modelscope
from tests.servers.modelscope import ModelScope
from tests.servers.repositories import sha256_of
from tests.sources.asking import NONE, paths
from tests.sources.hubs import FILES, plan, probe

if TYPE_CHECKING:
    from collections.abc import Iterator

READER = Credentials(token="ms-reader")
STRANGER = Credentials(token="ms-stranger")


@pytest.fixture
def hub() -> Iterator[ModelScope]:
    with ModelScope() as server:
        server.tokens = {"ms-stranger"}
        yield server


async def test_a_model_each_file_at_the_commit_that_changed_it(hub: ModelScope) -> None:
    repository = hub.add("org/m", FILES)
    first = repository.branches["master"]
    second = repository.commit({**FILES, "config.json": b'{"a": 1}'}, "master")
    found = await plan(hub, "modelscope://org/m")
    assert paths(found) == {**{p: len(b) for p, b in FILES.items()}, "config.json": 8}
    urls = {file.path: file.url for file in found.files}
    assert f"Revision={second}&FilePath=config.json" in urls["config.json"]
    assert f"Revision={first}&FilePath=onnx%2Fmodel.onnx" in urls["onnx/model.onnx"]
    weights = next(file for file in found.files if file.path == "model.safetensors")
    assert weights.digest == Digest(algorithm="sha256", value=sha256_of(FILES[weights.path]))
    assert found.is_validated
    assert found.metadata["name"] == "org/m"
    pinned = await plan(hub, f"modelscope://org/m:{first}")
    assert pinned.is_immutable
    assert pinned.revision != found.revision
    again = await plan(hub, "modelscope://org/m:master")
    assert again.revision == found.revision


async def test_paths_and_patterns(hub: ModelScope) -> None:
    hub.add("org/m", FILES)
    below = await plan(hub, "modelscope://org/m/onnx")
    assert paths(below) == {"model.onnx": 4, "fp16/model.onnx": 4}
    one = await plan(hub, "modelscope://org/m/onnx/fp16/model.onnx", allow=("*.json",))
    assert paths(one) == {"model.onnx": 4}
    found = await plan(hub, "modelscope://org/m", allow=("*.json", "*.onnx"), ignore=("onnx/*",))
    assert paths(found) == {"config.json": 2, "onnx-old/model.onnx": 7}
    with pytest.raises(NotFound, match="No model found in modelscope://org/m/onn"):
        await plan(hub, "modelscope://org/m/onn")


async def test_a_listing_that_is_cut_off_is_taken_apart(
    hub: ModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelscope, "_LISTED_MOST", 10)
    hub.most = 10
    files = {f"a/b{n % 3}/f{n}": b"x" for n in range(20)} | {f"t{n}": b"y" for n in range(5)}
    hub.add("org/m", files)
    assert paths(await plan(hub, "modelscope://org/m")).keys() == files.keys()
    hub.add("org/flat", {f"f{n}": b"x" for n in range(11)})
    with pytest.raises(ContentError, match="doesn't list all"):
        await plan(hub, "modelscope://org/flat")


@pytest.mark.parametrize(
    ("uri", "credentials", "error", "words"),
    [
        ("modelscope://org/none", NONE, NotFound, "there is no org/none, or a caller without"),
        ("modelscope://org/m:none", NONE, NotFound, "no revision 'none'"),
        ("modelscope://org/private", NONE, CredentialsMissing, "can't be read without a token"),
        ("modelscope://org/private", STRANGER, AccessError, "the token that was sent may not"),
        ("modelscope://org/m", Credentials(token="ms-bad"), CredentialsInvalid, "is refused"),
    ],
)
async def test_refusals(
    hub: ModelScope, uri: str, credentials: Credentials, error: type[CachdError], words: str
) -> None:
    hub.add("org/m", FILES)
    hub.add("org/private", FILES, private=True, readers={"ms-reader"})
    with pytest.raises(CachdError, match=words) as caught:
        await plan(hub, uri, credentials)
    assert type(caught.value) is error
    assert caught.value.hint
    assert "ms-" not in str(caught.value.to_wire())


async def test_who_may_read(hub: ModelScope) -> None:
    hub.add("org/m", FILES, private=True, readers={"ms-reader"})
    hub.store.seen.clear()
    for path in ("model.safetensors", "config.json", "__init__.py"):
        await probe(hub, "modelscope://org/m", path, READER)
    assert not hub.store.seen
    with pytest.raises(AccessError):
        await probe(hub, "modelscope://org/m", "model.safetensors", STRANGER)
    with pytest.raises(NotFound, match="no longer"):
        await probe(hub, "modelscope://org/m", "gone", READER)
    found = await plan(hub, "modelscope://org/m", READER)
    assert found.is_credentialed
    assert dict(found.auth.headers)["Authorization"] == "Bearer ms-reader"


async def test_answers_that_are_none(hub: ModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    body = [b""]
    monkeypatch.setattr(hub, "act", lambda call: call.send(200, body[0]))
    for text, error in (
        (b"<html>", OriginError),
        (b"[]", OriginError),
        (b'{"Code": 200, "Data": null}', OriginError),
        (b'{"Code": 200, "Data": {"Files": null}}', NotFound),
        (b'{"Code": 200, "Data": {"Files": {"a": 1}}}', OriginError),
        (b'{"Code": 200, "Data": {"Files": ["a"]}}', OriginError),
        (b'{"Code": 200, "Data": {"Files": [{"Path": 1}]}}', ContentError),
        (b'{"Code": 200, "Data": {"Files": [{"Path": "a", "Size": "1"}]}}', ContentError),
        (b'{"Code": 403, "Success": false, "Message": "no"}', CredentialsMissing),
        (b'{"Code": 10010, "Success": false, "Message": "no"}', OriginError),
    ):
        body[0] = text
        with pytest.raises(error):
            await plan(hub, "modelscope://org/m")
    hub.next.append((429, {"Retry-After": "11"}))
    with pytest.raises(OriginBusy) as caught:
        await plan(hub, "modelscope://org/m")
    assert caught.value.retry_after == 11
