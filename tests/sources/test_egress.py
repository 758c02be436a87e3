from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import EgressForbidden, UriInvalid
from cachd.sources.egress import guarded_resolver, literal_address
from tests.sources.asking import guard

if TYPE_CHECKING:
    import ipaddress

METADATA = [
    "169.254.169.254",
    "169.254.0.1",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "169.254.169.254.",
    "１６９.254.169.254",
    "169.254.169.２５４",
    "::ffff:169.254.169.254",
    "[::ffff:a9fe:a9fe]",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "::ffff:0:169.254.169.254",
    "2001:0:1:1:0:0:5601:5601",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "0",
    "::",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", METADATA)
def test_dangerous_hosts(host: str) -> None:
    with pytest.raises(EgressForbidden, match="link-local"):
        guard().check_host(host)
    guard(allow_link_local=True).check_host(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "minio.minio.svc", "s3.amazonaws.com",
             "xn--bcher-kva.example", "fd12::1", "8.8.8.8", "my_bucket.example"]
)  # fmt: skip
def test_stores_in_a_cluster_and_outside(host: str) -> None:
    guard().check_host(host)


@pytest.mark.parametrize("host", ["1.2.3.4.5", "0x", "256.1.1.1", "a%2e", "a b", "", "a:b", "x/y"])
def test_neither_name_nor_address(host: str) -> None:
    with pytest.raises(EgressForbidden):
        guard().check_host(host)


def test_allowed_names_alone() -> None:
    only = guard(allow=("*.example.com", "minio"))
    only.check_host("a.example.com")
    only.check_address("10.0.0.1", "minio")
    for host in ("example.org", "example.com", "10.0.0.1"):
        with pytest.raises(EgressForbidden, match="not on this node's list"):
            only.check_host(host)


def test_allowed_networks_alone() -> None:
    only = guard(allow=("10.0.0.0/8", "fd00::/8"))
    only.check_host("anything.example")
    only.check_address("10.1.1.1", "anything.example")
    only.check_host("fd12::5")
    for address in ("11.0.0.1", "::1", "::ffff:11.0.0.1"):
        with pytest.raises(EgressForbidden):
            only.check_address(address, "anything.example")


def test_denial_wins() -> None:
    rules = guard(allow=("*.example.com", "10.0.0.0/8"), deny=("bad.example.com", "10.9.0.0/16"))
    rules.check_address("10.1.1.1", "good.example.com")
    with pytest.raises(EgressForbidden, match="not to be called"):
        rules.check_host("BAD.example.com")
    with pytest.raises(EgressForbidden):
        rules.check_address("10.9.1.1", "good.example.com")
    with pytest.raises(EgressForbidden):
        guard(deny=("127.0.0.1",)).check_url("http://0x7f000001/")


def test_urls() -> None:
    guard().check_url("https://host:8443/x")
    with pytest.raises(EgressForbidden):
        guard().check_url("http://user@169.254.169.254:80/latest")
    for url in ("http://", "file:///x", "http://[::1"):
        with pytest.raises(UriInvalid):
            guard().check_url(url)


@given(st.ip_addresses(v=4))
def test_every_spelling_is_one_address(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    a, b, c, d = address.packed
    for text in (
        str(address),
        str(number),
        hex(number),
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{c << 8 | d}",
        f"0x{a:x}.0{b:o}.{c}.{d}",
        f"::ffff:{address}",
    ):
        assert literal_address(text) == address


@given(st.ip_addresses(network="169.254.0.0/16"))
def test_no_spelling_of_link_local_passes(address: ipaddress.IPv4Address) -> None:
    for text in (str(int(address)), hex(int(address)), f"::ffff:{address}", f"0{int(address):o}"):
        with pytest.raises(EgressForbidden):
            guard().check_host(text)


async def test_dns_answers_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [("127.0.0.1", 80), ("169.254.169.254", 80)]

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", a) for a in answers]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = guarded_resolver(guard())
    with pytest.raises(EgressForbidden, match=r"rebind.example \(169.254.169.254\)"):
        await resolver.resolve("rebind.example", 80)
    answers.pop()
    assert [a["host"] for a in await resolver.resolve("rebind.example", 80)] == ["127.0.0.1"]
    await resolver.close()


def test_behind_a_proxy_only_names_can_be_judged() -> None:
    rules = guard(allow=("good.example", "10.0.0.0/8"), deny=("bad.example",))
    rules.check_proxied("good.example")
    rules.check_proxied("10.1.1.1")
    for host in ("other.example", "bad.example", "11.0.0.1", "metadata.google.internal"):
        with pytest.raises(EgressForbidden):
            rules.check_proxied(host)
    guard().check_proxied("any.example")
