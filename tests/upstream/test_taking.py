"""A fresh node takes models from another daemon: the origin proves, the neighbour sends."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path

import pytest

from tests.faults.conftest import pack
from tests.origins.fault import Fault, s3_error
from tests.origins.proxy import Proxy
from tests.process.test_airgap import tree
from tests.servers.hub import Hub
from tests.servers.ports import free_ports
from tests.upstream.conftest import DATA, KEYS, PART, Pair, Zone, check, endpoint

pytestmark = pytest.mark.slow


def test_a_fresh_node_takes_the_bytes_from_its_neighbour(pair: Pair) -> None:
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    check(zone.ask(neighbour).json())
    lists, sent = zone.origin.lists, zone.origin.bytes_sent()
    answer = zone.ask(node).json()
    check(answer)
    assert answer["result"] == "miss"
    assert answer["upstream"] == pair.endpoint
    assert answer["upstream_bytes"] == answer["fetched_bytes"] == len(DATA) + 2
    assert answer["mirror"] is None
    # The origin says what the model is, and proves the pass; it sends nothing of it again.
    assert zone.origin.lists > lists
    assert zone.origin.bytes_sent() == sent
    assert pair.bytes_from("upstream") == len(DATA) + 2
    assert pair.bytes_from("origin") == 0
    assert pair.asked("used") == 1
    assert zone.ask(node).json()["result"] == "hit"
    shown = [
        d.admin("GET", f"/v1/models/{answer['key']}?blocks=true").json() for d in (neighbour, node)
    ]
    assert shown[0]["revision"] == shown[1]["revision"]
    assert shown[0]["manifest_files"] == shown[1]["manifest_files"]


def test_callers_credentials_stay_here_and_the_token_stays_there(pair: Pair) -> None:
    """What a caller's own keys were needed for is had from a neighbour too, once the origin has
    seen this caller's keys."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    check(zone.ask(neighbour, credentials=KEYS).json())
    sent = zone.origin.bytes_sent()
    zone.origin.seen.clear()
    answer = zone.ask(node, credentials=KEYS).json()
    check(answer)
    assert answer["upstream_bytes"] == len(DATA) + 2
    assert zone.origin.bytes_sent() == sent
    headers = [str(s.headers) + s.target for s in zone.origin.seen]
    assert all("a-token-of-this-zone" not in text for text in headers)
    assert any("AKIAEXAMPLE" in text for text in headers)
    assert node.admin("GET", f"/v1/models/{answer['key']}").json()["credentialed"]
    for daemon in (neighbour, node):
        assert "not-a-secret" not in daemon.log()
        assert "a-token-of-this-zone" not in daemon.log()


def test_a_hubs_commit_is_had_from_a_neighbour(pair: Pair) -> None:
    """Its files have no validators: the commit is what is asked for, and digests decide."""
    files = {"config.json": b"{}", "w.safetensors": DATA}
    with Hub() as hub:
        hub.add("org/m", files, gated=True, readers={"hf_reader_1618"})
        asked = {"options": {"endpoint": hub.url}, "credentials": {"token": "hf_reader_1618"}}
        assert pair.neighbour.ask("hf://org/m", **asked).status == 200
        hub.store.seen.clear()
        answer = pair.node.ask("hf://org/m", **asked).json()
        assert answer["upstream_bytes"] == answer["fetched_bytes"] == len(DATA) + 2
        assert tree(Path(answer["path"])) == files
        assert not hub.store.seen
        refused = pair.node.ask("hf://org/m", options=asked["options"])
        assert refused.json()["code"] == "credentials_missing"


def test_a_caller_that_the_origin_refuses_gets_nothing(pair: Pair) -> None:
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    check(zone.ask(neighbour, credentials=KEYS).json())
    zone.origin.fault("*", refused(), times=1000)
    zone.origin.list_fault = refused()
    answer = zone.ask(node, credentials=KEYS)
    assert answer.status == 403, answer.json()
    assert pair.bytes_from("upstream") == 0


