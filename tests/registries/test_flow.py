"""A registry's name end to end: the daemon, a registry, an S3 server that checks signatures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, call, running
from tests.servers.modelregistry import ModelRegistry
from tests.servers.s3 import S3Server


def keys(server: S3Server) -> dict[str, str]:
    return {"access_key_id": server.access_key, "secret_access_key": server.secret_key}


def at(server: S3Server, registry: ModelRegistry) -> dict[str, str]:
    return {"endpoint": server.endpoint, "registry": registry.url}


def read(answer: dict[str, Any], name: str = "w.bin") -> bytes:
    return Path(answer["path"], name).read_bytes()


@pytest.fixture
def bucket(seaweed: S3Server) -> str:
    return seaweed.make_bucket({"m/1/w.bin": b"one", "m/2/w.bin": b"two", "secret/w.bin": b"s"})


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, FRESHNESS_INTERVAL="0") as one:
        yield one


def test_a_name_leads_to_its_newest_version_and_moves(
    daemon: Daemon, registry: ModelRegistry, seaweed: S3Server, bucket: str
):
    registry.add("llama", "v1", f"s3://{bucket}/m/1", modelFormatName="onnx")
    body: dict[str, Any] = {"credentials": keys(seaweed), "options": at(seaweed, registry)}
    first = daemon.ask("model-registry://llama", **body).json()
    assert (first["result"], read(first)) == ("miss", b"one")
    assert daemon.ask("model-registry://llama", **body).json()["result"] == "hit"
    registry.add("llama", "v2", f"s3://{bucket}/m/2")
    second = daemon.ask("model-registry://llama", **body).json()
    assert (second["result"], read(second)) == ("miss", b"two")
    assert second["key"] == first["key"]
    old = daemon.ask("model-registry://llama/v1", **body).json()
    assert read(old) == b"one"
    assert old["key"] != first["key"]
    # The same artifact under a new version is the same revision.
    registry.add("llama", "v3", f"s3://{bucket}/m/2")
    third = daemon.ask("model-registry://llama", **body).json()
    assert (third["result"], third["revision"]) == ("hit", second["revision"])
    assert daemon.metric("cachd_registry_asks_total", registry="other", result="named") == 5


def test_the_artifacts_own_endpoint_counts(
    daemon: Daemon, registry: ModelRegistry, seaweed: S3Server, bucket: str
):
    uri = f"s3://{bucket}/m/1?endpoint={seaweed.endpoint}&defaultRegion=us-east-1"
    registry.add("llama", "v1", uri)
    answer = daemon.ask(
        f"model-registry://{registry.host}/llama/v1",
        credentials=keys(seaweed),
        options={"endpoint": "http://127.0.0.1:1"},
    ).json()
    assert read(answer) == b"one"
    manifest = next(daemon.root.glob("snapshots/*/*/manifest.json")).read_text()
    assert f's3://{bucket}/m/1"' in manifest
    assert "defaultRegion" not in manifest


def test_who_has_no_pass_for_the_store_or_for_the_registry_gets_no_hit(
    tmp_path: Path, registry: ModelRegistry, seaweed: S3Server, bucket: str
):
    registry.wants_token("reg-token-1")
    registry.add("llama", "v1", f"s3://{bucket}/m/1")
    options = at(seaweed, registry)
    good = {**keys(seaweed), "registry_token": "reg-token-1"}
    with running(tmp_path, FRESHNESS_INTERVAL="3600") as daemon:
        uri = "model-registry://llama"
        assert daemon.ask(uri, credentials=good, options=options).json()["result"] == "miss"
        assert daemon.ask(uri, credentials=good, options=options).json()["result"] == "hit"
        no_store = {"registry_token": "reg-token-1", "access_key_id": "a", "secret_access_key": "b"}
        assert daemon.ask(uri, credentials=no_store, options=options).status == 401
        for token in ("wrong-token-2", ""):
            wrong = {**keys(seaweed), "registry_token": token}
            refused = daemon.ask(uri, credentials=wrong, options=options)
            assert refused.status == 401, refused.json()
            assert "registry" in refused.json()["detail"]
        assert "reg-token-1" not in daemon.log()


def test_a_registry_that_is_down_is_like_a_source_that_is_down(
    daemon: Daemon, registry: ModelRegistry, seaweed: S3Server, bucket: str
):
    registry.add("llama", "v1", f"s3://{bucket}/m/1")
    body: dict[str, Any] = {"credentials": keys(seaweed), "options": at(seaweed, registry)}
    first = daemon.ask("model-registry://llama", **body).json()
    registry.status = 503
    stale = daemon.ask("model-registry://llama", **body).json()
    assert (stale["result"], stale["revision"]) == ("stale", first["revision"])
    registry.status = 0


def test_what_a_registry_names_is_judged_by_the_rules(
    tmp_path: Path, registry: ModelRegistry, seaweed: S3Server, bucket: str
):
    rules = f'[{{"name": "no", "effect": "deny", "uris": ["s3://{bucket}/secret*"]}}]'
    registry.add("open", "v1", f"s3://{bucket}/m/1")
    registry.add("closed", "v1", f"s3://{bucket}/secret")
    body: dict[str, Any] = {"credentials": keys(seaweed), "options": at(seaweed, registry)}
    with running(tmp_path, FRESHNESS_INTERVAL="3600", ACCESS_RULES=rules) as daemon:
        assert daemon.ask("model-registry://open", **body).status == 200
        denied = daemon.ask("model-registry://closed", **body)
        assert denied.status == 403
        assert "secret" not in denied.json()["detail"]
        # An administrator has it fetched; the rule keeps it from pods, by key and lease as well.
        for name, status in (("open", 200), ("closed", 403)):
            ask = {"uri": f"model-registry://{name}", **body, "lease": {"holder": "h"}}
            admitted = daemon.admin("POST", "/v1/models", ask).json()
            target = f"/v1/models/{admitted['key']}/files/w.bin"
            passed = {"Cachd-Lease": admitted["lease"]["id"]}
            assert call(daemon.socket, "GET", target, headers=passed).status == status
            assert daemon.ask(f"model-registry://{name}", **body).status == status


def test_names_of_names_are_refused(daemon: Daemon, registry: ModelRegistry):
    registry.add("llama", "v1", "model-registry://llama/v1")
    reply = daemon.ask("model-registry://llama", options={"registry": registry.url})
    assert reply.json()["code"] == "content_invalid"
    assert "another registry" in reply.json()["detail"]
    registry.add("llama", "v2", "pvc://claim/m")
    reply = daemon.ask("model-registry://llama", options={"registry": registry.url})
    assert "no source knows pvc://" in reply.json()["detail"]
    registry.add("llama", "v3", f"file://{Path.cwd()}")
    reply = daemon.ask("model-registry://llama", options={"registry": registry.url})
    assert reply.status == 403
