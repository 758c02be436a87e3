"""KServe's rules for ``http(s)://``: names, archives and types of content."""

from __future__ import annotations

import pytest

from cachd.errors import (
    ContentTypeInvalid,
    UriInvalid,
)
from tests.servers.origin import serve
from tests.sources.answering import OCTETS, file
from tests.sources.asking import NONE, paths, request, resolve, settings


@pytest.mark.parametrize(
    ("path", "content_type", "name", "unpack"),
    [
        ("/model.joblib", OCTETS, "model.joblib", ""),
        ("/model.joblib?foo=bar", OCTETS, "model.joblib", ""),
        ("/d/model.joblib", "binary/octet-stream", "model.joblib", ""),
        ("/model.joblib", f"{OCTETS}; charset=binary", "model.joblib", ""),
        ("/model.tar.gz", "application/x-tar", "model.tar.gz", "tar"),
        ("/model.tar.gz", "application/x-gtar", "model.tar.gz", "tar"),
        ("/model.tar.gz", "application/x-gzip", "model.tar.gz", "tar"),
        ("/model.tar.gz", "application/gzip", "model.tar.gz", "tar"),
        ("/model.tar.gz?foo=bar", "application/gzip", "model.tar.gz", "tar"),
        ("/model.tar", OCTETS, "model.tar", "tar"),
        ("/model.tgz", "application/gzip", "model.tgz", "tar"),
        ("/model.tar.bz2", "application/x-bzip2", "model.tar.bz2", "tar"),
        ("/model.tar.xz", "application/x-xz", "model.tar.xz", "tar"),
        ("/model.tar.zst", "application/zstd", "model.tar.zst", "tar"),
        ("/model.zip", "application/zip", "model.zip", "zip"),
        ("/model.zip", "application/x-zip-compressed", "model.zip", "zip"),
        ("/model.zip", "application/zip-compressed", "model.zip", "zip"),
        ("/download?path=/x/model.zip", "application/zip", "download", "zip"),
        ("/model.json?x=model.zip", OCTETS, "model.json", ""),
        ("/model.joblib.gz", OCTETS, "model.joblib.gz", ""),
        ("/a%20b%2Fc.bin", OCTETS, "a%20b%2Fc.bin", ""),
    ],
)
async def test_names_and_archives(path: str, content_type: str, name: str, unpack: str) -> None:
    async with serve(file(content_type)) as origin:
        plan = await resolve(origin.url + path, NONE)
    assert (paths(plan), plan.unpack) == ({name: 5}, unpack)
    assert plan.files[0].url == origin.url + path
    assert {target for _, target, _ in origin.seen} == {path}


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/model.tar.gz", "application/zip"),
        ("/model.zip", "application/gzip"),
        ("/test.model", "text/html; charset=UTF-8"),
        ("/test.model", "application/xhtml+xml"),
        ("/config.json", "application/json"),
        ("/model.tar.gz", "text/html"),
        ("/model.bin", ""),
    ],
)
async def test_content_types(path: str, content_type: str) -> None:
    async with serve(file(content_type)) as origin:
        with pytest.raises(ContentTypeInvalid) as caught:
            await resolve(f"{origin.url}{path}?signature=secret", NONE)
        assert "secret" not in caught.value.message
        lenient = settings(http={"check_content_type": False})
        if "html" in content_type:
            with pytest.raises(ContentTypeInvalid):
                await resolve(origin.url + path, NONE, given=lenient)
        else:
            assert await resolve(origin.url + path, NONE, given=lenient)


@pytest.mark.parametrize("uri", ["https://foo.bar/test/", "https://foo.bar", "http://h/a/..?x"])
def test_no_file_name(uri: str) -> None:
    with pytest.raises(UriInvalid, match="No filename contained in URI"):
        request(uri)


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("http://", "host"),
        ("http:///x", "host"),
        ("http://h:0/x", "port"),
        ("http://h:99999/x", "port"),
        ("http://h:x/x", "port"),
        ("http://[::1/x", "host"),
        ("http://user:secret@h/x", "user information"),
        ("http://h%2e/x", "host"),
        ("http://h/a b", "host"),
    ],
)
def test_faults(uri: str, part: str) -> None:
    with pytest.raises(UriInvalid) as caught:
        request(uri)
    assert part in caught.value.message
    assert "secret" not in caught.value.message


def test_canonical_uris() -> None:
    _, asked = request("HTTPS://Host.Example:443/Path/x?B=c&A=%20#fragment")
    assert asked.location.uri == "https://host.example/Path/x?B=c&A=%20"
    assert asked.location.origin == "https://host.example"
    assert asked.location.is_default_origin
    _, asked = request("http://[::1]:8080/x")
    assert asked.location.origin == "http://[::1]:8080"
