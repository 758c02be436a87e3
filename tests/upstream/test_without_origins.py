"""Nodes whose origin is away, or that have no way to any; and daemons that ask in a circle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Reply
from tests.servers.ports import free_ports
from tests.upstream.conftest import DATA, KEYS, Zone, check, endpoint


def code(reply: Reply) -> str:
    return str(reply.json().get("code"))


@pytest.mark.slow
def test_an_origin_that_is_away(zone: Zone) -> None:
    """What needed no credentials is had from a neighbour; what did, is not."""
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    check(zone.ask(neighbour).json())
    zone.name = "private"
    zone.fill()
    check(zone.ask(neighbour, credentials=KEYS).json())
    away = {"FETCH_ORIGIN_PATIENCE": "0"}
    node = zone.daemon("node", endpoint(port), **away)
    open_to_all = zone.daemon("open", endpoint(port), ACCESS_OPEN_HITS="true", **away)
    zone.origin.close()
    assert code(zone.ask(node)).startswith("origin_")
    check(zone.ask(open_to_all).json())
    [row] = open_to_all.admin("GET", "/v1/models").json()["models"]
    assert row["credentialed"]
    zone.name = "m"
    answer = zone.ask(node).json()
    check(answer)
    assert answer["mirror"] == f"cachd+{endpoint(port)}"
    assert (answer["upstream"], answer["upstream_bytes"]) == (endpoint(port), len(DATA) + 2)
    assert answer["origin"] == f"s3+{zone.origin.base}"


@pytest.mark.slow
def test_a_wrong_block_without_an_origin_is_not_published(zone: Zone) -> None:
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    weights = Path(zone.ask(neighbour).json()["path"]) / "weights.bin"
    weights.write_bytes(bytes(len(DATA)))
    node = zone.daemon("node", endpoint(port), FETCH_ORIGIN_PATIENCE="0")
    zone.origin.close()
    assert zone.ask(node).status >= 500
    assert node.metric("cachd_store_snapshots") == 0


def test_a_node_without_a_way_to_origins(zone: Zone) -> None:
    [port] = free_ports(1)
    mirror = zone.daemon("mirror", port=port)
    node = zone.daemon("node", endpoint(port), UPSTREAM_ONLY="true")
    assert code(zone.ask(node)) == "origin_unreachable"
    check(zone.ask(mirror).json())
    seen = len(zone.origin.seen)
    answer = zone.ask(node).json()
    check(answer)
    assert answer["mirror"] == f"cachd+{endpoint(port)}"
    assert len(zone.origin.seen) == seen
    # What the mirror shows next is the model.
    zone.fill(DATA[::-1])
    check(zone.ask(mirror).json(), DATA[::-1])
    check(zone.ask(node).json(), DATA[::-1])
    mirror.close()
    stale = zone.ask(node).json()
    assert stale["result"] == "stale"


def test_a_mirror_that_fetches_for_nodes_without_a_way(zone: Zone) -> None:
    [port] = free_ports(1)
    zone.daemon("mirror", port=port)
    node = zone.daemon("node", endpoint(port), UPSTREAM_ONLY="true", UPSTREAM_FETCH="true")
    check(zone.ask(node).json())
    zone.fill(DATA[::-1])
    check(zone.ask(node).json(), DATA[::-1])
    assert zone.origin.bytes_sent(zone.main) == 2 * len(DATA)


@pytest.mark.slow
def test_two_that_ask_one_another(zone: Zone) -> None:
    """Neither waits for itself: one of them goes to the origin."""
    one, two = free_ports(2)
    first = zone.daemon("first", endpoint(two), port=one, UPSTREAM_FETCH="true")
    second = zone.daemon("second", endpoint(one), port=two, UPSTREAM_FETCH="true")
    check(zone.ask(first).json())
    check(zone.ask(second).json())
    assert zone.origin.bytes_sent(zone.main) == len(DATA)
    # At the same time: each may wait for the other, and neither does for ever.
    zone.fill(DATA[::-1])
    with ThreadPoolExecutor(2) as pool:
        for asked in [pool.submit(zone.ask, daemon) for daemon in (first, second)]:
            check(asked.result(60).json(), DATA[::-1])


@pytest.mark.slow
def test_a_chain_of_three(zone: Zone) -> None:
    """Node, zone, region: the region alone calls the origin."""
    region, between = free_ports(2)
    zone.daemon("region", port=region)
    zone.daemon("zone", endpoint(region), port=between, UPSTREAM_FETCH="true")
    node = zone.daemon("node", endpoint(between), UPSTREAM_FETCH="true")
    answer = zone.ask(node).json()
    check(answer)
    assert answer["upstream_bytes"] == len(DATA) + 2
    assert zone.origin.bytes_sent(zone.main) == len(DATA)
