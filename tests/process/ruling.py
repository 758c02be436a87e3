"""Short forms of calls over the pods' socket, with tokens."""

from __future__ import annotations

from typing import Any

from tests.harness import Daemon, Reply, call


def pods(
    daemon: Daemon,
    method: str,
    target: str,
    body: Any = None,
    token: str | None = None,
    **headers: str,
) -> Reply:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return call(daemon.socket, method, target, body, headers)


def ask(daemon: Daemon, uri: str, token: str | None = None, **body: Any) -> Reply:
    return pods(daemon, "POST", "/v1/models", {"uri": uri, **body}, token)
