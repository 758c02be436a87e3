"""Where URIs can't lead, in a real daemon: in a network of its own that has the forbidden addresses
(with somebody who would answer there), and with a hosts file of its own for names. Names go through
the C library, so what a DNS server would say, the file says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Daemon
from tests.servers.require import needs_root

pytestmark = [needs_root, pytest.mark.slow]

METADATA = "169.254.169.254"
INNER = "10.77.0.1"
_SETUP = f"""
set -e
mount --bind "$HOSTS" /etc/hosts
ip link set lo up
ip addr add {METADATA}/32 dev lo
ip addr add {INNER}/32 dev lo
ip -6 addr add fd00:ec2::254/128 dev lo
"$PYTHON" -m tests.process.canary "$CANARY" &
while [ ! -e "$CANARY/ready" ]; do sleep 0.05; done
exec "$@"
"""


class Island:
    """A daemon in a network of its own. Everything on port 80 there counts who calls it; port 8080
    of loopback and ``INNER`` has models, and what ``answers`` says."""

    def __init__(self, directory: Path, environ: dict[str, str], settings: dict[str, str]) -> None:
        self.canary = directory / "canary"
        self.canary.mkdir()
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        (self.canary / "answers.json").write_text("{}")
        here = str(Path(__file__).parents[2])
        self.daemon = Daemon(
            directory / "d",
            settings={"FRESHNESS_INTERVAL": "0", "FETCH_ATTEMPTS": "1", **settings},
            environ={
                "HOSTS": str(self.hosts), "CANARY": str(self.canary), "PYTHON": sys.executable,
                "PYTHONPATH": here, **environ,
            },
            prefix=["unshare", "--net", "--mount", "sh", "-c", _SETUP, "sh"],
        )  # fmt: skip

    def names(self, **names: str) -> None:
        lines = [f"{address} {name.replace('_', '.')}" for name, address in names.items()]
        self.hosts.write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")

    def answers(self, **answers: Any) -> None:
        """By path: a redirect's target, or a text that the hosts file gets before the answer."""
        (self.canary / "answers.json").write_text(json.dumps(answers))

    def ask(self, uri: str, **body: Any) -> tuple[int, str]:
        reply = self.daemon.ask(uri, **body)
        return reply.status, reply.json().get("code", "")

    def calls(self) -> list[str]:
        """Who called what it must not: lines of ``ADDRESS METHOD TARGET``."""
        return (self.canary / "calls").read_text().splitlines()

    def served(self) -> list[str]:
        return (self.canary / "served").read_text().splitlines()


@pytest.fixture
def make(tmp_path: Path):
    made: list[Island] = []
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip("no namespaces here")

    def build(environ: dict[str, str] | None = None, **settings: str) -> Island:
        directory = tmp_path / f"i{len(made)}"
        directory.mkdir()
        island = Island(directory, environ or {}, settings)
        made.append(island)
        island.daemon.start()
        return island

    yield build
    for island in made:
        (island.canary / "stop").touch()
        island.daemon.close()


SPELLINGS = [
    METADATA,
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fe80::1]",
    "224.0.0.1",
    "[ff02::1]",
    "0.0.0.0",
    "[::]",
    "metadata.google.internal",
    "meta.example",
    "metadata.google.internal.",
    "META.example",
    "mixed.example",
    "six.example",
]


def test_forbidden_addresses_in_every_spelling_and_by_name(make):
    island = make()
    island.names(meta_example=METADATA, six_example="::ffff:169.254.169.254")
    with island.hosts.open("a") as file:
        file.write(f"127.0.0.1 mixed.example\n{METADATA} mixed.example\n")
    for host in SPELLINGS:
        assert island.ask(f"http://{host}/latest/m.bin") == (403, "egress_forbidden"), host
        ends = island.ask("s3://bucket/m", options={"endpoint": f"http://{host}"})
        assert ends == (403, "egress_forbidden"), host
        inside = island.ask(f"s3://bucket/m?endpoint=http://{host}")
        assert inside == (403, "egress_forbidden"), host
    assert island.calls() == []
    # The one who would answer there is no fiction.
    assert island.ask("http://localhost:8080/m.bin") == (200, "")
    free = make(SOURCES_EGRESS_ALLOW_LINK_LOCAL="true")
    assert free.ask(f"http://{METADATA}/m.bin")[1] != "egress_forbidden"
    assert any(METADATA in call for call in free.calls())


