"""``gs://`` at a faithful fake: what is planned, whose token goes along, what refusals mean."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import pytest
from awscrt.checksums import crc32c

from cachd.cache.resolve import ask_for, locate
from cachd.cache.types import Ask
from cachd.credentials import Credentials, SourceOptions
from cachd.errors import (
    AccessError,
    CachdError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    NotFound,
    OriginBusy,
    OriginError,
    PathUnsafe,
    UriInvalid,
)
from cachd.sources.google_location import GOOGLE_ENDPOINT, media_url, parse_gs
from cachd.sources.resolver import Resolver
from tests.servers.gcs import FakeGcs, Stored
from tests.sources.asking import NOBODY, NONE, context, paths, request, settings
from tests.sources.asking import resolve_once as resolve

W = b"weights" * 1000


# --- what a URI means ----------------------------------------------------------------------------


def test_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    _, asked = request("gs://bucket/a/b/")
    location = asked.location
    assert (location.uri, location.origin) == ("gs://bucket/a/b", f"gs+{GOOGLE_ENDPOINT}")
    assert location.is_default_origin
    _, asked = request("cachd+GS://bucket/a", endpoint="http://Emulator:4443/")
    assert asked.location.origin == "gs+http://emulator:4443"
    assert not asked.location.is_default_origin
    given = settings(gs={"endpoint": "https://storage-x.p.googleapis.com"})
    _, asked = request("gs://bucket/a", given=given)
    assert asked.location.origin == "gs+https://storage-x.p.googleapis.com"
    assert asked.location.is_default_origin
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:9023")
    _, asked = request("gs://bucket/a")
    assert asked.location.origin == "gs+http://localhost:9023"
    assert asked.location.is_default_origin


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("gs://bucket/m", "http://emulator:4443"),
        ("https://account.blob.core.windows.net/con/m", "http://azurite:10000"),
        ("abfss://con@account.dfs.core.windows.net/m", None),
    ],
)
def test_a_ref_says_how_to_ask_for_it_again(uri: str, endpoint: str | None) -> None:
    resolver = Resolver(settings(), environ={})
    ref, _ = locate(Ask(uri=uri, options=SourceOptions(endpoint=endpoint)), resolver)
    ask = ask_for(ref, resolver)
    assert ask is not None
    assert locate(ask, resolver)[0] == ref


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gs://", "no bucket"),
        ("gs:///path", "no bucket"),
        ("gs://user@bucket/x", "user information"),
        ("gs://Bucket/x", "no name of a bucket"),
        ("gs://a..b/x", "no name of a bucket"),
        ("gs://bucket/a/../b", "'.' or '..'"),
        ("gs://bucket/x?endpoint=http://evil", "unknown option 'endpoint'"),
        ("gs://bucket/x?generation=1&generation=2", "twice"),
        ("gs://bucket/x?generation=one", "no number"),
        ("gs://bucket?generation=1", "one object"),
        ("gs://bucket/x?y", "not name=value"),
    ],
)
def test_uris_that_mean_nothing(uri: str, words: str) -> None:
    with pytest.raises(UriInvalid, match=words) as caught:
        request(uri)
    assert "s3://" not in caught.value.hint


def test_endpoints_that_mean_nothing() -> None:
    with pytest.raises(UriInvalid, match="user information") as caught:
        request("gs://bucket/x", endpoint="https://u:p@host")
    assert caught.value.hint == "it looks like https://storage.googleapis.com"
    with pytest.raises(ValueError, match="before the host"):
        settings(gs={"endpoint": "host:1"})


def test_names_are_encoded_whole() -> None:
    url = media_url("https://h", "b", "a b/ü?#.bin", "7")
    assert url == (
        "https://h/download/storage/v1/b/b/o/a%20b%2F%C3%BC%3F%23.bin?alt=media&generation=7"
    )
    assert parse_gs("gs://b-1/a#1").prefix == "a#1"


async def test_a_directory(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket(
        {
            "m/": b"",
            "m/x.bin": W,
            "m/sub/": b"",
            "m/sub/__init__.py": b"",
            "m-hf/y": b"1",
            "m.txt": b"2",
        }
    )
    gcs.buckets[bucket]["m/x.bin"].is_composite = True
    plan = await resolve(f"gs://{bucket}/m")
    assert paths(plan) == {"x.bin": len(W), "sub/__init__.py": 0}
    x = next(file for file in plan.files if file.path == "x.bin")
    assert x.validator.version_id == str(gcs.buckets[bucket]["m/x.bin"].generation)
    assert str(x.digest) == f"crc32c:{crc32c(W):08x}"
    assert x.url.endswith(f"/o/m%2Fx.bin?alt=media&generation={x.validator.version_id}")
    assert plan.is_validated
    assert not plan.is_credentialed
    assert not plan.is_immutable
    assert plan.metadata == {"endpoint": gcs.endpoint, "bucket": bucket}
    again = await resolve(f"gs://{bucket}/m/")
    assert again.revision == plan.revision
    gcs.put(bucket, "m/x.bin", Stored(W))
    assert (await resolve(f"gs://{bucket}/m")).revision != plan.revision


async def test_page_by_page(gcs: FakeGcs) -> None:
    gcs.page = 7
    bucket = gcs.make_bucket({f"m/{n:03}": b"x" for n in range(50)})
    plan = await resolve(f"gs://{bucket}/m")
    assert len(plan.files) == 50
    assert sum(path.endswith("/o") for _, path, _, _ in gcs.seen) == 8
    whole = await resolve(f"gs://{bucket}", allow=("m/00*",))
    assert len(whole.files) == 10


async def test_one_object(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = gcs.make_bucket({"a/m.tar.gz": W, "a/m.tar.gz.sig": b"1", "e": b"", "e/x": b"1"})
    plan = await resolve(f"gs://{bucket}/a/m.tar.gz", ignore=("*",))
    assert paths(plan) == {"m.tar.gz": len(W)}
    assert plan.unpack == "tar"
    assert paths(await resolve(f"gs://{bucket}/e")) == {"x": 1}
    old = gcs.buckets[bucket]["a/m.tar.gz"].generation
    monkeypatch.setattr(gcs, "is_versioned", True)
    gcs.put(bucket, "a/m.tar.gz", Stored(b"other"))
    pinned = await resolve(f"gs://{bucket}/a/m.tar.gz?generation={old}")
    assert pinned.is_immutable
    assert pinned.revision == plan.revision
    with pytest.raises(NotFound, match="No model found"):
        await resolve(f"gs://{bucket}/a/m.tar.gz?generation=1")


async def test_what_is_packed_for_the_way(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"m/plain": b"1"})
    gcs.put(bucket, "m/t.json", Stored(gzip.compress(W), encoding="gzip"))
    plan = await resolve(f"gs://{bucket}/m")
    assert paths(plan) == {"plain": 1, "t.json": None}
    packed = next(file for file in plan.files if file.path == "t.json")
    assert packed.digest is None
    assert not packed.ranges
    stored = Stored(gzip.compress(W), encoding="gzip", cache_control="private, no-transform")
    gcs.put(bucket, "m/t.json", stored)
    with pytest.raises(ContentError, match="no-transform"):
        await resolve(f"gs://{bucket}/m")
    assert paths(await resolve(f"gs://{bucket}/m", ignore=("t.*",))) == {"plain": 1}


async def test_only_md5(gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stored, "crc32c", property(lambda _: "?"))
    bucket = gcs.make_bucket({"x": W})
    (file,) = (await resolve(f"gs://{bucket}/x")).files
    md5 = hashlib.md5(W, usedforsecurity=False)
    assert str(file.digest) == f"md5:{md5.hexdigest()}"


async def test_nothing_there(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"bar/": b"", "m/x": b"1"})
    with pytest.raises(NotFound, match=f"No model found in gs://{bucket}/bar"):
        await resolve(f"gs://{bucket}/bar/")
    with pytest.raises(NotFound, match="nothing there passes"):
        await resolve(f"gs://{bucket}/m", allow=("*.gguf",))
    with pytest.raises(NotFound, match="bucket no-such-bucket does not exist"):
        await resolve("gs://no-such-bucket/m")


@pytest.mark.parametrize("name", ["m//x", "m/../x", "m/x/"])
async def test_hostile_names(gcs: FakeGcs, name: str) -> None:
    bucket = gcs.make_bucket({name: b"1", "m/ok": b"1"})
    with pytest.raises(PathUnsafe):
        await resolve(f"gs://{bucket}/m")


async def test_a_read_check(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"m/x": W, "one": W})
    source, asked = request(f"gs://{bucket}/m", NONE)
    await source.probe(asked, "x", context())
    with pytest.raises(NotFound, match="no longer"):
        await source.probe(asked, "y", context())
    source, asked = request(f"gs://{bucket}/one", NONE)
    await source.probe(asked, "one", context())


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "is_signed", "kind"),
    [
        (401, "required", False, CredentialsMissing),
        (401, "authError", True, CredentialsInvalid),
        (403, "forbidden", False, CredentialsMissing),
        (403, "forbidden", True, AccessError),
        (403, "rateLimitExceeded", True, OriginBusy),
        (429, "rateLimitExceeded", False, OriginBusy),
        (503, "backendError", False, OriginBusy),
        (500, "internalError", False, OriginError),
        (400, "invalid", False, InvalidError),
        (418, "teapot", False, OriginError),
    ],
)
async def test_refusals(
    gcs: FakeGcs, status: int, reason: str, is_signed: bool, kind: type[CachdError]
) -> None:
    bucket = gcs.make_bucket({"m/x": W})
    credentials = Credentials(token=gcs.issue()) if is_signed else NOBODY
    gcs.refusals = [(status, reason)] * 2
    with pytest.raises(CachdError, match=str(status)) as caught:
        await resolve(f"gs://{bucket}/m", credentials)
    assert type(caught.value) is kind
    assert reason in caught.value.message
    assert "ya29" not in str(caught.value.to_wire())
    if status in (429, 503):
        assert caught.value.retry_after == 7


async def test_an_object_that_may_be_read_where_listing_is_refused(gcs: FakeGcs) -> None:
    bucket = gcs.make_bucket({"x": W})
    listing = gcs._list
    gcs._list = lambda handler, *_: handler.send(403)  # type: ignore[method-assign]
    try:
        assert paths(await resolve(f"gs://{bucket}/x")) == {"x": len(W)}
        with pytest.raises(CredentialsMissing):
            await resolve(f"gs://{bucket}/y")
    finally:
        gcs._list = listing  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "page",
    [
        [],
        {"items": {}},
        {"items": [{"size": "1", "generation": "1"}]},
        {"items": [{"name": "m/x", "size": "-1", "generation": "1"}]},
        {"items": [{"name": "m/x", "size": "1"}]},
        {"items": [{"name": "other", "size": "1", "generation": "1"}]},
        {"nextPageToken": "again"},
    ],
)
async def test_answers_that_are_no_listing(gcs: FakeGcs, page: Any) -> None:
    bucket = gcs.make_bucket({})
    listing = gcs._list
    gcs._list = lambda handler, *_: handler.send(  # type: ignore[method-assign]
        200, json.dumps(page).encode()
    )
    try:
        with pytest.raises((OriginError, ContentError)):
            await resolve(f"gs://{bucket}/m")
    finally:
        gcs._list = listing  # type: ignore[method-assign]
