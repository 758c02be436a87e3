"""Several registries by name: who answers, whose pass is shown, and what one that is down means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon, eventually, running
from tests.process.other_uid import as_other_uid
from tests.servers.modelregistry import ModelRegistry
from tests.servers.require import needs_root
from tests.servers.s3 import S3Server


@pytest.fixture
def federated(
    tmp_path: Path, registry: ModelRegistry, other_registry: ModelRegistry, seaweed: S3Server
) -> Iterator[Daemon]:
    with _federated(tmp_path, registry, other_registry, seaweed) as daemon:
        yield daemon


@contextmanager
def _federated(
    tmp_path: Path,
    registry: ModelRegistry,
    other_registry: ModelRegistry,
    seaweed: S3Server,
    **first: Any,
) -> Iterator[Daemon]:
    """``first`` is shared, ``second`` kept for the daemon's own; both want tokens."""
    for name, made in (("first", registry), ("second", other_registry)):
        made.wants_token(f"token-of-{name}")
        (tmp_path / name).write_text(f"token-of-{name}\n")
    rules = [
        {"name": "first", "kind": "model-registry", "url": registry.url,
         "token_file": str(tmp_path / "first"), **first},
        {"name": "second", "kind": "model-registry", "url": other_registry.url, "share": False,
         "token_file": str(tmp_path / "second")},
    ]  # fmt: skip
    settings = {
        "FRESHNESS_INTERVAL": "0",
        "SOURCES_REGISTRIES": json.dumps(rules),
        "SOURCES_S3_ENDPOINT": seaweed.endpoint,
        "FETCH_BREAKER_FAILURES": "0",
    }
    with running(tmp_path / "d", **settings) as daemon:
        yield daemon


def ask(daemon: Daemon, server: S3Server, uri: str) -> dict[str, Any]:
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    return dict(daemon.ask(f"model-registry://{uri}", credentials=keys).json())


def body_of(daemon: Daemon, server: S3Server, uri: str) -> bytes:
    answer = ask(daemon, server, uri)
    assert "path" in answer, answer
    return Path(answer["path"], "w.bin").read_bytes()


def test_the_first_that_knows_the_name_answers(
    federated: Daemon, registry: ModelRegistry, other_registry: ModelRegistry, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"a/w.bin": b"first's", "b/w.bin": b"second's"})
    registry.add("both", "v1", f"s3://{bucket}/a")
    other_registry.add("both", "v2", f"s3://{bucket}/b")
    other_registry.add("one", "v1", f"s3://{bucket}/b")
    assert body_of(federated, seaweed, "both") == b"first's"
    assert body_of(federated, seaweed, "one") == b"second's"
    assert body_of(federated, seaweed, "second/both") == b"second's"
    assert body_of(federated, seaweed, "both/v2?registry=second") == b"second's"
    missing = ask(federated, seaweed, "none")
    assert missing["code"] == "not_found"
    assert "first, second" in missing["detail"]
    for name, result, count in (
        ("first", "named", 1), ("first", "unknown", 2), ("second", "named", 3),
        ("second", "unknown", 1),
    ):  # fmt: skip
        found = federated.metric("cachd_registry_asks_total", registry=name, result=result)
        assert found == count, (name, result)
    assert "token-of" not in federated.log()


def test_while_one_is_down_nobody_else_takes_its_place(
    federated: Daemon, registry: ModelRegistry, other_registry: ModelRegistry, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"a/w.bin": b"first's", "b/w.bin": b"second's"})
    registry.add("both", "v1", f"s3://{bucket}/a")
    other_registry.add("both", "v1", f"s3://{bucket}/b")
    other_registry.add("one", "v1", f"s3://{bucket}/b")
    assert body_of(federated, seaweed, "one") == b"second's"
    registry.status = 503
    # Who named it before is heard.
    other_registry.add("one", "v2", f"s3://{bucket}/a")
    assert body_of(federated, seaweed, "one") == b"first's"
    # A later one's model of that name may be another.
    refused = ask(federated, seaweed, "both")
    assert refused["code"] == "origin_busy"
    assert "registry first" in refused["detail"]
    assert "registry=NAME" in refused["hint"]
    # One that is named is asked, whoever else is down.
    assert body_of(federated, seaweed, "second/both") == b"second's"
    registry.status = 0
    eventually(lambda: "path" in ask(federated, seaweed, "both"))
    assert body_of(federated, seaweed, "both") == b"first's"


def test_an_optional_one_is_passed_over_while_it_is_down(
    tmp_path: Path, registry: ModelRegistry, other_registry: ModelRegistry, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"a/w.bin": b"first's", "b/w.bin": b"second's"})
    for model in ("known", "kept"):
        registry.add(model, "v1", f"s3://{bucket}/a")
    for model in ("known", "kept", "both", "one"):
        other_registry.add(model, "v1", f"s3://{bucket}/b")
    registry.add("both", "v1", f"s3://{bucket}/a")
    with _federated(tmp_path, registry, other_registry, seaweed, optional=True) as daemon:
        assert body_of(daemon, seaweed, "known") == b"first's"
        assert body_of(daemon, seaweed, "kept") == b"first's"
        registry.status = 403
        assert body_of(daemon, seaweed, "one") == b"second's"
        assert body_of(daemon, seaweed, "both") == b"second's"
        missing = ask(daemon, seaweed, "none")
        assert missing["code"] == "access_denied"
        assert "no registry that answered knows model-registry://none" in missing["detail"]
        assert "registry first" in missing["detail"]
        assert ask(daemon, seaweed, "first/other")["code"] == "access_denied"
        # A model that it named is taken from no other.
        refused = ask(daemon, seaweed, "known")
        assert refused["code"] == "access_denied"
        assert "no registry that answered" not in refused["detail"]
        registry.status = 0
        assert body_of(daemon, seaweed, "both") == b"first's"
        assert ask(daemon, seaweed, "none")["code"] == "not_found"
        registry.status = 503
        assert body_of(daemon, seaweed, "one") == b"second's"
        assert ask(daemon, seaweed, "none")["code"] == "origin_busy"
        assert body_of(daemon, seaweed, "kept") == b"first's"  # as it is cached


@needs_root
def test_the_daemons_passes_serve_others_where_they_are_shared(
    federated: Daemon, registry: ModelRegistry, other_registry: ModelRegistry, seaweed: S3Server
):
    bucket = seaweed.make_bucket({"a/w.bin": b"a"})
    registry.add("shared", "v1", f"s3://{bucket}/a")
    other_registry.add("kept", "v1", f"s3://{bucket}/a")
    keys = {"access_key_id": seaweed.access_key, "secret_access_key": seaweed.secret_key}
    status, answer = as_other_uid(
        federated, {"uri": "model-registry://first/shared", "credentials": keys}
    )
    assert (status, answer["result"]) == (200, "miss")
    status, answer = as_other_uid(
        federated, {"uri": "model-registry://second/kept", "credentials": keys}
    )
    assert (status, answer["code"]) == (401, "credentials_missing")
    # The same caller with a pass of its own.
    status, answer = as_other_uid(
        federated,
        {
            "uri": "model-registry://second/kept",
            "credentials": {**keys, "registry_token": "token-of-second"},
        },
    )
    assert (status, answer["result"]) == (200, "miss")
