"""``s3://`` against answers that real servers here don't give."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import pytest
from aiohttp import web
from botocore.exceptions import ProxyConnectionError

from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsExpired,
    EgressForbidden,
    InvalidError,
    NotFound,
    OriginBusy,
    OriginError,
    OriginUnreachable,
    PathUnsafe,
)
from cachd.model import Connect
from tests.servers.origin import serve
from tests.sources.asking import KEYS, paths, resolve, settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Respond = Any


def listing(objects: Mapping[str, int], more: str = "") -> web.Response:
    items = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;e&quot;</ETag></Contents>"
        for key, size in objects.items()
    )
    return web.Response(
        content_type="application/xml",
        text=f'<?xml version="1.0"?><ListBucketResult>{items}{more}</ListBucketResult>',
    )


def refusal(status: int, code: str, extra: str = "", **headers: str) -> web.Response:
    return web.Response(
        status=status,
        content_type="application/xml",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        text=f"<Error><Code>{code}</Code><Message>told</Message>{extra}</Error>",
    )


def bucket_of(objects: Mapping[str, int]) -> Respond:
    async def respond(request: web.BaseRequest) -> web.Response:
        return web.Response(status=404) if request.method == "HEAD" else listing(objects)

    return respond


def always(*answer: Any, **kwargs: Any) -> Respond:
    async def respond(request: web.BaseRequest) -> web.Response:
        status = answer[0]
        return (
            web.Response(status=status) if request.method == "HEAD" else refusal(*answer, **kwargs)
        )

    return respond


@pytest.mark.parametrize(
    "key",
    ["m/../x", "m/a/../../x", "m//x", "m/./x", "m/.", "m/..", "m/a//b", "m/" + "n" * 256,
     "m/" + "/".join(["d" * 250] * 17), "m/sub/"],
)  # fmt: skip
async def test_hostile_keys(key: str) -> None:
    async with serve(bucket_of({"m/good": 1, key: 1})) as origin:
        with pytest.raises(PathUnsafe):
            await resolve("s3://bucket/m", endpoint=origin.url)


async def test_a_file_that_is_a_directory_too() -> None:
    async with serve(bucket_of({"m/a": 1, "m/a/b": 1})) as origin:
        with pytest.raises(PathUnsafe, match="directory"):
            await resolve("s3://bucket/m", endpoint=origin.url)
        plan = await resolve("s3://bucket/m", endpoint=origin.url, ignore=("a",))
        assert paths(plan) == {"a/b": 1}


async def test_keys_outside_the_prefix_are_no_answer() -> None:
    async with serve(bucket_of({"other/x": 1})) as origin:
        with pytest.raises(CachdError, match="outside the asked prefix"):
            await resolve("s3://bucket/m", endpoint=origin.url)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "ExpiredToken", CredentialsExpired),
        (403, "RequestTimeTooSkewed", OriginError),
        (403, "AccessDenied", AccessError),
        (403, "SomethingElse", AccessError),
        (404, "NoSuchBucket", NotFound),
        (503, "SlowDown", OriginBusy),
        (429, "TooManyRequests", OriginBusy),
        (500, "InternalError", OriginError),
        (400, "InvalidBucketName", InvalidError),
    ],
)
async def test_codes_decide(status: int, code: str, error: type[CachdError]) -> None:
    async with serve(always(status, code)) as origin:
        with pytest.raises(CachdError) as caught:
            await resolve("s3://bucket/m", endpoint=origin.url, max_attempts=1)
    assert type(caught.value) is error
    if error in {CredentialsExpired, AccessError}:
        assert "S3" in caught.value.message


async def test_denied_to_list_but_not_to_read() -> None:
    async def respond(request: web.BaseRequest) -> web.Response:
        if request.method == "HEAD":
            return web.Response(body=b"x" * 7, headers={"ETag": '"e"'})
        return refusal(403, "AccessDenied")

    async with serve(respond) as origin:
        assert paths(await resolve("s3://bucket/d/k", endpoint=origin.url)) == {"k": 7}


async def test_allowed_to_list_but_not_to_read() -> None:
    async def respond(request: web.BaseRequest) -> web.Response:
        return web.Response(status=403) if request.method == "HEAD" else listing({})

    async with serve(respond) as origin:
        with pytest.raises(AccessError, match="S3 access denied"):
            await resolve("s3://bucket/k", endpoint=origin.url)


@pytest.mark.parametrize("how", ["header", "element"])
async def test_a_bucket_in_another_region_is_found_once(how: str) -> None:
    async def respond(request: web.BaseRequest) -> web.Response:
        if "/eu-west-1/s3/" in request.headers["Authorization"]:
            return web.Response(status=404) if request.method == "HEAD" else listing({"m/x": 1})
        if how == "header":
            header = {"x_amz_bucket_region": "eu-west-1"}
            if request.method == "HEAD":
                return web.Response(status=301, headers={"x-amz-bucket-region": "eu-west-1"})
            return refusal(301, "PermanentRedirect", **header)
        if request.method == "HEAD":
            return web.Response(status=400)
        return refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>")

    async with serve(respond) as origin:
        plan = await resolve("s3://bucket/m", endpoint=origin.url)
    assert paths(plan) == {"x": 1}
    assert plan.auth.region == "eu-west-1"


async def test_redirects_are_not_followed() -> None:
    """A security token must not travel to wherever an endpoint points."""
    thief_saw: list[str] = []

    async def thief(request: web.BaseRequest) -> web.Response:
        thief_saw.append(request.path)
        return listing({"m/x": 1})

    async with serve(thief) as elsewhere:

        async def respond(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": f"{elsewhere.url}/steal"})

        async with serve(respond) as origin:
            with pytest.raises(CachdError):
                await resolve("s3://bucket/m", endpoint=origin.url, max_attempts=1)
    assert thief_saw == []


async def test_egress() -> None:
    for endpoint in ("http://169.254.169.254", "http://metadata.google.internal"):
        with pytest.raises(EgressForbidden):
            await resolve("s3://bucket/m", endpoint=endpoint)
    given = settings(egress={"deny": ["127.0.0.0/8", "::1"]})
    with pytest.raises(EgressForbidden, match=r"localhost \("):
        await resolve("s3://bucket/m", endpoint="http://localhost:1", given=given)


async def test_an_endpoint_that_is_no_s3() -> None:
    async def respond(request: web.BaseRequest) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=404)
        return web.Response(text="<html>hello", content_type="text/html")

    async with serve(respond) as origin:
        with pytest.raises(OriginError):
            await resolve("s3://bucket/m", endpoint=origin.url, max_attempts=1)


async def test_an_endless_answer() -> None:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "HEAD":
            return web.Response(status=404)
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            for _ in range(200):
                await answer.write(b" " * 1024 * 1024)
        except ConnectionError:
            pass
        return answer

    async with serve(respond) as origin:
        with pytest.raises(OriginError, match="longer than 32 MiB"):
            await resolve("s3://bucket/m", endpoint=origin.url, max_attempts=1)


async def test_time_limits_and_attempts() -> None:
    tries = 0
    enough = asyncio.Event()

    async def respond(request: web.BaseRequest) -> web.Response:
        nonlocal tries
        tries += request.method == "GET"
        await enough.wait()
        return listing({})

    loop = asyncio.get_running_loop()
    async with serve(respond) as origin:
        started = loop.time()
        with pytest.raises(OriginUnreachable, match="in time"):
            await resolve("s3://bucket/m", endpoint=origin.url, read_timeout=1, max_attempts=2)
        assert tries == 2
        assert loop.time() - started < 20
        enough.set()


async def test_busy_is_said_at_once() -> None:
    """The daemon's breaker holds everybody off; botocore's own tries would go around it."""
    tries = 0

    async def respond(request: web.BaseRequest) -> web.Response:
        nonlocal tries
        if request.method == "HEAD":
            return web.Response(status=404)
        tries += 1
        return refusal(503, "SlowDown") if tries == 1 else listing({"m/x": 1})

    async with serve(respond) as origin:
        with pytest.raises(OriginBusy):
            await resolve("s3://bucket/m", endpoint=origin.url)
        assert tries == 1
        assert paths(await resolve("s3://bucket/m", endpoint=origin.url)) == {"x": 1}


async def test_virtual_style(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(bucket_of({"m/x": 1})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        plan = await resolve(
            "s3://bkt/m", endpoint="http://store.invalid:9000", addressing="virtual"
        )
    assert plan.files[0].url == "http://bkt.store.invalid:9000/m/x"
    targets = {target.partition("?")[0] for _, target, _ in proxy.seen}
    assert targets == {"http://bkt.store.invalid:9000/", "http://bkt.store.invalid:9000/m"}


async def test_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(bucket_of({"m/x": 1})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        plan = await resolve("s3://bucket/m", endpoint="http://store.invalid:9000")
        assert paths(plan) == {"x": 1}
        assert {path.split("?")[0] for _, path, _ in proxy.seen} >= {
            "http://store.invalid:9000/bucket"
        }
        monkeypatch.setenv("no_proxy", "store.invalid")
        with pytest.raises(OriginUnreachable):
            await resolve("s3://bucket/m", endpoint="http://store.invalid:9000", max_attempts=1)


async def test_accelerate_is_for_aws_alone() -> None:
    with pytest.raises(InvalidError) as caught:
        await resolve("s3://bucket/m", endpoint="http://127.0.0.1:1", accelerate=True)
    assert caught.value.field == "options.accelerate"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "https://bkt.s3.us-east-1.amazonaws.com/m/x"),
        ({"region": "eu-west-1"}, "https://bkt.s3.eu-west-1.amazonaws.com/m/x"),
        (
            {"endpoint": "https://s3.amazonaws.com", "region": "eu-west-1"},
            "https://bkt.s3.eu-west-1.amazonaws.com/m/x",
        ),
        (
            {"endpoint": "https://s3.eu-west-1.amazonaws.com"},
            "https://bkt.s3.eu-west-1.amazonaws.com/m/x",
        ),
        ({"accelerate": True}, "https://bkt.s3-accelerate.amazonaws.com/m/x"),
        ({"addressing": "path"}, "https://s3.us-east-1.amazonaws.com/bkt/m/x"),
    ],
)
async def test_urls_at_aws(
    options: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the connection, which a proxy takes: nothing leaves this machine."""
    asked: list[str] = []

    async def proxy(request: web.BaseRequest) -> web.Response:
        asked.append(request._message.path)
        return web.Response(status=502)

    from cachd.sources.s3_client import ClientPool, open_client
    from cachd.sources.s3_identity import DaemonChain
    from cachd.sources.s3_location import object_url
    from tests.sources.asking import context, guard, request

    async with serve(proxy) as origin:
        monkeypatch.setenv("https_proxy", origin.url)
        _, question = request("s3://bkt/m", KEYS, max_attempts=1, **options)
        pool = ClientPool(guard())
        async with open_client(question, context(), DaemonChain(), pool) as client:
            made = object_url(client.base, "bkt", "m/x", virtual=client.virtual)
            with pytest.raises(ProxyConnectionError):
                await client.api.head_object(Bucket="bkt", Key="m/x")
        await pool.aclose()
    assert made == url
    # botocore lists us-east-1 by the name without a region.
    host = url.split("/")[2].replace(".us-east-1", "")
    assert set(asked) == {f"{host}:443"}


