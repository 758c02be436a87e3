"""Requests beyond a GET with a Range: ranges and passes in the query, a POST, files that
are had at other URLs, a certificate that is shown."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from cachd.model import Auth, Connect, PlannedFile, SignedUrl, UnpackRule
from tests.fetch.conftest import BLOCK, MIB, Rig, plan_of, planned
from tests.origins.fault import Fault, FaultOrigin, pattern
from tests.servers.loopback import Handler, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = pattern(3 * BLOCK + 77)


class _Server(Server):
    """Notes each request as (method, path and query, headers in lower case, body)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(_Handler, tls, host="localhost")


class _Handler(Handler):
    server: _Server

    def _answer(self) -> None:
        body = self.read_body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, body))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        data = DATA
        if "offset" in query:
            offset = int(query["offset"][0])
            data = data[offset : offset + int(query["length"][0])]
        elif self.command == "POST":
            data = b"an answer to " + body
        elif "range" in headers:
            first, last = headers["range"].removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
            self.send(206, data, Content_Range=f"bytes {first}-{last}/{len(DATA)}")
            return
        self.send(200, data)

    do_GET = do_POST = _answer


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        yield server


async def test_ranges_that_are_asked_for_in_the_query(rig: Rig, server: _Server) -> None:
    file = PlannedFile(
        path="m",
        url=f"{server.url}/m?op=OPEN",
        size=len(DATA),
        range_query="offset={offset}&length={length}",
    )
    await rig.fetch(plan_of(file))
    assert rig.read("m") == DATA
    asked = [parse_qs(urlsplit(path).query) for _, path, _, _ in server.seen]
    assert {int(query["offset"][0]) for query in asked} == {0, BLOCK, 2 * BLOCK, 3 * BLOCK}
    assert all(query["op"] == ["OPEN"] for query in asked)
    assert all("range" not in headers for _, _, headers, _ in server.seen)


async def test_a_server_that_doesnt_know_the_query(rig: Rig, origin: FaultOrigin) -> None:
    file = planned(origin, "m", DATA, range_query="offset={offset}&length={length}")
    error = await rig.fails(plan_of(file))
    assert error.code == "origin_failed"
    assert "bytes of m" in error.message


async def test_a_post_whose_answer_is_the_file(rig: Rig, server: _Server) -> None:
    file = PlannedFile(
        path="pack",
        url=f"{server.url}/service",
        size=None,
        ranges=False,
        post="0032want é\n",
        headers=(("git-protocol", "version=2"),),
    )
    await rig.fetch(plan_of(file))
    assert rig.read("pack") == "an answer to 0032want é\n".encode()
    ((method, path, headers, body),) = server.seen
    assert (method, path, body) == ("POST", "/service", "0032want é\n".encode())
    assert headers["git-protocol"] == "version=2"


async def test_a_pass_in_the_query_goes_to_its_host_alone(
    rig: Rig, server: _Server, origin: FaultOrigin
) -> None:
    elsewhere = planned(origin, "other", pattern(MIB))
    here = PlannedFile(path="m", url=f"{server.url}/m?comp=x", size=len(DATA))
    auth = Auth(
        kind="headers",
        headers=(("x-pass", "secret"),),
        query="sig=secret",
        host=server.host,
    )
    await rig.fetch(plan_of(here, elsewhere, auth=auth))
    assert rig.read("m") == DATA
    assert all(path == "/m?comp=x&sig=secret" for _, path, _, _ in server.seen)
    assert all("secret" not in seen.target for seen in origin.seen)
    assert all("x-pass" not in seen.headers for seen in origin.seen)


async def test_files_that_are_had_at_other_urls(
    rig: Rig, server: _Server, origin: FaultOrigin
) -> None:
    """Neither the general pass nor another file's headers go there."""
    data = pattern(MIB)
    origin.put("/signed", data, etag="")
    large = PlannedFile(path="large", url="https://planned.invalid/large", size=len(data))
    small = PlannedFile(path="m", url=f"{server.url}/m", size=len(DATA))
    signed = SignedUrl(
        planned=large.url, url=origin.url("/signed?sig=1"), headers=(("x-own", "a"),)
    )
    here = server.host
    auth = Auth(kind="headers", headers=(("x-pass", "b"),), host=here, signed=(signed,))
    await rig.fetch(plan_of(large, small, auth=auth))
    assert rig.read("large") == data
    assert all(seen.headers.get("x-own") == "a" for seen in origin.seen)
    assert all("x-pass" not in seen.headers for seen in origin.seen)
    assert all("x-own" not in headers for _, _, headers, _ in server.seen)
    assert all(headers["x-pass"] == "b" for _, _, headers, _ in server.seen)


async def test_signed_urls_that_expire_are_renewed(rig: Rig, origin: FaultOrigin) -> None:
    data = pattern(MIB)
    origin.put("/new", data, etag="")
    file = PlannedFile(path="m", url="https://planned.invalid/m", size=len(data))
    first = Auth(kind="headers", signed=(SignedUrl(planned=file.url, url=origin.url("/old")),))
    origin.put("/old", b"", etag="")
    origin.fault("/old", Fault("status", status=403))
    rig.auths = [replace(first, signed=(SignedUrl(planned=file.url, url=origin.url("/new")),))]
    await rig.fetch(plan_of(file, auth=first))
    assert rig.read("m") == data
    assert rig.refreshed == 1


async def test_a_certificate_that_is_shown(rig: Rig) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    client = authority.issue_cert("client.example")
    shown = (client.private_key_and_cert_chain_pem.bytes()).decode()
    connect = Connect(ca_pem=authority.cert_pem.bytes().decode())
    with _Server(context) as server:
        file = PlannedFile(path="m", url=f"{server.url}/m", size=len(DATA))
        error = await rig.fails(plan_of(file, connect=connect))
        assert error.code == "origin_tls"
        assert shown not in repr(replace(connect, client_pem=shown))
        await rig.fetch(plan_of(file, connect=replace(connect, client_pem=shown)))
        assert rig.read("m") == DATA
        wrong = replace(connect, client_pem="-----BEGIN CERTIFICATE-----\nnone\n")
        error = await rig.fails(plan_of(file, connect=wrong))
        assert error.code == "request_invalid"
        assert "client_pem" in error.message


async def test_a_tree_by_rules(rig: Rig, origin: FaultOrigin) -> None:
    """What was fetched under one name becomes a file of another, without a copy."""
    first, second = pattern(BLOCK + 3), pattern(100, 7)
    plan = plan_of(
        planned(origin, "blobs/1", first),
        planned(origin, "blobs/2", second),
        unpack="rules",
        rules=(
            UnpackRule(file="blobs/1", kind="file", into="deep/model.bin"),
            UnpackRule(file="blobs/2", kind="file", into="config.json"),
        ),
    )
    result = await rig.fetch(plan)
    assert [file.path for file in result.files] == ["config.json", "deep/model.bin"]
    assert rig.read("deep/model.bin") == first
    assert rig.read("config.json") == second
    assert not (rig.root / "archive").exists()


async def test_rules_that_lead_out_of_the_tree(rig: Rig, origin: FaultOrigin) -> None:
    rule = UnpackRule(file="a", kind="file", into="../out")
    error = await rig.fails(plan_of(planned(origin, "a", b"x"), unpack="rules", rules=(rule,)))
    assert error.code == "path_unsafe"
    assert not (rig.root / "out").exists()
