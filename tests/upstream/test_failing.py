"""Whatever goes wrong at a neighbour, the origin has the rest, and nothing wrong is published."""

from __future__ import annotations

import base64
import hashlib
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.disk import flip
from tests.harness import eventually
from tests.servers.ports import free_ports
from tests.upstream.conftest import DATA, MIB, PART, Pair, Zone, check, endpoint

pytestmark = pytest.mark.slow

LIMIT = "4MiB"
"""Bytes a second: four seconds between the first part's end and the last's, to strike in."""


def test_the_neighbour_is_killed_in_mid_transfer(zone: Zone) -> None:
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    check(zone.ask(neighbour).json())
    sent = zone.origin.bytes_sent(zone.main)
    node = zone.daemon("node", endpoint(port), FETCH_BANDWIDTH=LIMIT, FETCH_CONNECTIONS="1")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(zone.ask, node)
        eventually(lambda: node.metric("cachd_place_bytes_total", place="upstream") > PART + MIB)
        neighbour.kill()
        answer = asked.result(60).json()
    check(answer)
    # What had come was kept: the origin sent the rest, and at most one part of it twice.
    assert answer["upstream_bytes"] > PART
    rest = zone.origin.bytes_sent(zone.main) - sent
    assert 0 < rest <= len(DATA) - PART
    assert node.metric("cachd_upstream_asks_total", result="part") == 1


def test_a_neighbour_that_stops_sending(zone: Zone) -> None:
    [port] = free_ports(1)
    neighbour = zone.daemon("neighbour", port=port)
    check(zone.ask(neighbour).json())
    node = zone.daemon(
        "node",
        endpoint(port),
        FETCH_BANDWIDTH=LIMIT,
        FETCH_CONNECTIONS="1",
        FETCH_STALL_WINDOW="1",
        FETCH_CONNECT_TIMEOUT="2",
    )
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(zone.ask, node)
        eventually(lambda: node.metric("cachd_place_bytes_total", place="upstream") > PART)
        assert neighbour.process is not None
        neighbour.process.send_signal(signal.SIGSTOP)
        try:
            answer = asked.result(60).json()
        finally:
            neighbour.process.send_signal(signal.SIGCONT)
    check(answer)
    assert 0 < answer["upstream_bytes"] < len(DATA)


def test_a_flipped_byte_on_the_neighbours_disk(pair: Pair) -> None:
    """Only the block that is wrong comes from the origin."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    flip(Path(zone.ask(neighbour).json()["path"]) / "weights.bin", PART + 17)
    sent = zone.origin.bytes_sent(zone.main)
    answer = zone.ask(node).json()
    check(answer)
    assert answer["upstream_bytes"] == len(DATA) + 2
    assert zone.origin.bytes_sent(zone.main) - sent == PART
    assert "sends 1 wrong blocks of weights.bin" in node.log()


@pytest.mark.slow
def test_a_neighbours_disk_that_is_wrong_all_over(pair: Pair) -> None:
    """A manifest that contradicts the origin: the bytes are refused as any origin's would be."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    weights = Path(zone.ask(neighbour).json()["path"]) / "weights.bin"
    weights.write_bytes(bytes(len(DATA)))
    sent = zone.origin.bytes_sent(zone.main)
    check(zone.ask(node).json())
    assert zone.origin.bytes_sent(zone.main) - sent == len(DATA)


def test_a_neighbour_whose_model_is_not_the_origins(pair: Pair) -> None:
    """Its manifest and its bytes agree, and the origin says that the model is another."""
    zone, neighbour, node = pair.zone, pair.neighbour, pair.node
    zone.origin.put(zone.main, DATA[::-1], etag='"the-same"')
    check(zone.ask(neighbour).json(), DATA[::-1])
    sha256 = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    zone.origin.put(zone.main, DATA, etag='"the-same"', x_amz_checksum_sha256=sha256)
    sent = zone.origin.bytes_sent(zone.main)
    answer = zone.ask(node).json()
    check(answer)
    assert (answer["upstream"], answer["upstream_bytes"]) == (None, 0)
    assert zone.origin.bytes_sent(zone.main) - sent == len(DATA)
    assert "gave wrong bytes: weights.bin has the sha256" in node.log()
    # The wrong file is kept for a person to look at, and nobody asks there for it again.
    assert node.admin("DELETE", f"/v1/models/{answer['key']}").status == 200
    check(zone.ask(node).json())
    assert pair.asked("used") == 1


def test_a_wrong_token_and_a_stranger_are_passed_over(zone: Zone) -> None:
    """A token that is refused, a certificate that nobody vouches for, nobody there, and one that
    can help."""
    good, wrong, nobody = free_ports(3)
    check(zone.ask(zone.daemon("good", port=good)).json())
    other = zone.token("another-token")
    zone.daemon("wrong", port=wrong, LISTEN_API_TOKEN_FILE=str(other))
    sent = zone.origin.bytes_sent(zone.main)
    stranger = f"https://127.0.0.1:{nobody}"
    node = zone.daemon("node", endpoint(wrong), stranger, endpoint(good))
    answer = zone.ask(node).json()
    check(answer)
    assert answer["upstream"] == endpoint(good)
    assert zone.origin.bytes_sent(zone.main) == sent
    assert node.metric("cachd_upstream_asks_total", result="failed") == 2
    assert "refuses this daemon's token" in node.log()


@pytest.mark.slow
def test_a_certificate_of_nobody_and_a_new_token(zone: Zone) -> None:
    [port] = free_ports(1)
    zone.ask(zone.daemon("neighbour", port=port))
    sent = zone.origin.bytes_sent(zone.main)
    distrusting = zone.daemon("distrusting", endpoint(port), UPSTREAM_CA_BUNDLE="/dev/null")
    answer = zone.ask(distrusting).json()
    check(answer)
    assert (answer["upstream"], zone.origin.bytes_sent(zone.main)) == (None, sent + len(DATA))
    token = zone.token("an-old-token")
    node = zone.daemon("node", endpoint(port), UPSTREAM_TOKEN_FILE=str(token))
    token.write_text("a-token-of-this-zone")
    answer = zone.ask(node).json()
    check(answer)
    assert answer["upstream"] == endpoint(port)


def test_a_neighbour_that_fails_is_left_alone(zone: Zone) -> None:
    [port] = free_ports(1)
    node = zone.daemon(
        "node", endpoint(port), FETCH_BACKOFF_BASE="60", FETCH_BACKOFF_MAX="60", FETCH_ATTEMPTS="1"
    )
    check(zone.ask(node).json())
    zone.fill(DATA[::-1])
    check(zone.ask(node).json(), DATA[::-1])
    assert node.metric("cachd_upstream_asks_total", result="failed") == 1
    assert node.metric("cachd_upstream_asks_total", result="held") == 1
