"""A name that leads elsewhere now, while a rule keeps what it led to before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import eventually, running
from tests.process.origin import CountingOrigin
from tests.registries.test_flow import at, keys, read
from tests.servers.modelregistry import ModelRegistry
from tests.servers.s3 import S3Server

MANUAL = json.dumps([{"match": "model-registry:*", "every": "1h", "move": "manual"}])


@pytest.mark.parametrize("has_pass", [True, False])
def test_what_is_given_wants_its_own_pass(
    tmp_path: Path,
    registry: ModelRegistry,
    seaweed: S3Server,
    origin: CountingOrigin,
    has_pass: bool,
):
    """The pass for what the name leads to now is none for what it led to before."""
    bucket = seaweed.make_bucket({"m/w.bin": b"old"})
    registry.add("llama", "v1", f"s3://{bucket}/m")
    origin.bodies["/w.bin"] = b"new"
    options = at(seaweed, registry)
    ask: dict[str, Any] = {"credentials": keys(seaweed), "options": options}
    settings = {"FRESHNESS_INTERVAL": "0", "FRESHNESS_REFRESH": MANUAL}
    with running(tmp_path, **settings) as daemon:
        first = daemon.ask("model-registry://llama", **ask).json()
        assert read(first) == b"old"
        registry.add("llama", "v2", f"{origin.url}/w.bin")
        # Nothing of what was shown to whom is known to a daemon that has just begun.
        daemon.terminate()
        daemon.start()
        if has_pass:
            given = daemon.ask("model-registry://llama", **ask).json()
            assert (given["result"], read(given)) == ("hit", b"old")
            shown = f"/v1/models/{given['key']}"
            eventually(lambda: daemon.admin("GET", shown).json()["update"]["state"] == "ready", 60)
        else:
            wrong = {"access_key_id": "a", "secret_access_key": "b"}
            refused = daemon.ask("model-registry://llama", credentials=wrong, options=options)
            assert refused.status in (401, 403), refused.json()
            refused = daemon.ask("model-registry://llama", options=options)
            assert refused.status in (401, 403), refused.json()


def test_a_pods_view_is_no_way_around_the_rule_for_what_the_name_leads_to(
    tmp_path: Path, registry: ModelRegistry, seaweed: S3Server
):
    """Hits of the name are for everybody, those of the bucket aren't."""
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    registry.add("llama", "v1", f"s3://{bucket}/m")
    rules = [
        {"name": "names", "uris": ["model-registry://*"], "open_hits": True},
        {"name": "stores", "uris": ["s3://*"]},
    ]
    pod = {"pod": "0f8b3c2a-1111-4222-8333-944444444444"}
    with running(tmp_path, ACCESS_RULES=json.dumps(rules)) as daemon:
        options = at(seaweed, registry)
        ask: dict[str, Any] = {"options": options, "view": pod, "lease": {"holder": "test"}}
        first = daemon.ask("model-registry://llama", credentials=keys(seaweed), **ask)
        assert first.status == 200, first.body
        again = daemon.ask("model-registry://llama", credentials=keys(seaweed), **ask)
        assert again.json()["result"] == "hit"
        refused = daemon.ask("model-registry://llama", credentials={"anonymous": True}, **ask)
        assert refused.status in (401, 403), refused.json()


@pytest.mark.parametrize("has_pass", [True, False])
def test_a_pods_view_of_what_the_name_led_to_wants_that_ones_pass(
    tmp_path: Path,
    registry: ModelRegistry,
    seaweed: S3Server,
    origin: CountingOrigin,
    has_pass: bool,
):
    """Anybody may have what it leads to now."""
    bucket = seaweed.make_bucket({"m/w.bin": b"private"})
    registry.add("llama", "v1", f"s3://{bucket}/m")
    origin.bodies["/w.bin"] = b"public"
    view = {"pod": "0f8b3c2a-1111-4222-8333-944444444444"}
    ask: dict[str, Any] = {"options": at(seaweed, registry), "view": view}
    with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:
        first = daemon.ask("model-registry://llama", credentials=keys(seaweed), **ask)
        assert first.status == 200, first.body
        registry.add("llama", "v2", f"{origin.url}/w.bin")
        # Nothing of what was shown to whom is known to a daemon that has just begun.
        daemon.terminate()
        daemon.start()
        shown = keys(seaweed) if has_pass else {"anonymous": True}
        again = daemon.ask("model-registry://llama", credentials=shown, **ask)
        if has_pass:
            assert again.json()["revision"] == first.json()["revision"]
        else:
            assert again.status in (401, 403), again.json()
