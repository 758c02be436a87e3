"""Calls at sources' APIs: the body, where headers go, and what is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import ContentError, CredentialsInvalid, EgressForbidden, OriginError
from cachd.model import Connect
from cachd.sources.http_client import HttpClient
from tests.origins.fault import Fault, FaultOrigin
from tests.sources.asking import guard

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin() as origin:
        yield origin


@pytest.fixture
def other() -> Iterator[FaultOrigin]:
    with FaultOrigin() as origin:
        yield origin


def client(credentials: Credentials = Credentials(), **more: Any) -> HttpClient:
    fields = {"guard": guard(), "max_redirects": 3, "attempts": 2, **more}
    return HttpClient(connect=Connect(), credentials=credentials, **fields)


async def test_the_body_as_json(origin: FaultOrigin) -> None:
    origin.put("/api", b'{"sha": "abc"}')
    async with client(keep_alive=True) as http:
        for _ in range(3):
            answer = await http.call("GET", origin.url("/api"), headers={"X-Ours": "1"})
            assert (answer.status, answer.json()) == (200, {"sha": "abc"})
    assert all(seen.headers["x-ours"] == "1" for seen in origin.seen)
    assert len({seen.peer for seen in origin.seen}) == 1


async def test_no_json(origin: FaultOrigin) -> None:
    origin.put("/api", b"<html>secret</html>")
    async with client() as http:
        answer = await http.call("GET", origin.url("/api"))
    with pytest.raises(OriginError, match="no JSON") as caught:
        answer.json()
    assert "secret" not in str(caught.value)


async def test_our_headers_dont_follow_a_redirect_elsewhere(
    origin: FaultOrigin, other: FaultOrigin
) -> None:
    other.put("/there", b"{}")
    origin.put("/here", b"")
    origin.fault("/here", Fault("redirect", status=302, location=other.url("/there")))
    mine = Credentials(headers=((other.base.removeprefix("http://"), (("X-Mine", "1"),)),))
    async with client(mine) as http:
        answer = await http.call("GET", origin.url("/here"), headers={"Authorization": "Bearer x"})
    assert answer.status == 200
    assert origin.seen[0].headers["authorization"] == "Bearer x"
    (seen,) = other.seen
    assert "authorization" not in seen.headers
    assert seen.headers["x-mine"] == "1"


async def test_an_answer_is_not_for_logs(origin: FaultOrigin) -> None:
    origin.put("/token", b'{"access_token": "sesame-1"}')
    mine = Credentials(headers=((origin.base.removeprefix("http://"), (("X-Mine", "sesame-2"),)),))
    async with client(mine) as http:
        answer = await http.call("GET", origin.url("/token?sig=sesame-3"))
    assert answer.first_headers
    assert "sesame" not in repr(answer)


@pytest.mark.parametrize("value", ["Bearer a\nb", "a\r", "\0"])
async def test_a_header_that_can_be_no_header(origin: FaultOrigin, value: str) -> None:
    async with client() as http:
        with pytest.raises(CredentialsInvalid, match="line break") as caught:
            await http.call("GET", origin.url("/api"), headers={"Authorization": value})
    assert caught.value.hint
    assert origin.seen == []


async def test_a_body_that_is_too_long(origin: FaultOrigin) -> None:
    origin.put("/api", b"x" * 5000)
    async with client() as http:
        with pytest.raises(ContentError, match="more than 4999 bytes"):
            await http.call("GET", origin.url("/api"), most=4999)
        assert len((await http.call("GET", origin.url("/api"), most=5000)).body) == 5000


async def test_what_may_not_be_called_is_not(origin: FaultOrigin) -> None:
    origin.put("/api", b"{}")
    async with client(guard=guard(deny=("localhost", "127.0.0.1"))) as http:
        with pytest.raises(EgressForbidden):
            await http.call("POST", origin.url("/api"), data=b"{}")
    assert origin.seen == []


async def test_a_server_error_is_tried_again(origin: FaultOrigin) -> None:
    origin.put("/api", b"{}")
    origin.fault("/api", Fault("status", status=500), times=1)
    async with client() as http:
        assert (await http.call("GET", origin.url("/api"))).status == 200
    assert len(origin.seen) == 2
