"""A registry's name moves on to a new version when a rule, or a person, says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import eventually, running
from tests.registries.test_flow import at, keys, read
from tests.servers.modelregistry import ModelRegistry
from tests.servers.s3 import S3Server


@pytest.fixture
def bucket(seaweed: S3Server) -> str:
    return seaweed.make_bucket({"m/1/w.bin": b"one", "m/2/w.bin": b"two"})


def test_a_new_version_waits_and_is_promoted(
    tmp_path: Path, registry: ModelRegistry, seaweed: S3Server, bucket: str
) -> None:
    rules = json.dumps([{"match": "model-registry://*", "every": "1h", "move": "manual"}])
    registry.add("llama", "v1", f"s3://{bucket}/m/1")
    body: dict[str, Any] = {"credentials": keys(seaweed), "options": at(seaweed, registry)}
    with running(tmp_path, FRESHNESS_INTERVAL="0", FRESHNESS_REFRESH=rules) as daemon:

        def page() -> dict[str, Any]:
            found = daemon.admin("GET", f"/v1/models/{first['key']}").json()
            assert isinstance(found, dict)
            return found

        first = daemon.ask("model-registry://llama", **body).json()
        registry.add("llama", "v2", f"s3://{bucket}/m/2")
        answer = daemon.ask("model-registry://llama", **body).json()
        assert (answer["result"], read(answer)) == ("hit", b"one")
        # It was seen with the caller's pass, and is fetched with that.
        eventually(lambda: (page()["update"] or {}).get("state") == "ready")
        assert page()["metadata"]["version"] == "v1"
        wrong = {"access_key_id": "a", "secret_access_key": "b"}
        refused = daemon.ask("model-registry://llama", **{**body, "credentials": wrong})
        assert refused.status in (401, 403)
        assert daemon.admin("POST", f"/v1/models/{first['key']}/promote").status == 200
        answer = daemon.ask("model-registry://llama", **body).json()
        assert (answer["result"], read(answer)) == ("hit", b"two")
        assert page()["metadata"]["version"] == "v2"
        # Back to the first: the registry's newest name is no reason to leave it.
        daemon.admin("POST", f"/v1/models/{first['key']}/promote", {"revision": first["revision"]})
        assert read(daemon.ask("model-registry://llama", **body).json()) == b"one"
