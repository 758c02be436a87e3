"""https, and both kinds of proxying, by real workers."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from cachd.model import Connect
from cachd.settings import EgressSettings
from tests.fetch.conftest import MIB, Rig, plan_of, planned
from tests.origins.fault import Fault, FaultOrigin, pattern
from tests.origins.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = pattern(20 * MIB + 5)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_origin(authority: trustme.CA) -> Iterator[FaultOrigin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with FaultOrigin(context) as origin:
        yield origin


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


async def test_https(rig: Rig, tls_origin: FaultOrigin, authority: trustme.CA) -> None:
    small = [planned(tls_origin, f"f{i}", pattern(5000, i)) for i in range(300)]
    plan = plan_of(planned(tls_origin, "m", DATA), *small, connect=Connect(ca_pem=pem(authority)))
    await rig.fetch(plan)
    assert rig.read("m") == DATA
    assert all(rig.read(f"f{i}") == pattern(5000, i) for i in range(300))
    assert tls_origin.open_most <= 8


async def test_an_unknown_authority(rig: Rig, tls_origin: FaultOrigin) -> None:
    error = await rig.fails(plan_of(planned(tls_origin, "m", DATA)))
    assert error.code == "origin_tls"
    assert rig.retries == []
    await rig.fetch(plan_of(planned(tls_origin, "m", DATA), connect=Connect(verify=False)))
    assert rig.read("m") == DATA


async def test_a_name_that_is_not_in_the_certificate(
    rig: Rig, tls_origin: FaultOrigin, authority: trustme.CA
) -> None:
    url = tls_origin.url("/m").replace("localhost", "127.0.0.2")
    file = planned(tls_origin, "m", DATA, url=url)
    plan = plan_of(file, connect=Connect(ca_pem=pem(authority)))
    await rig.mover(attempts=1)
    assert (await rig.fails(plan)).code in {"origin_tls", "origin_unreachable"}


@pytest.mark.parametrize("kind", ["reset", "close", "stall", "drip", "chunked", "no_length"])
async def test_faults_over_tls(
    rig: Rig, tls_origin: FaultOrigin, authority: trustme.CA, kind: str
) -> None:
    fault = Fault(kind, after=3 * MIB, chunk=400_000, seconds=0.02)
    tls_origin.fault("/m", fault, times=2)
    await rig.mover(stall_window=1)
    plan = plan_of(planned(tls_origin, "m", DATA), connect=Connect(ca_pem=pem(authority)))
    await rig.fetch(plan)
    assert rig.read("m") == DATA


async def test_plain_http_to_a_tls_port(rig: Rig, tls_origin: FaultOrigin) -> None:
    url = tls_origin.url("/m").replace("https", "http")
    await rig.mover(attempts=1)
    error = await rig.fails(plan_of(planned(tls_origin, "m", DATA, url=url)))
    assert error.code in {"origin_failed", "origin_unreachable"}


async def test_through_a_proxy(
    rig: Rig,
    origin: FaultOrigin,
    tls_origin: FaultOrigin,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Proxy("us:er") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://us:er@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("HTTPS_PROXY", f"http://us:er@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        await rig.fetch(plan_of(planned(origin, "m", DATA)))
        assert all(line.startswith(f"GET {origin.base}/m") for line in proxy.requests)
        count = len(proxy.requests)
        plan = plan_of(planned(tls_origin, "n", DATA), connect=Connect(ca_pem=pem(authority)))
        await rig.fetch(plan)
        assert rig.read("m") == rig.read("n") == DATA
        assert set(proxy.requests[count:]) == {f"CONNECT localhost:{tls_origin.port}"}


async def test_a_proxy_that_refuses(
    rig: Rig, tls_origin: FaultOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy("us:er") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://wrong:one@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "example.com")
        monkeypatch.delenv("no_proxy", raising=False)
        await rig.mover(attempts=2)
        error = await rig.fails(plan_of(planned(tls_origin, "m", DATA)))
        assert "407" in error.message
        assert "wrong" not in error.message


async def test_an_address_that_may_not_be_called(rig: Rig, origin: FaultOrigin) -> None:
    await rig.mover(egress=EgressSettings(deny=("127.0.0.0/8",)))
    file = planned(origin, "m", DATA)
    assert (await rig.fails(plan_of(file))).code == "egress_forbidden"
    named = planned(origin, "m", DATA, url=origin.url("/m").replace("127.0.0.1", "localhost"))
    assert (await rig.fails(plan_of(named))).code == "egress_forbidden"
    assert origin.seen == []
