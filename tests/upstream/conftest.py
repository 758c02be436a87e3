"""Daemons that take models from one another, over TLS and with a token; and their origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import MIB, PART, QUICK
from tests.harness import Daemon, Reply
from tests.origins.bucket import Bucket
from tests.origins.fault import pattern
from tests.servers.certificates import Certificates
from tests.servers.ports import LOOPBACK, free_ports

DATA = pattern(4 * PART + 1000)
MAIN, SMALL = "/models/m/weights.bin", "/models/m/config.json"
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "not-a-secret"}


@dataclass
class Zone:
    """Makes daemons that listen for others, and daemons that take from those."""

    home: Path
    certificates: Certificates
    origin: Bucket
    made: list[Daemon] = field(default_factory=list)

    def token(self, text: str = "a-token-of-this-zone") -> Path:
        file = self.home / f"token-{len(list(self.home.glob('token-*')))}"
        file.write_text(text + "\n")
        return file

    def daemon(
        self,
        name: str,
        *upstreams: str,
        port: int = 0,
        environ: dict[str, str] | None = None,
        is_started: bool = True,
        **settings: str,
    ) -> Daemon:
        """``port``: where it listens for others; ``upstreams``: whom it asks."""
        own = {**QUICK, "FETCH_STALL_WINDOW": "5", "FRESHNESS_SERVE_STALE": "true"}
        if port:
            own |= {
                "LISTEN_API_ADDRESS": f"{LOOPBACK}:{port}",
                "LISTEN_API_CERTIFICATE": str(self.certificates.chain),
                "LISTEN_API_PRIVATE_KEY": str(self.certificates.key),
                "LISTEN_API_TOKEN_FILE": str(self.token()),
                "LISTEN_API_ROLE": "peer",
            }
        if upstreams:
            own |= {
                "UPSTREAM_ENDPOINTS": json.dumps(upstreams),
                "UPSTREAM_TOKEN_FILE": str(self.token()),
                "UPSTREAM_CA_BUNDLE": str(self.certificates.ca),
            }
        daemon = Daemon(self.home / name, settings={**own, **settings}, environ=environ or {})
        self.made.append(daemon)
        return daemon.start() if is_started else daemon

    def ask(self, daemon: Daemon, **more: Any) -> Reply:
        options = {"endpoint": self.origin.base, "region": "us-east-1"}
        return daemon.ask("s3://models/m", options=options, **more)

    def fill(self, data: bytes = DATA) -> None:
        self.origin.put(MAIN, data, Content_Type="application/octet-stream")
        self.origin.put(SMALL, b"{}")


def endpoint(port: int) -> str:
    return f"https://localhost:{port}"


def check(answer: dict[str, Any], data: bytes = DATA) -> None:
    assert "path" in answer, answer
    assert (Path(answer["path"]) / "weights.bin").read_bytes() == data
    assert (Path(answer["path"]) / "config.json").read_bytes() == b"{}"


@pytest.fixture
def zone(tmp_path: Path, certificates: Certificates) -> Iterator[Zone]:
    with Bucket() as origin:
        assert isinstance(origin, Bucket)
        made = Zone(tmp_path, certificates, origin)
        made.fill()
        yield made
        for daemon in made.made:
            daemon.close()


@pytest.fixture
def ports() -> Callable[[int], list[int]]:
    return free_ports


__all__ = ["DATA", "KEYS", "MAIN", "MIB", "PART", "SMALL", "Zone", "check", "endpoint"]
