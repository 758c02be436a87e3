"""A model whose source moves on, and how to ask and look."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.harness import Daemon, UnixConnection, eventually
from tests.origins.bucket import Bucket
from tests.origins.fault import pattern

MIB = 1024 * 1024
WEIGHTS, CONFIG = "/models/m/weights.bin", "/models/m/config.json"
POD, NEXT = "0f8b3c2a-1111-4222-8333-944444444444", "1f8b3c2a-1111-4222-8333-944444444444"
OLD, NEW, LAST = b"{}", b'{"new": 1}', b'{"last": 2}'


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    with Bucket() as one:
        one.put(WEIGHTS, pattern(3 * MIB))
        one.put(CONFIG, OLD)
        yield one


def rules(move: str = "manual", every: Any = 0.3, **more: Any) -> dict[str, str]:
    rule = {"match": "s3://*", "every": every, "move": move, **more}
    return {"FRESHNESS_REFRESH": json.dumps([rule]), "FRESHNESS_INTERVAL": "0"}


def ask(daemon: Daemon, origin: Bucket, **more: Any) -> dict[str, Any]:
    options = {"endpoint": origin.base, "region": "us-east-1"}
    reply = daemon.ask("s3://models/m", options=options, **more)
    return {"status": reply.status, **reply.json()}


def shown(daemon: Daemon, key: str) -> dict[str, Any]:
    found = daemon.admin("GET", f"/v1/models/{key}").json()
    assert isinstance(found, dict)
    return found


def promote(daemon: Daemon, key: str, revision: str | None = None) -> dict[str, Any]:
    body = {"revision": revision} if revision else None
    reply = daemon.admin("POST", f"/v1/models/{key}/promote", body)
    return {"status": reply.status, **reply.json()}


def config(answer: dict[str, Any]) -> bytes:
    return (Path(answer["path"]) / "config.json").read_bytes()


def state(daemon: Daemon, key: str) -> str | None:
    update = shown(daemon, key)["update"]
    return update and update["state"]


def updated(daemon: Daemon, origin: Bucket, data: bytes = NEW, **more: Any) -> dict[str, Any]:
    """The model as it is given, after its source has another one that is here too."""
    first = ask(daemon, origin, **more)
    origin.put(CONFIG, data)
    eventually(lambda: state(daemon, first["key"]) == "ready")
    return first


@contextlib.contextmanager
def followed(daemon: Daemon) -> Iterator[list[dict[str, Any]]]:
    """What happens meanwhile."""
    seen: list[dict[str, Any]] = []
    connection = UnixConnection(daemon.admin_socket)
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    json.loads(response.readline())

    def read() -> None:
        while line := response.readline():
            seen.append(json.loads(line))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        connection.sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        response.close()
        connection.close()


def cachd(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachd", *arguments],
        env=daemon.variables(),
        capture_output=True,
        text=True,
        timeout=60,
    )
