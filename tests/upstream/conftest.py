"""Daemons that take models from one another, over TLS and with a token; and their origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
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

DATA = pattern(3 * PART + 1000)
KEYS = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "not-a-secret"}


@dataclass
class Zone:
    """Makes daemons that listen for others, and daemons that take from those; and the model
    ``name`` at their origin."""

    home: Path
    certificates: Certificates
    origin: Bucket
    made: list[Daemon] = field(default_factory=list)
    name: str = "m"

    @property
    def main(self) -> str:
        return f"/models/{self.name}/weights.bin"

    @property
    def small(self) -> str:
        return f"/models/{self.name}/config.json"

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
        return daemon.ask(f"s3://models/{self.name}", options=options, **more)

    def fill(self, data: bytes = DATA) -> None:
        self.origin.put(self.main, data, Content_Type="application/octet-stream")
        self.origin.put(self.small, b"{}")

    def close(self) -> None:
        for daemon in self.made:
            daemon.close()


def endpoint(port: int) -> str:
    return f"https://localhost:{port}"


def check(answer: dict[str, Any], data: bytes = DATA) -> None:
    assert "path" in answer, answer
    assert (Path(answer["path"]) / "weights.bin").read_bytes() == data
    assert (Path(answer["path"]) / "config.json").read_bytes() == b"{}"


@dataclass
class Pair:
    """A daemon, and one that takes from it. Each test has a model that neither has yet."""

    zone: Zone
    neighbour: Daemon
    node: Daemon
    port: int
    before: dict[str, float] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return endpoint(self.port)

    def asked(self, result: str) -> float:
        """Times that the node's question to its neighbour ended so, in this test."""
        return self._count("cachd_upstream_asks_total", result=result)

    def bytes_from(self, place: str) -> float:
        return self._count("cachd_place_bytes_total", place=place)

    def begin(self, name: str) -> None:
        self.zone.name = name
        self.zone.fill()
        self.before = {}
        for result in ("used", "part", "missing", "failed", "held"):
            self.before[result] = self.asked(result)
        for place in ("origin", "upstream"):
            self.before[place] = self.bytes_from(place)

    def _count(self, metric: str, **label: str) -> float:
        [word] = label.values()
        return self.node.metric(metric, **label) - self.before.get(word, 0)


@pytest.fixture
def zone(tmp_path: Path, certificates: Certificates) -> Iterator[Zone]:
    with Bucket() as origin:
        assert isinstance(origin, Bucket)
        made = Zone(tmp_path, certificates, origin)
        made.fill()
        yield made
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Pair]:
    with Bucket() as origin:
        assert isinstance(origin, Bucket)
        zone = Zone(tmp_path_factory.mktemp("pair"), certificates, origin)
        [port] = free_ports(1)
        neighbour = zone.daemon("neighbour", port=port, ACCESS_SHARE_IDENTITY="true")
        yield Pair(zone, neighbour, zone.daemon("node", endpoint(port)), port)
        zone.close()


@pytest.fixture
def pair(shared: Pair, request: pytest.FixtureRequest) -> Pair:
    shared.zone.origin.clear_faults()
    shared.zone.origin.list_fault = None
    shared.begin(request.node.name.replace("_", "-"))
    return shared


__all__ = ["DATA", "KEYS", "MIB", "PART", "Pair", "Zone", "check", "endpoint"]