async def test_clients_are_kept_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from cachd.sources import s3_client
    from cachd.sources.s3_client import ClientKey, ClientPool
    from cachd.sources.s3_identity import Pass
    from tests.sources.asking import guard

    def key(number: int) -> ClientKey:
        return ClientKey(
            endpoint="http://127.0.0.1:1",
            region="us-east-1",
            identity=Pass(access_key=f"k{number}", secret_key="hidden"),
            connect=Connect(),
            attempts=1,
            virtual=False,
            accelerate=False,
        )

    assert "hidden" not in repr(key(0))
    monkeypatch.setattr(s3_client, "POOL_LIMIT", 2)
    pool = ClientPool(guard())
    async with pool.borrow(key(0)) as first, pool.borrow(key(0)) as again:
        assert first is again
        async with pool.borrow(key(1)) as other, pool.borrow(key(2)):
            assert other is not first
    async with pool.borrow(key(2)) as kept, pool.borrow(key(3)):
        assert len(pool._clients) <= 2
        async with pool.borrow(key(2)) as same:
            assert same is kept
    monkeypatch.setattr(s3_client, "POOL_IDLE", -1.0)
    async with pool.borrow(key(4)):
        assert list(pool._clients) == [key(4)]
    await pool.aclose()
    assert not pool._clients


async def test_a_region_that_nobody_named_leads_into_no_other_partition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile's file isn't read where the model is named; botocore reads it on asking."""
    profile = tmp_path / "config"
    profile.write_text("[default]\nregion = cn-north-1\n")
    for name in ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    with pytest.raises(InvalidError, match="another partition") as caught:
        await resolve("s3://models/llama", given=settings(egress={"allow": ["s3.amazonaws.com"]}))
    assert caught.value.field == "options.region"