def test_parts_that_the_neighbour_lacks_come_from_the_origin(pair: Pair) -> None:
    """It has another revision: nothing is taken."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    check(zone.ask(neighbour).json())
    zone.fill(DATA[::-1])
    answer = zone.ask(node).json()
    check(answer, DATA[::-1])
    assert (answer["upstream"], answer["upstream_bytes"]) == (None, 0)
    assert pair.asked("missing") == 1


def test_a_cold_neighbour_is_not_made_to_fetch(pair: Pair) -> None:
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    answer = zone.ask(node).json()
    check(answer)
    assert answer["upstream"] is None
    assert zone.origin.bytes_sent(zone.main) == len(DATA)
    assert neighbour.admin("GET", f"/v1/models/{answer['key']}").status == 404


def test_a_zone_fetches_once(zone: Zone) -> None:
    [port] = free_ports(1)
    mirror = zone.daemon("mirror", port=port)
    nodes = [zone.daemon(n, endpoint(port), UPSTREAM_FETCH="true") for n in ("a", "b")]
    for node in nodes:
        answer = zone.ask(node).json()
        check(answer)
        assert answer["upstream_bytes"] == len(DATA) + 2
    assert zone.origin.bytes_sent(zone.main) == len(DATA)
    assert mirror.metric("cachd_store_snapshots") == 1


def test_a_zone_is_not_asked_to_fetch_what_needs_a_callers_keys(zone: Zone) -> None:
    [port] = free_ports(1)
    mirror = zone.daemon("mirror", port=port)
    node = zone.daemon("node", endpoint(port), UPSTREAM_FETCH="true")
    answer = zone.ask(node, credentials=KEYS).json()
    check(answer)
    assert answer["upstream"] is None
    assert mirror.metric("cachd_store_snapshots") == 0


def test_what_is_begun_is_gone_on_with(zone: Zone) -> None:
    """Parts of an earlier, interrupted fetch from the origin are kept."""
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    node = zone.daemon("node", endpoint(port), FETCH_CONNECTIONS="1")
    zone.origin.fault(zone.main, refused(500), skip=2)
    assert zone.ask(node).status >= 500
    zone.origin.clear_faults()
    had = zone.origin.bytes_sent(zone.main)
    assert had >= PART
    check(zone.ask(neighbour).json())
    sent = zone.origin.bytes_sent(zone.main)
    answer = zone.ask(node).json()
    check(answer)
    assert 0 < answer["upstream_bytes"] < len(DATA)
    assert zone.origin.bytes_sent(zone.main) == sent


def test_archives_come_from_their_origin(pair: Pair) -> None:
    """What was unpacked can't be compared with what the origin says of the archive."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    zone.origin.put("/m.tar.gz", pack({"a": b"1" * PART}), Content_Type="application/gzip")
    first = neighbour.ask(zone.origin.url("/m.tar.gz")).json()
    answer = node.ask(zone.origin.url("/m.tar.gz")).json()
    assert answer["upstream"] is None
    assert tree(Path(answer["path"])) == tree(Path(first["path"]))


def test_neighbour_and_origin_are_reached_through_a_proxy(zone: Zone) -> None:
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    check(zone.ask(neighbour).json())
    with Proxy() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        node = zone.daemon("node", endpoint(port), environ={"HTTP_PROXY": url, "HTTPS_PROXY": url})
        answer = zone.ask(node).json()
        check(answer)
        assert answer["upstream_bytes"] == len(DATA) + 2
        assert f"CONNECT localhost:{port}" in proxy.requests
        assert any(f"{zone.origin.base}{zone.small}" in line for line in proxy.requests)
        assert not neighbour.log().count("Traceback")


def test_what_another_daemon_may_do(pair: Pair) -> None:
    """Reading, and asking without a pass; nothing else."""
    zone, neighbour, port = pair.zone, pair.neighbour, pair.port
    key = zone.ask(neighbour, credentials=KEYS).json()["key"]
    context = ssl.create_default_context(cafile=str(zone.certificates.ca))
    names: set[str] = set()

    def peer(
        method: str, target: str, body: object = None, token: str = "", via: str = ""
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        headers = {"Authorization": f"Bearer {token or 'a-token-of-this-zone'}", "Cachd-Via": via}
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, target, data, headers)
        response = connection.getresponse()
        names.add(response.headers["Cachd-Daemon"])
        try:
            return response.status, response.read()
        finally:
            connection.close()

    assert peer("GET", f"/v1/models/{key}")[0] == 200
    assert peer("GET", f"/v1/models/{key}/files/config.json") == (200, b"{}")
    assert peer("GET", f"/v1/models/{key}", token="another")[0] == 401
    for method, target in (
        ("DELETE", f"/v1/models/{key}"),
        ("PUT", f"/v1/models/{key}/pin"),
        ("POST", f"/v1/models/{key}/leases"),
        ("POST", "/v1/gc"),
        ("GET", "/v1/events"),
        ("GET", "/metrics"),
    ):
        assert peer(method, target, {} if method == "POST" else None)[0] == 403, target
    # Whatever it sends along, it asks as nobody.
    zone.origin.seen.clear()
    options = {"endpoint": zone.origin.base}
    asked = {"uri": f"s3://models/{zone.name}", "options": options, "credentials": KEYS}
    assert peer("POST", "/v1/models", asked)[0] == 200
    # An ask that came a long way goes no further, nor one that came through this daemon already.
    (name,) = names
    for via in ("a, b, c, d", f"{name}, a"):
        status, answer = peer("POST", "/v1/models", asked, via=via)
        assert (status, json.loads(answer)["code"]) == (508, "upstream_loop")
    assert all("authorization" not in s.headers for s in zone.origin.seen)


def refused(status: int = 403) -> Fault:
    return Fault("status", status=status, body=s3_error("AccessDenied" if status == 403 else "X"))
