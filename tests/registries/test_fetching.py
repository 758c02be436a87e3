"""What is fetched under a registry's name: it stays with its artifact, and has its mirrors, its
credentials and its schedule."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from tests.harness import eventually, running
from tests.process.origin import CountingOrigin
from tests.servers.modelregistry import ModelRegistry
from tests.servers.s3 import S3Server


def test_a_fetch_stays_with_what_was_named_when_it_began(tmp_path: Path, registry: ModelRegistry):
    old, new = os.urandom(3_000_000), os.urandom(1_000_000)
    origin = CountingOrigin({"/old/w.bin": old, "/new/w.bin": new})
    registry.add("iris", "v1", f"{origin.url}/old/w.bin")
    answers: list[dict[str, Any]] = []
    options = {"registry": registry.url}
    try:
        with running(tmp_path, FRESHNESS_INTERVAL="0") as daemon:

            def ask() -> None:
                answers.append(daemon.ask("model-registry://iris", options=options).json())

            origin.hold(after=1_000_000)
            first = threading.Thread(target=ask)
            first.start()
            assert origin.held.wait(30)
            registry.add("iris", "v2", f"{origin.url}/new/w.bin")
            origin.release()
            first.join(60)
            ask()
        read = [Path(answer["path"], "w.bin").read_bytes() for answer in answers]
        assert read == [old, new]
        assert [answer["result"] for answer in answers] == ["miss", "miss"]
        # Not a byte of the old one twice, and none of the new one by the first.
        assert origin.sent["/old/w.bin"] == len(old)
    finally:
        origin.close()


def test_mirrors_are_the_artifacts(tmp_path: Path, registry: ModelRegistry, seaweed: S3Server):
    bucket = seaweed.make_bucket({"m/w.bin": b"of the mirror"})
    dead = "http://127.0.0.1:1"
    registry.add("iris", "v1", f"s3://{bucket}/m?endpoint={dead}&defaultRegion=us-east-1")
    mirrors = [{"match": dead, "endpoints": [seaweed.endpoint], "identity": "caller"}]
    keys = {"access_key_id": seaweed.access_key, "secret_access_key": seaweed.secret_key}
    with running(tmp_path, SOURCES_MIRRORS=json.dumps(mirrors)) as daemon:
        answer = daemon.ask(
            "model-registry://iris", credentials=keys, options={"registry": registry.url}
        ).json()
        assert answer["result"] == "miss", answer
        assert answer["mirror"] == seaweed.endpoint
        assert Path(answer["path"], "w.bin").read_bytes() == b"of the mirror"


def test_a_name_is_refreshed_by_schedule(tmp_path: Path, registry: ModelRegistry):
    origin = CountingOrigin({"/1/w.bin": b"one", "/2/w.bin": b"two"})
    registry.add("iris", "v1", f"{origin.url}/1/w.bin")
    rule = {"name": "main", "kind": "model-registry", "url": registry.url}
    settings = {
        "SOURCES_REGISTRIES": json.dumps([rule]),
        "FRESHNESS_REFRESH": json.dumps([{"match": "model-registry://*", "every": 1}]),
        "FRESHNESS_INTERVAL": "3600",
    }
    try:
        with running(tmp_path, **settings) as daemon:
            first = daemon.ask("model-registry://iris", credentials={"anonymous": True}).json()
            assert Path(first["path"], "w.bin").read_bytes() == b"one"
            registry.add("iris", "v2", f"{origin.url}/2/w.bin")
            eventually(lambda: origin.requests["GET", "/2/w.bin"], 30)
            eventually(
                lambda: (
                    daemon.ask("model-registry://iris").json().get("revision") != first["revision"]
                ),
                30,
            )
    finally:
        origin.close()


def test_who_is_asked_for_a_prefetch(tmp_path: Path, registry: ModelRegistry):
    origin = CountingOrigin({"/1/w.bin": b"one"})
    registry.wants_token("tok")
    (tmp_path / "token").write_text("tok")
    registry.add("iris", "v1", f"{origin.url}/1/w.bin")
    rule = {
        "name": "main", "kind": "model-registry", "url": registry.url, "share": False,
        "token_file": str(tmp_path / "token"),
    }  # fmt: skip
    settings = {
        "SOURCES_REGISTRIES": json.dumps([rule]),
        "PREFETCH": json.dumps([{"uri": "model-registry://main/iris"}]),
    }
    try:
        with running(tmp_path / "d", **settings) as daemon:
            eventually(lambda: daemon.admin("GET", "/v1/models").json()["models"], 30)
            (row,) = daemon.admin("GET", "/v1/models").json()["models"]
            eventually(lambda: daemon.ask(row["uri"]).json().get("result") == "hit", 30)
    finally:
        origin.close()
