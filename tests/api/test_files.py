"""Files with ranges, and whole models as a tar."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from cachd.api.archive import MANIFEST_NAME, header
from cachd.api.conditions import Span, etag, is_another, is_unmodified, parse_range
from cachd.model import Manifest
from tests.api.conftest import Rig, eventually
from tests.api.snapshots import manifest_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

URI = "s3://bucket/llama"
DATA = bytes(range(100))
FILES = {"a.bin": DATA, "empty": b"", "dir/with space/ü%25.json": b"{}"}


@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [
        (None, 100, None),
        ("bytes=0-9", 100, Span(0, 10)),
        ("bytes=90-", 100, Span(90, 10)),
        ("bytes=-10", 100, Span(90, 10)),
        ("bytes=-1000", 100, Span(0, 100)),
        ("bytes=0-1000", 100, Span(0, 100)),
        ("bytes=99-99", 100, Span(99, 1)),
        ("BYTES = 1 - 2", 100, Span(1, 2)),
        ("bytes=100-", 100, "unsatisfiable"),
        ("bytes=100-200", 100, "unsatisfiable"),
        ("bytes=-0", 100, "unsatisfiable"),
        ("bytes=0-", 0, "unsatisfiable"),
        ("bytes=-5", 0, "unsatisfiable"),
        ("bytes=9-0", 100, None),
        ("bytes=-", 100, None),
        ("bytes=0-1,5-6", 100, None),
        ("lines=0-1", 100, None),
        ("bytes=a-b", 100, None),
        ("bytes=0-٣", 100, None),
        ("bytes=0-" + "9" * 5000, 100, None),
    ],
)
def test_ranges(value: str | None, size: int, expected: object) -> None:
    assert parse_range(value, size) == expected


@pytest.mark.parametrize(
    ("value", "unmodified", "another"),
    [
        (None, False, False),
        ('"x"', True, False),
        ('W/"x"', True, True),
        ('"y", "x"', True, False),
        ('"y"', False, True),
        ("*", True, False),
        ("x", False, True),
        ('"a,b", W/"x"', True, True),
    ],
)
def test_preconditions(value: str | None, unmodified: bool, another: bool) -> None:
    assert is_unmodified(value, '"x"') is unmodified
    assert is_another(value, '"x"') is another


def test_etags_tell_contents_apart_and_know_sha256() -> None:
    one, same, other = (manifest_file(p, d) for p, d in (("a", b"1"), ("b", b"1"), ("a", b"2")))
    assert etag(one) == etag(same) != etag(other)
    assert etag(manifest_file("a", b"1", sha256="ab" * 32)) == f'"sha256-{"ab" * 32}"'


@pytest.mark.parametrize(
    ("headers", "status", "body", "content_range"),
    [
        ({}, 200, DATA, None),
        ({"Range": "bytes=10-19"}, 206, DATA[10:20], "bytes 10-19/100"),
        ({"Range": "bytes=-7"}, 206, DATA[-7:], "bytes 93-99/100"),
        ({"Range": "bytes=0-"}, 206, DATA, "bytes 0-99/100"),
        ({"Range": "bytes=100-"}, 416, None, "bytes */100"),
        ({"Range": "bytes=0-1,3-4"}, 200, DATA, None),
        ({"Range": "bytes=0-1", "If-Range": "{etag}"}, 206, DATA[:2], "bytes 0-1/100"),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200, DATA, None),
        ({"Range": "bytes=0-1", "If-Range": "W/{etag}"}, 200, DATA, None),
        (
            {"Range": "bytes=0-1", "If-Range": "Sat, 21 Nov 2026 00:00:00 GMT"},
            200,
            DATA,
            None,
        ),
        ({"If-None-Match": "{etag}"}, 304, b"", None),
        ({"If-None-Match": 'W/{etag}, "x"', "Range": "bytes=0-1"}, 304, b"", None),
        ({"If-None-Match": '"x"'}, 200, DATA, None),
        ({"If-Match": '"x"'}, 412, None, None),
        ({"If-Match": "{etag}", "Range": "bytes=1-1"}, 206, DATA[1:2], "bytes 1-1/100"),
    ],
)
async def test_a_file_is_sent_as_asked(
    rig: Rig, headers: dict[str, str], status: int, body: bytes | None, content_range: str | None
) -> None:
    key = rig.cache.store(URI, FILES)
    tag = etag(rig.cache.snapshots[key].manifest.files[0])
    sent = {name: value.replace("{etag}", tag) for name, value in headers.items()}
    reply = await rig.call("GET", f"/v1/models/{key}/files/a.bin", headers=sent)
    assert (reply.status, reply.headers.get("Content-Range")) == (status, content_range)
    if body is not None:
        assert reply.body == body
        assert reply.headers["ETag"] == tag
        assert reply.headers["Cachd-Revision"] == "ab" * 16
    if status in (200, 206):
        assert reply.headers["Content-Length"] == str(len(reply.body))
        assert reply.headers["Accept-Ranges"] == "bytes"


async def test_a_head_tells_size_and_digest_and_ignores_ranges(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    digest = hashlib.sha256(DATA)
    snapshot = rig.cache.snapshots[key]
    files = (manifest_file("a.bin", DATA, sha256=digest.hexdigest()),)
    manifest = replace(snapshot.manifest, files=files)
    rig.cache.snapshots[key] = replace(snapshot, manifest=manifest)
    path = f"/v1/models/{key}/files/a.bin"
    reply = await rig.call("HEAD", path, headers={"Range": "bytes=0-1"})
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "100", b"")
    encoded = base64.b64encode(digest.digest()).decode()
    assert reply.headers["Repr-Digest"] == f"sha-256=:{encoded}:"
    assert reply.headers["ETag"] == f'"sha256-{digest.hexdigest()}"'
    # The connection is still in step.
    assert (await rig.call("GET", path)).body == DATA


async def test_names_survive_the_path(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    from urllib.parse import quote

    from yarl import URL

    for path, data in FILES.items():
        target = URL(f"/v1/models/{key}/files/{quote(path)}", encoded=True)
        reply = await rig.call("GET", target)  # type: ignore[arg-type]
        assert (reply.status, reply.body) == (200, data), path


@pytest.mark.parametrize(
    "path", ["nothing", "a.bin/", "dir", "..%2Fmanifest.json", "%2e%2e/%2e%2e/etc/passwd", "a%00b"]
)
async def test_only_names_of_the_manifest_are_files(rig: Rig, path: str) -> None:
    from yarl import URL

    key = rig.cache.store(URI, FILES)
    target = URL(f"/v1/models/{key}/files/{path}", encoded=True)
    reply = await rig.call("GET", target)  # type: ignore[arg-type]
    assert (reply.status, reply.json()["code"]) == (404, "file_unknown")


async def test_a_link_in_the_tree_is_never_followed(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(DATA)
    key = rig.cache.store(URI, {"a.bin": DATA, "d/x": DATA})
    tree = Path(rig.cache.snapshots[key].tree)
    (tree / "a.bin").unlink()
    (tree / "a.bin").symlink_to(outside / "x")
    (tree / "d" / "x").unlink()
    (tree / "d").rmdir()
    (tree / "d").symlink_to(outside)
    for path in ("a.bin", "d/x"):
        reply = await rig.call("GET", f"/v1/models/{key}/files/{path}")
        assert (reply.status, reply.json()["code"]) == (500, "disk_failed"), path
        assert str(outside) not in reply.body.decode()


async def test_a_file_that_changed_or_went_is_not_sent(rig: Rig) -> None:
    key = rig.cache.store(URI, {"a.bin": DATA, "b.bin": DATA, "fifo": b""})
    tree = Path(rig.cache.snapshots[key].tree)
    os.truncate(tree / "a.bin", 50)
    (tree / "b.bin").unlink()
    (tree / "fifo").unlink()
    os.mkfifo(tree / "fifo")
    codes = {}
    for path in ("a.bin", "b.bin", "fifo"):
        reply = await rig.call("GET", f"/v1/models/{key}/files/{path}")
        codes[path] = (reply.status, reply.json()["code"])
    assert codes == {
        "a.bin": (500, "disk_failed"),
        "b.bin": (404, "model_unknown"),
        "fifo": (500, "disk_failed"),
    }


async def test_a_lease_is_a_pass_and_a_revision_is_exact(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES, is_private=True)
    path = f"/v1/models/{key}/files/a.bin"
    refused = await rig.call("GET", path)
    assert (refused.status, refused.json()["code"]) == (403, "forbidden")
    lease = (await rig.ask(URI, lease={})).json()["lease"]["id"]
    assert (await rig.call("GET", path, headers={"Cachd-Lease": lease})).body == DATA
    exact = await rig.call("GET", f"{path}?revision={'ab' * 16}", admin=True)
    other = await rig.call("GET", f"{path}?revision={'cd' * 16}", admin=True)
    assert (exact.status, other.status) == (200, 404)


async def test_a_big_file_comes_whole_and_its_slices_meet(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.sending.SLICE", 1 << 20)
    data = os.urandom((5 << 20) + 17)
    key = rig.cache.store(URI, {"big": data})
    path = f"/v1/models/{key}/files/big"
    assert (await rig.call("GET", path)).body == data
    ranged = await rig.call("GET", path, headers={"Range": f"bytes=1000000-{4 << 20}"})
    assert ranged.body == data[1000000 : (4 << 20) + 1]


def count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_reader_that_goes_away_leaves_nothing_behind(rig: Rig) -> None:
    key = rig.cache.store(URI, {"big": bytes(32 << 20)})
    before = count_descriptors()
    for target in (f"/v1/models/{key}/files/big", f"/v1/models/{key}/archive.tar"):
        reader, writer = await asyncio.open_unix_connection(str(rig.pods), limit=65536)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readexactly(100_000)
        writer.transport.abort()
    await eventually(lambda: count_descriptors() <= before)
    await eventually(lambda: not rig.cache.held)
    text = rig.metrics.render()[0].decode()
    assert 'cachd_requests_total{code="499",endpoint="file"} 1.0' in text
    assert 'cachd_requests_total{code="499",endpoint="archive"} 1.0' in text


async def test_a_reader_that_stops_reading_is_cut_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.sending.STALL_TIMEOUT", 0.2)
    monkeypatch.setattr("cachd.api.archive.STALL_TIMEOUT", 0.2)
    key = rig.cache.store(URI, {"big": bytes(32 << 20), "many": bytes(1 << 20)})
    for target in (f"/v1/models/{key}/files/big", f"/v1/models/{key}/archive.tar"):
        reader, writer = await asyncio.open_unix_connection(str(rig.pods), limit=4096)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await eventually(lambda: True)
        name = target.rpartition("/")[2].split(".")[0]
        label = {"big": "file", "archive": "archive"}[name]
        wanted = f'cachd_requests_total{{code="499",endpoint="{label}"}} 1.0'
        await eventually(lambda w=wanted: w in rig.metrics.render()[0].decode())
        writer.transport.abort()
        del reader


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        found = tar.getmembers()
        assert all(
            (m.isreg(), m.mode, m.mtime, m.uid, m.gid, m.uname) == (True, 0o644, 0, 0, 0, "")
            for m in found
        )
        return {m.name: tar.extractfile(m).read() for m in found}  # type: ignore[union-attr]


async def test_an_archive_has_the_manifest_and_every_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.archive.BATCH", 4096)
    files = {
        "z/last": b"z",
        "big": os.urandom(300_001),
        "exact": bytes(4096),
        "empty": b"",
        "long/" + "n" * 200 + "/" + "ü" * 100: b"pax",
        **{f"small/{i}": str(i).encode() * i for i in range(50)},
    }
    key = rig.cache.store(URI, files)
    reply = await rig.call("GET", f"/v1/models/{key}/archive.tar")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/x-tar")
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    found = members(reply.body)
    assert list(found) == [MANIFEST_NAME, *sorted(files)]
    manifest = Manifest.from_json(json.loads(found.pop(MANIFEST_NAME)))
    assert manifest == rig.cache.snapshots[key].manifest
    assert found == files
    again = await rig.call("GET", f"/v1/models/{key}/archive.tar")
    assert again.body == reply.body
    tag = {"If-None-Match": reply.headers["ETag"]}
    assert (await rig.call("GET", f"/v1/models/{key}/archive.tar", headers=tag)).status == 304
    assert not rig.cache.held


def test_headers_of_huge_files_are_valid() -> None:
    info = tarfile.TarInfo.frombuf(header("a", 5), "utf-8", "strict")
    assert info.size == 5
    assert len(header("a", 9 << 30)) == 3 * 512
    assert len(header("a", 5)) == 512


async def test_an_archive_is_never_cut_short_unnoticed(rig: Rig) -> None:
    key = rig.cache.store(URI, {"a": bytes(2 << 20), "b": bytes(2 << 20)})
    os.truncate(Path(rig.cache.snapshots[key].tree) / "b", 5)
    import aiohttp

    with pytest.raises(aiohttp.ClientPayloadError):
        await rig.call("GET", f"/v1/models/{key}/archive.tar")
    assert 'code="500",endpoint="archive"' in rig.metrics.render()[0].decode()
    assert not rig.cache.held


async def test_an_exported_archive_can_be_imported(rig: Rig) -> None:
    key = rig.cache.store(URI, FILES)
    tar = (await rig.call("GET", f"/v1/models/{key}/archive.tar")).body

    async def chunks() -> object:
        for start in range(0, len(tar), 1000):
            yield tar[start : start + 1000]

    reply = await rig.call("POST", "/v1/import?uri=s3://b/new", admin=True, data=chunks())
    assert (reply.status, reply.json()["uri"]) == (200, "s3://b/new")
    assert rig.cache.imported == [tar]
    big = await rig.call("POST", "/v1/import?uri=s3://b/big", admin=True, data=upload(5 << 20))
    assert (big.status, len(rig.cache.imported[-1])) == (422, 5 << 20)
    broken = await rig.call("POST", "/v1/import?uri=s3://b/x", admin=True, data=b"no tar at all")
    assert (broken.status, broken.json()["code"]) == (422, "archive_invalid")


async def upload(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536):
        yield b"x" * 65536


async def test_an_upload_that_breaks_off_or_stalls_is_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachd.api.ops.UPLOAD_STALL", 0.2)
    head = b"POST /v1/import?uri=s3://b/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    reader, writer = await asyncio.open_unix_connection(str(rig.admin))
    writer.write(head + bytes(1000))
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
    assert b"504 Gateway Timeout" in answer
    assert b"deadline_exceeded" in answer
    writer.close()
    monkeypatch.setattr("cachd.api.ops.UPLOAD_STALL", 60)
    reader, writer = await asyncio.open_unix_connection(str(rig.admin))
    writer.write(head + bytes(1000))
    await writer.drain()
    writer.close()
    wanted = 'cachd_requests_total{code="499",endpoint="import_model"} 1.0'
    await eventually(lambda: wanted in rig.metrics.render()[0].decode())
    assert rig.cache.imported == []


async def test_a_reader_that_leaves_with_the_last_byte_was_served(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = rig.cache.store(URI, FILES)
    begun, gate = asyncio.Event(), asyncio.Event()
    finish = web.StreamResponse.write_eof

    async def slowly(response: web.StreamResponse, data: bytes = b"") -> None:
        if response.content_type == "application/x-tar":
            begun.set()
            await gate.wait()
        await finish(response, data)

    monkeypatch.setattr(web.StreamResponse, "write_eof", slowly)
    reader, writer = await asyncio.open_unix_connection(str(rig.pods))
    writer.write(f"GET /v1/models/{key}/archive.tar HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    await reader.readexactly(length)
    await asyncio.wait_for(begun.wait(), 30)
    writer.transport.abort()
    wanted = 'cachd_requests_total{code="200",endpoint="archive"} 1.0'
    await eventually(lambda: wanted in rig.metrics.render()[0].decode())


@pytest.mark.parametrize("header", ["", "no-such-lease"])
async def test_an_archive_is_kept_while_it_is_read_whatever_lease_is_named(
    rig: Rig, header: str
) -> None:
    key = rig.cache.store(URI, {"big": bytes(32 << 20)})
    reader, writer = await asyncio.open_unix_connection(str(rig.pods), limit=65536)
    head = f"GET /v1/models/{key}/archive.tar HTTP/1.1\r\nHost: x\r\nCachd-Lease: {header}"
    writer.write(f"{head}\r\n\r\n".encode())
    await reader.readexactly(1000)
    assert rig.cache.readers == 1
    writer.transport.abort()
    await eventually(lambda: rig.cache.readers == 0)