def test_redirects_when_planning_and_when_fetching(make):
    island = make()
    island.names(meta_example=METADATA, good_example="127.0.0.1")
    for target in (
        f"http://{METADATA}/m.bin",
        "http://meta.example/m.bin",
        "http://0xa9fea9fe/m.bin",
    ):
        island.answers(**{"HEAD /r.bin": target, "GET /r.bin": target})
        assert island.ask("http://good.example:8080/r.bin") == (403, "egress_forbidden")
        island.answers(**{"GET /r.bin": target})
        assert island.ask("http://good.example:8080/r.bin") == (403, "egress_forbidden")
        assert "GET /r.bin" in island.served()[-1]
    assert island.calls() == []


def test_a_name_that_changes_between_planning_and_fetching(make):
    island = make()
    island.names(rebind_example="127.0.0.1")
    island.answers(**{"HEAD /m.bin": {"hosts": f"{METADATA} rebind.example\n"}})
    assert island.ask("http://rebind.example:8080/m.bin") == (403, "egress_forbidden")
    assert [line for line in island.served() if "/m.bin" in line] == ["127.0.0.1 HEAD /m.bin"]
    assert island.calls() == []


def test_only_what_is_on_the_list(make):
    island = make(SOURCES_EGRESS_ALLOW="good.example,10.77.0.0/16")
    island.names(good_example="127.0.0.1", inner_example=INNER, bad_example="127.0.0.1")
    assert island.ask("http://good.example:8080/m.bin") == (200, "")
    assert island.ask("http://inner.example:8080/m.bin") == (200, "")
    for host in ("bad.example", "127.0.0.1", "localhost", "[::1]"):
        assert island.ask(f"http://{host}:8080/m.bin") == (403, "egress_forbidden"), host
        body = {"options": {"endpoint": f"http://{host}:8080"}}
        assert island.ask("s3://bucket/m", **body) == (403, "egress_forbidden"), host
    island.answers(**{"GET /r.bin": "http://bad.example:8080/m.bin"})
    before = len(island.served())
    assert island.ask("http://good.example:8080/r.bin") == (403, "egress_forbidden")
    assert all("r.bin" in line for line in island.served()[before:])


def test_loopback_where_it_is_denied(make):
    island = make(SOURCES_EGRESS_DENY="127.0.0.0/8,::1")
    island.names(here_example="127.0.0.1", inner_example=INNER)
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]",
                 "here.example"):  # fmt: skip
        assert island.ask(f"http://{host}:8080/m.bin") == (403, "egress_forbidden"), host
    assert island.served() == []
    assert island.ask("http://inner.example:8080/m.bin") == (200, "")


def test_mirrors_lead_nowhere_else(make):
    rules = [{"match": "http://*", "endpoints": [f"http://{METADATA}"]}]
    island = make(SOURCES_MIRRORS=json.dumps(rules))
    assert island.ask("http://localhost:9/m.bin") == (403, "egress_forbidden")
    assert island.calls() == []


def test_through_a_proxy_the_list_is_of_names(make):
    """The proxy resolves names, so networks say nothing; its own address is the operator's."""
    proxy = {"HTTP_PROXY": "http://proxy.example:8080"}
    island = make(proxy, SOURCES_EGRESS_ALLOW="good.example,10.0.0.0/8")
    island.names(proxy_example="127.0.0.1")
    assert island.ask("http://good.example/m.bin") == (200, "")
    assert any("http://good.example/m.bin" in line for line in island.served())
    before = len(island.served())
    for host in (
        "bad.example",
        METADATA,
        "0xa9fea9fe",
        "metadata.google.internal",
        "proxy.example",
    ):
        assert island.ask(f"http://{host}/m.bin") == (403, "egress_forbidden"), host
        body = {"options": {"endpoint": f"http://{host}"}}
        assert island.ask("s3://bucket/m", **body) == (403, "egress_forbidden"), host
    assert len(island.served()) == before
    # And a redirect that the proxy brings.
    island.answers(**{"GET http://good.example/r.bin": "http://bad.example/m.bin"})
    assert island.ask("http://good.example/r.bin") == (403, "egress_forbidden")
    assert not any("bad.example" in line for line in island.served())
