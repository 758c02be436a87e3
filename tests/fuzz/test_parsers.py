"""Parsers of foreign bytes: only the errors that they declare, and an end."""

from __future__ import annotations

import asyncio
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cachd.credentials import SourceOptions
from cachd.errors import CachdError, UriInvalid
from cachd.fetch.head import HEAD_MOST, read_head
from cachd.names import check_name
from cachd.settings import SourcesSettings
from cachd.sources.http_rules import canonical_url, file_name, join_secret, split_secret
from cachd.sources.registry import Registry, split_scheme
from cachd.sources.s3_location import normalise_endpoint, parse_s3
from tests.servers.origin import serve
from tests.sources.asking import resolve
from tests.unpack.archives import Unpacking, tar_of, zip_of

MANY = settings(
    max_examples=300,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PIECES = st.sampled_from(
    ["s3://", "http://", "https://", "file://", "cachd+s3://", "bucket", "/", "//", "..", ".", "?",
     "endpoint=", "versionId=", "defaultRegion=", "&", "#", "@", ":", "[", "]", "%", "%00", "%2e",
     "\0", "\n", " ", "é", "\ud800", "１", "a" * 300, "127.0.0.1", ":99999", ":-1", "[::1]", "=",
     "X-Amz-Signature=s", "٣", "\u202e", "+", "~", "\\", "xn--", ";", "0x7f.1"]
)  # fmt: skip
URIS = st.lists(PIECES | st.text(max_size=4), max_size=8).map("".join)


@MANY
@given(URIS)
@example("http://[")
@example("http://[::1")
@example("http://a:" + "9" * 5000)
@example("s3://b?versionId=" + "%" * 100)
@example("http://\uff0e/")
def test_uris(uri: str) -> None:
    for parse in (parse_s3, canonical_url, file_name, normalise_endpoint):
        with suppress(UriInvalid):
            parse(uri)  # type: ignore[operator]
    with suppress(CachdError):
        check_name(uri)
    with suppress(CachdError):
        scheme, plain = split_scheme(uri)
        source = Registry().source(scheme)
        location = source.locate(plain, SourceOptions(), SourcesSettings(), {})
        # What was taken is stable: the canonical URI means itself.
        again = source.locate(location.uri, SourceOptions(), SourcesSettings(), {})
        assert again.uri == location.uri


@MANY
@given(st.text(alphabet="abX-=&%?Amzsigtoken", max_size=60))
def test_secrets_of_a_query_come_back(query: str) -> None:
    url = f"https://host/m.bin?{query}"
    with suppress(UriInvalid):
        plain, secret = split_secret(canonical_url(url))
        whole = join_secret(plain, secret)
        before = sorted(filter(None, query.split("#")[0].split("&")))
        assert sorted(filter(None, whole.partition("?")[2].split("&"))) == before


class Bytes:
    """A transport that has all of ``data`` and then ends."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._most = most
        self.is_eof = False

    def receive(self, view: memoryview) -> int:
        piece = self._data[: min(len(view), self._most)]
        self._data = self._data[len(piece) :]
        view[: len(piece)] = piece
        self.is_eof = not piece
        return len(piece)


LINES = st.sampled_from(
    [b"HTTP/1.1 206 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
     b"HTTP/2 200 x\r\n", b"Content-Length: 5\r\n", b"Content-Length: 5, 5\r\n",
     b"Content-Length: -1\r\n",
     b"Content-Length: " + b"9" * 5000 + b"\r\n", b"Content-Length: \xb2\r\n",
     b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: Chunked, gzip\r\n", b"ETag: \xff\r\n",
     b"Content-Range: bytes 0-4/5\r\n", b" folded\r\n", b"\r\n", b"\n", b"\0", b":\r\n",
     b"a" * 70_000,
     b"Connection: close\r\n", b"X: " + b"y" * 60_000 + b"\r\n", b"HTTP/1.1 999 \xff\r\n"]
)  # fmt: skip


@MANY
@given(
    st.lists(LINES | st.binary(max_size=20), max_size=8).map(b"".join),
    st.sampled_from([1, 7, 4096]),
    st.sampled_from(["GET", "HEAD"]),
)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 4096, "GET")
def test_heads_of_answers(data: bytes, most: int, method: str) -> None:
    view = memoryview(bytearray(2 * HEAD_MOST))
    with suppress(CachdError):
        head, rest = read_head(Bytes(data, most), view, method, 5.0)  # type: ignore[arg-type]
        assert 100 <= head.status <= 999
        assert head.length is None or head.length >= 0
        assert 0 <= rest <= len(data)


GOOD = {
    "tar": [
        tar_of({"a/b": b"x" * 3000, "c": b""}),
        tar_of({"n" * 150: b"1", "é": b"2"}, tarfile.GNU_FORMAT),
        tar_of({"u": b"z" * 600}, tarfile.USTAR_FORMAT),
    ],
    "zip": [zip_of({"a/b": b"x" * 3000, "c": b""}), zip_of({"d": b"stored" * 99}, 0)],
}


@st.composite
def spoilt_archives(draw: Callable[..., Any]) -> tuple[str, bytes]:
    kind = draw(st.sampled_from(["tar", "zip"]))
    data = bytearray(draw(st.sampled_from(GOOD[kind])))
    for _ in range(draw(st.integers(1, 6))):
        data = data or bytearray(1)
        at = draw(st.integers(0, len(data) - 1))
        deed = draw(st.integers(0, 3))
        if deed == 0:
            data[at] = draw(st.sampled_from([0, 0x20, 0x30, 0x37, 0x80, 0xFF, data[at] ^ 1]))
        elif deed == 1:
            data[at : at + draw(st.integers(1, 12))] = b"\xff" * draw(st.integers(0, 12))
        elif deed == 2:
            del data[at:]
            data += b"\0"
        else:
            data[at:at] = draw(st.binary(max_size=24))
    return kind, bytes(data)


@MANY
@given(spoilt_archives())
@example(("tar", b"\0" * 100))
@example(("zip", b"PK\5\6" + b"\xff" * 18))
@example(("tar", b"\x1f\x8b" + b"\0" * 50))
@example(("tar", b"\x28\xb5\x2f\xfd" + b"\0" * 50))
@example(("tar", b"\xfd7zXZ\0" + b"\0" * 50))
def test_archives(tmp_path_factory: pytest.TempPathFactory, spoilt: tuple[str, bytes]) -> None:
    kind, data = spoilt
    unpacking = Unpacking(_folder(tmp_path_factory))
    unpacking.reset()
    with suppress(CachdError):
        unpacking.run(data, kind)
    assert (unpacking.outside / "secret").read_bytes() == b"secret"


_FOLDERS: list[Path] = []


def _folder(factory: pytest.TempPathFactory) -> Path:
    if not _FOLDERS:
        _FOLDERS.append(factory.mktemp("archives"))
    return _FOLDERS[0]


LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>b</Name><Prefix>m/</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>"
    "<Contents><Key>m/x</Key><Size>5</Size><ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>"
)
SWAPS = [
    ("<Size>5</Size>", "<Size>-5</Size>"),
    ("<Size>5</Size>", "<Size>" + "9" * 5000 + "</Size>"),
    ("<Size>5</Size>", "<Size>99999999999999999999999</Size>"),
    ("<Size>5</Size>", "<Size>1e3</Size>"),
    ("<Size>5</Size>", ""),
    ("<Size>5</Size>", "<Size/>"),
    ("<Key>m/x</Key>", ""),
    ("<Key>m/x</Key>", "<Key/>"),
    ("<Key>m/x</Key>", "<Key>other</Key>"),
    ("<Key>m/x</Key>", "<Key>m/&#1;</Key>"),
    ("<ETag>&quot;e&quot;</ETag>", ""),
    ("<ETag>&quot;e&quot;</ETag>", "<ETag>\n\r</ETag>"),
    ("<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated>"),
    ("<IsTruncated>false</IsTruncated>", "<IsTruncated>maybe</IsTruncated>"),
    ("<KeyCount>1</KeyCount>", "<KeyCount>x</KeyCount>"),
    ("ListBucketResult", "Else"),
    ("<?xml version=\"1.0\"?>", '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>'),
    ("<Contents>", "<Contents><Contents>" * 3000),
    ("</ListBucketResult>", ""),
    ("<Contents>", "\0"),
    (LISTING, ""),
    (LISTING, "[1]"),
    (LISTING, "<a>" * 100_000),
    (LISTING, "\ufeff" + LISTING),
]  # fmt: skip


async def test_listings() -> None:
    """Real answers of a server, one thing wrong in each, and bytes changed at random."""
    chance = random.Random(7)
    texts = [LISTING.replace(old, new) for old, new in SWAPS]
    for _ in range(40):
        data = bytearray(LISTING.encode())
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b"<>/&;\"'\x00 9a\xff")
        texts.append(data.decode("latin-1"))
    answer = [""]
    codes: list[str] = []

    async def respond(request: web.BaseRequest) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=404)
        return web.Response(body=answer[0].encode("utf-8"), content_type="application/xml")

    async with serve(respond) as origin:
        for text in texts:
            answer[0] = text
            codes.append(await _plan_of(origin.url))
    assert "" in codes
    assert "origin_failed" in codes, set(codes)


async def _plan_of(endpoint: str) -> str:
    """The code of the error, "" if there is a plan."""
    try:
        async with asyncio.timeout(20):
            plan = await resolve("s3://bucket/m", endpoint=endpoint, max_attempts=1)
    except CachdError as error:
        return error.code
    assert all(file.size is not None and file.size >= 0 for file in plan.files)
    return ""
