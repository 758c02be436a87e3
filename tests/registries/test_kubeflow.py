"""Which version and which artifact a name of Kubeflow's registry means."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
)
from tests.registries.asking import name
from tests.servers.modelregistry import ModelRegistry
from tests.servers.origin import serve

pytestmark = pytest.mark.asyncio


async def test_the_newest_by_time_among_live_ones(registry: ModelRegistry):
    registry.page = 2
    for number in range(1, 8):
        registry.add("iris", f"v{number}", f"s3://b/{number}")
    # Numbers, not texts; the order of ids says nothing.
    registry.version("iris", "v2")["createTimeSinceEpoch"] = "99999999999999"
    registry.version("iris", "v3")["createTimeSinceEpoch"] = "999999999"
    assert (await name("model-registry://iris", registry=registry.url)).uri == "s3://b/2"
    registry.version("iris", "v2")["state"] = "ARCHIVED"
    assert (await name("model-registry://iris", registry=registry.url)).uri == "s3://b/7"
    pages = [path for _, path, _ in registry.asked if "nextPageToken" in path]
    assert pages


async def test_archived_versions(registry: ModelRegistry):
    registry.add("iris", "v1", "s3://b/1")
    registry.version("iris", "v1")["state"] = "ARCHIVED"
    for uri, said in (("iris", "all 1 versions"), ("iris/v1", "is archived")):
        with pytest.raises(NotFound, match=said):
            await name(f"model-registry://{uri}", registry=registry.url)
    rule = {"name": "r", "kind": "model-registry", "url": registry.url, "allow_archived": True}
    assert (await name("model-registry://iris/v1", rule)).uri == "s3://b/1"
    with pytest.raises(NotFound, match="all 1 versions"):
        await name("model-registry://iris", rule)


async def test_which_artifact(registry: ModelRegistry):
    registry.add("iris", "v1", "s3://b/old")
    registry.add("iris", "v1", "s3://b/new")
    registry.add("iris", "v1", "s3://b/doc", artifactType="doc-artifact")
    registry.add("iris", "v1", "s3://b/gone", state="DELETED")
    registry.add("iris", "v1", "s3://b/soon", state="PENDING")
    assert (await name("model-registry://iris", registry=registry.url)).uri == "s3://b/new"
    registry.add("docs", "v1", "s3://b/doc", artifactType="doc-artifact")
    with pytest.raises(NotFound, match="no model artifact found"):
        await name("model-registry://docs", registry=registry.url)
    registry.add("soon", "v1", "s3://b/soon", state="PENDING")
    with pytest.raises(NotFound, match="PENDING"):
        await name("model-registry://soon", registry=registry.url)


async def test_an_artifact_by_storage_key(registry: ModelRegistry):
    registry.add("iris", "v1", None, storageKey="minio", storagePath="models/iris")
    with pytest.raises(NotFound, match="without a URI"):
        await name("model-registry://iris", registry=registry.url)
    found = await name("model-registry://iris", registry=registry.url, root="s3://bucket")
    assert found.uri == "s3://bucket/models/iris"


@pytest.mark.parametrize("uri", ["iris", "iris/v1", "other/v1"])
async def test_nothing_there(registry: ModelRegistry, uri: str):
    registry.create(registry.models, {"name": "iris"})
    with pytest.raises(NotFound, match=r"no versions|no version 'v1'|no model 'other'"):
        await name(f"model-registry://{uri}", registry=registry.url)


async def test_passes(registry: ModelRegistry, tmp_path: Path):
    registry.add("iris", "v1", "s3://b/1")
    registry.wants_token("good")
    uri, url = "model-registry://iris", registry.url
    with pytest.raises(CredentialsMissing, match="no credentials"):
        await name(uri, registry=url)
    with pytest.raises(CredentialsInvalid, match="the caller's registry_token") as refused:
        await name(uri, registry=url, credentials=Credentials(registry_token="bad-1"))
    assert "bad-1" not in str(refused.value.to_wire())
    found = await name(uri, registry=url, credentials=Credentials(registry_token="good"))
    assert found.is_credentialed
    (tmp_path / "token").write_text("good\n")
    rule = {"name": "r", "kind": "model-registry", "url": url,
            "token_file": str(tmp_path / "token")}  # fmt: skip
    assert (await name(uri, rule, identity="daemon")).is_credentialed
    with pytest.raises(CredentialsMissing):
        await name(uri, rule)
    registry.wanted = {"kubeflow-userid": "ada@example.com"}
    await name(uri, registry=url, credentials=Credentials(registry_user="ada@example.com"))
    registry.wants_password("ada", "secret")
    given = Credentials(registry_username="ada", registry_password="secret")
    await name(uri, registry=url, credentials=given)


@pytest.mark.parametrize(
    ("status", "error"), [(403, AccessError), (500, OriginError), (503, OriginBusy)]
)
async def test_what_it_answers(registry: ModelRegistry, status: int, error: type[Exception]):
    registry.status = status
    with pytest.raises(error, match=str(status)):
        await name("model-registry://iris", registry=registry.url, max_attempts=1)


@pytest.mark.parametrize("body", ["{oops", "<html>", '"text"', '{"message": ["\\ud800"]}'])
async def test_refusals_in_odd_words(body: str):
    async def gateway(_: web.BaseRequest) -> web.Response:
        return web.Response(status=401, text=body)

    async with serve(gateway) as front:
        with pytest.raises(CredentialsMissing, match="401"):
            await name("model-registry://iris", registry=front.url)


async def test_what_is_told_of_a_model(registry: ModelRegistry):
    row = registry.add("iris", "v1", "s3://b/1", modelFormatName="onnx", modelFormatVersion="1")
    row["customProperties"] = {
        "stage": {"string_value": "prod", "metadataType": "MetadataStringValue"},
        "layers": {"int_value": "12", "metadataType": "MetadataIntValue"},
        "ok": {"bool_value": True, "metadataType": "MetadataBoolValue"},
        "odd": "x",
    }
    registry.version("iris", "v1").update(author="Ada", description="an\x1b[31mdescription")
    found = await name("model-registry://iris", registry=registry.url)
    assert found.metadata == {
        "name": "iris",
        "version": "v1",
        "author": "Ada",
        "description": "an\ufffd[31mdescription",
        "format": "onnx",
        "format_version": "1",
        "created": "2023-11-14T22:13:22+00:00",
        "state": "LIVE",
        "property.stage": "prod",
        "property.layers": "12",
        "property.ok": "true",
        "registry": registry.url,
    }
