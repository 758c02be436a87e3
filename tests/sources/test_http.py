"""``http(s)://``: real servers where they do, written answers where they won't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    CachdError,
    ContentTypeInvalid,
    CredentialsInvalid,
    CredentialsMissing,
    EgressForbidden,
    NotFound,
    OriginBusy,
    OriginError,
    OriginTls,
    OriginUnreachable,
)
from cachd.model import Auth
from tests.servers.origin import serve
from tests.servers.ports import free_ports
from tests.sources.asking import NONE, context, paths, request, resolve, settings

if TYPE_CHECKING:
    from tests.servers.certificates import Certificates
    from tests.servers.nginx import Nginx
from tests.sources.answering import OCTETS, file, status

# --- statuses and failures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (401, CredentialsMissing, "authentication"),
        (403, AccessError, "access denied"),
        (404, NotFound, "not found"),
        (410, NotFound, "not found"),
        (418, OriginError, "418"),
        (429, OriginBusy, "busy"),
        (500, OriginError, "500"),
        (503, OriginBusy, "busy"),
    ],
)
async def test_statuses(code: int, error: type[CachdError], words: str) -> None:
    async with serve(status(code, Retry_After="7")) as origin:
        with pytest.raises(CachdError, match=words) as caught:
            await resolve(f"{origin.url}/x?sig=secret", NONE, max_attempts=1)
    assert type(caught.value) is error
    assert "secret" not in caught.value.message
    if error is OriginBusy:
        assert caught.value.retry_after == 7


async def test_refused_headers_are_not_missing_ones() -> None:
    async with serve(status(401)) as origin:
        headers = Credentials(headers=(("127.0.0.1", (("Authorization", "Bearer bad"),)),))
        with pytest.raises(CredentialsInvalid, match="authentication") as caught:
            await resolve(f"{origin.url}/x", headers)
    assert "bad" not in str(caught.value.to_wire())


async def test_failed_connections(certificates: Certificates, nginx: Nginx) -> None:
    (port,) = free_ports(1)
    for url in (f"http://127.0.0.1:{port}/x", "http://no-such-host.invalid/x"):
        with pytest.raises(OriginUnreachable, match="no connection"):
            await resolve(url, NONE, max_attempts=1)
    (nginx.root / "tls.bin").write_bytes(b"1234")
    url = f"{nginx.tls_url}/tls.bin"
    with pytest.raises(OriginTls, match="certificate"):
        await resolve(url, NONE)
    plan = await resolve(url, NONE, ca_pem=certificates.ca_pem)
    assert plan.connect.ca_pem == certificates.ca_pem
    given = settings(http={"ca_bundle": str(certificates.ca)})
    assert (await resolve(url, NONE, given=given)).connect.ca_pem == certificates.ca_pem
    assert not (await resolve(url, NONE, verify=False)).connect.verify


async def test_tried_again() -> None:
    tries = 0

    async def respond(_: web.BaseRequest) -> web.Response:
        nonlocal tries
        tries += 1
        if tries < 3:
            return web.Response(status=500)
        return web.Response(body=b"1", content_type=OCTETS)

    async with serve(respond) as origin:
        assert paths(await resolve(f"{origin.url}/x", NONE)) == {"x": 1}


# --- what the origin can do --------------------------------------------------------------------


async def test_nginx(nginx: Nginx) -> None:
    (nginx.root / "weights.bin").write_bytes(b"x" * 1000)
    (nginx.root / "empty.bin").write_bytes(b"")
    plan = await resolve(f"{nginx.plain_url}/weights.bin", NONE)
    (planned,) = plan.files
    assert (planned.size, planned.ranges, plan.is_validated) == (1000, True, True)
    assert planned.validator.strong_etag
    assert planned.validator.last_modified
    assert not plan.is_credentialed
    assert plan.auth == Auth()
    again = await resolve(f"{nginx.plain_url}/weights.bin?x=1", NONE)
    assert again.revision != plan.revision
    assert (await resolve(f"{nginx.plain_url}/weights.bin", NONE)).revision == plan.revision
    (nginx.root / "weights.bin").write_bytes(b"y" * 1001)
    assert (await resolve(f"{nginx.plain_url}/weights.bin", NONE)).revision != plan.revision
    assert paths(await resolve(f"{nginx.plain_url}/empty.bin", NONE)) == {"empty.bin": 0}
    (nginx.root / "page.html").write_text("hello")
    with pytest.raises(ContentTypeInvalid):
        await resolve(f"{nginx.plain_url}/page.html", NONE)


async def test_no_ranges_and_no_validators() -> None:
    async with serve(file()) as origin:
        plan = await resolve(f"{origin.url}/x", NONE)
    assert not plan.files[0].ranges
    assert not plan.is_validated


async def test_a_server_that_has_no_head() -> None:
    async def respond(asked: web.BaseRequest) -> web.Response:
        if asked.method == "HEAD":
            return web.Response(status=403)
        assert asked.headers["Range"] == "bytes=0-0"
        assert asked.headers["Accept-Encoding"] == "identity"
        return web.Response(
            status=206,
            body=b"x",
            content_type=OCTETS,
            headers={"Content-Range": "bytes 0-0/777", "ETag": '"v1"'},
        )

    async with serve(respond) as origin:
        plan = await resolve(f"{origin.url}/x", NONE)
    (planned,) = plan.files
    assert (planned.size, planned.ranges, planned.validator.etag) == (777, True, '"v1"')


async def test_a_stream_of_unknown_length() -> None:
    async def respond(asked: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": OCTETS})
        answer.enable_chunked_encoding()
        await answer.prepare(asked)
        try:
            for _ in range(10_000):
                await answer.write(b"x" * 65536)
        except ConnectionError:
            pass
        return answer

    async with serve(respond) as origin:
        plan = await resolve(f"{origin.url}/x", NONE)
    assert (plan.files[0].size, plan.files[0].ranges) == (None, False)


async def test_encoded_bodies_have_no_ranges() -> None:
    headers = {"Accept_Ranges": "bytes", "Content_Encoding": "gzip", "ETag": 'W/"v1"'}
    async with serve(file(**headers)) as origin:
        plan = await resolve(f"{origin.url}/x", NONE)
    assert not plan.files[0].ranges
    assert not plan.is_validated


# --- redirects, headers, egress ----------------------------------------------------------------


async def test_redirects_keep_secrets_at_home() -> None:
    secret = (("Authorization", "Bearer secret"), ("X-Token", "secret"), ("Host", "evil"))
    async with serve(file(Accept_Ranges="bytes", ETag='"e"'), host="localhost") as final:

        async def respond(_: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": f"{final.url}/real/name?sig=1#f"})

        async with serve(respond) as first:
            plan = await resolve(
                f"{first.url}/model.bin", Credentials(headers=(("127.0.0.1", secret),))
            )
    assert first.seen[0][2]["Authorization"] == "Bearer secret"
    assert first.seen[0][2]["X-Token"] == "secret"
    assert first.seen[0][2]["Host"] != "evil"
    for _, _, headers in final.seen:
        assert "secret" not in str(headers)
    assert plan.files[0].url == f"{first.url}/model.bin"
    assert plan.files[0].validator.etag == '"e"'
    assert paths(plan) == {"model.bin": 5}
    assert plan.is_credentialed
    assert plan.auth == Auth(kind="headers", headers=secret[:2], host=first.url[7:])


async def test_the_end_of_a_redirect_is_planned_where_it_takes_headers_of_its_own() -> None:
    """A plan has headers for one host; those of the last are the ones that open the file."""
    both = Credentials(headers=(("127.0.0.1", (("X-A", "1"),)), ("localhost", (("X-B", "2"),))))
    async with (
        serve(file(Accept_Ranges="bytes"), host="localhost") as final,
        serve(status(302, Location=f"{final.url}/real")) as first,
    ):
        plan = await resolve(f"{first.url}/model.bin", both)
    assert plan.files[0].url == f"{final.url}/real"
    assert plan.auth == Auth(kind="headers", headers=(("X-B", "2"),), host=final.url[7:])


async def test_the_callers_own_signature_is_planned() -> None:
    async with (
        serve(file(Accept_Ranges="bytes")) as final,
        serve(status(302, Location=f"{final.url}/real?sig=cdn")) as first,
    ):
        plan = await resolve(f"{first.url}/m.bin?v=1", Credentials(query="sig=caller&sv=1"))
    assert plan.files[0].url == f"{first.url}/m.bin?v=1&sig=caller&sv=1"


async def test_headers_go_to_their_host_and_port() -> None:
    async with serve(file(Accept_Ranges="bytes")) as origin:
        host = origin.url.removeprefix("http://")
        other = Credentials(headers=(("127.0.0.1:1", (("X-A", "1"),)), ("h", (("X-B", "1"),))))
        plan = await resolve(f"{origin.url}/x", other)
        assert not plan.is_credentialed
        assert not {"X-A", "X-B"} & set(origin.seen[0][2])
        own = Credentials(headers=((host, (("X-A", "secret"),)),))
        plan = await resolve(f"{origin.url}/x", own)
        assert plan.auth == Auth(kind="headers", headers=(("X-A", "secret"),), host=host)
        assert plan.is_credentialed
        assert "secret" not in repr(plan)
        plan = await resolve(f"{origin.url}/x", own, identity="daemon")
        assert plan.auth == Auth()
        source, asked = request(f"{origin.url}/x", own)
        assert await source.authorize(asked, context()) == Auth(
            kind="headers", headers=(("X-A", "secret"),), host=host
        )


async def test_probe() -> None:
    async def respond(asked: web.BaseRequest) -> web.Response:
        allowed = asked.headers.get("X-Pass") == "good"
        return web.Response(status=200 if allowed else 401, body=b"1", content_type=OCTETS)

    async with serve(respond) as origin:
        for value, allowed in (("good", True), ("bad", False)):
            own = Credentials(headers=(("127.0.0.1", (("X-Pass", value),)),))
            source, asked = request(f"{origin.url}/x", own)
            if allowed:
                await source.probe(asked, "x", context())
            else:
                with pytest.raises(CredentialsInvalid):
                    await source.probe(asked, "x", context())


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/x",
        "http://2852039166/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://metadata.google.internal/x",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/x",
        "gopher://h/x",
    ],
)
async def test_redirects_to_where_nobody_may_go(location: str) -> None:
    async with serve(status(302, Location=location)) as origin:
        with pytest.raises(EgressForbidden):
            await resolve(f"{origin.url}/x", NONE)


async def test_egress_of_the_uri_itself() -> None:
    with pytest.raises(EgressForbidden):
        await resolve("http://169.254.169.254/latest/x", NONE)
    given = settings(egress={"allow": ["models.example.com"]})
    with pytest.raises(EgressForbidden):
        await resolve("http://127.0.0.1:1/x", NONE, given=given)


async def test_redirects_in_a_circle() -> None:
    async with serve(status(302, Location="/x")) as origin:
        with pytest.raises(OriginError, match="more than 5 times"):
            await resolve(f"{origin.url}/x", NONE, max_attempts=1)
    assert [method for method, _, _ in origin.seen] == ["HEAD"] * 6 + ["GET"] * 6


async def test_no_way_from_https_to_http(certificates: Certificates) -> None:
    tls = certificates.server_context()
    async with (
        serve(file()) as plain,
        serve(status(302, Location=f"{plain.url}/x"), tls) as secure,
    ):
        with pytest.raises(EgressForbidden, match="from https to http"):
            await resolve(f"{secure.url}/x", NONE, ca_pem=certificates.ca_pem)
    assert plain.seen == []


async def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(file(Accept_Ranges="bytes")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert paths(await resolve("http://models.invalid/x", NONE)) == {"x": 5}
        assert [target for _, target, _ in proxy.seen] == ["http://models.invalid/x"]
        monkeypatch.setenv("no_proxy", "models.invalid")
        with pytest.raises(OriginUnreachable):
            await resolve("http://models.invalid/x", NONE, max_attempts=1)
        monkeypatch.delenv("no_proxy")
        with pytest.raises(EgressForbidden):
            await resolve("http://169.254.169.254/x", NONE)


async def test_a_netrc_is_nobodys_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login daemon password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serve(file(Accept_Ranges="bytes")) as origin:
        await resolve(f"{origin.url}/x", NONE)
    assert all("Authorization" not in headers for _, _, headers in origin.seen)


@pytest.mark.parametrize(
    ("header", "created"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", "2015-10-21T07:28:00+00:00"),
        ("Wed, 21 Oct 2015 09:28:00 +0200", "2015-10-21T07:28:00+00:00"),
        ("yesterday", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        (None, None),
    ],
)
async def test_when_it_was_made_is_told(header: str | None, created: str | None) -> None:
    headers = {"Last_Modified": header} if header else {}
    async with serve(file(**headers)) as origin:
        plan = await resolve(f"{origin.url}/m.bin", NONE)
    assert plan.metadata == ({"created": created} if created else {})
