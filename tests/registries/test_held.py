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
