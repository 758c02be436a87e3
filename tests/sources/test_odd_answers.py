"""Whatever an origin answers with, an ask ends with a plan, or with words that say what to do."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from cachd.credentials import Credentials
from cachd.errors import (
    CachdError,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
    PathUnsafe,
)
from cachd.sources import modelscope
from tests.servers.origin import serve
from tests.sources.asking import NOBODY, resolve
from tests.sources.test_s3_stub import listing

NONE = Credentials()
COMMIT = "0123456789" * 4
HALF = "a\ud800b"
"""Half a character: JSON can say it, and no URL, no file and no message can."""


def says(value: object, **headers: str) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json", headers=headers)


async def refused(handler: Any, uri: str, credentials: Credentials = NONE, **more: Any) -> Any:
    """The error of an ask for ``uri``, which has the server's host for ``HOST``."""
    async with serve(handler) as origin:
        place = {} if "HOST" in uri else {"endpoint": origin.url}
        uri = uri.replace("HOST", urlsplit(origin.url).netloc)
        with pytest.raises(CachdError) as caught:
            await resolve(uri, credentials, max_attempts=1, **place, **more)
    error = caught.value
    assert json.dumps(error.to_wire(), ensure_ascii=False).encode()
    return error


@pytest.mark.parametrize("link", ["http://[x", "http://h/?a b"])
async def test_a_hubs_next_page_that_is_no_url(link: str) -> None:
    async def hub(request: web.BaseRequest) -> web.Response:
        if "/revision/" in request.path:
            return says({"sha": COMMIT})
        return says([], Link=f'<{link}>; rel="next"')

    error = await refused(hub, "hf://org/m")
    assert type(error) is OriginError
    assert error.hint


@pytest.mark.parametrize("path", [HALF, "a\0b", "a//b", "a/../.."])
async def test_a_hubs_directory_that_no_url_can_name(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hub(request: web.BaseRequest) -> web.Response:
        is_whole = request.query["Recursive"] == "True"
        folder = {"Path": path, "Type": "tree"}
        return says({"Data": {"Files": [folder] * (3 if is_whole else 1)}})

    monkeypatch.setattr(modelscope, "_LISTED_MOST", 3)
    error = await refused(hub, "modelscope://org/m")
    assert isinstance(error, PathUnsafe | OriginError)
    assert error.hint


async def test_a_hubs_directories_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hub(request: web.BaseRequest) -> web.Response:
        if request.query["Recursive"] == "True":
            return says({"Data": {"Files": [{"Type": "tree"}] * 2}})
        root = request.query.get("Root", "")
        inner = f"{root}/a" if root else "a"
        return says({"Data": {"Files": [{"Path": inner, "Type": "tree"}]}})

    monkeypatch.setattr(modelscope, "_LISTED_MOST", 2)
    # Some server's limit of a URL, or ours of a name.
    assert isinstance(await refused(hub, "modelscope://org/m"), PathUnsafe | OriginError)


@pytest.mark.parametrize("kind", ["FILE", "DIRECTORY"])
async def test_a_namenodes_name_that_no_url_can_have(kind: str) -> None:
    child = {"pathSuffix": HALF, "type": kind, "length": 1, "modificationTime": 1}

    async def namenode(request: web.BaseRequest) -> web.Response:
        if request.query["op"] == "GETFILESTATUS":
            return says({"FileStatus": {"pathSuffix": "", "type": "DIRECTORY"}})
        return says({"FileStatuses": {"FileStatus": [child]}})

    assert isinstance(await refused(namenode, "webhdfs://HOST/m"), PathUnsafe | OriginError)


@pytest.mark.parametrize("is_first_down", [True, False])
@pytest.mark.parametrize(
    "uri", ["s3://bucket/m", "gs://bucket/m", "https://account.blob.core.windows.net/con/m"]
)
async def test_half_of_an_answer_is_none(uri: str, is_first_down: bool) -> None:
    """While the object of that very name can't be looked for, what lies below it is no model; nor
    is an empty one, while what lies below it can't be listed."""

    async def store(request: web.BaseRequest) -> web.Response:
        is_exact = request.method == "HEAD" or request.path.endswith("/o/m")
        if is_exact == is_first_down:
            return web.Response(status=503)
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "0", "ETag": '"e"'})
        item = {"name": "m" if is_exact else "m/x", "size": f"{1 - is_exact:d}", "generation": "1"}
        if uri.startswith("gs:"):
            return says(item if is_exact else {"items": [item]})
        if uri.startswith("s3:"):
            return listing({"m/x": 1})
        blob = "<Name>m/x</Name><Properties><Content-Length>1</Content-Length></Properties>"
        page = f"<EnumerationResults><Blobs><Blob>{blob}</Blob></Blobs></EnumerationResults>"
        return web.Response(text=page)

    assert isinstance(await refused(store, uri, NOBODY), OriginBusy)


async def test_a_store_that_is_busy_for_ever() -> None:
    async def store(_: web.BaseRequest) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "9" * 400})

    assert (await refused(store, "s3://bucket/m", NOBODY)).retry_after == 86400


async def test_directories_without_number() -> None:
    """However many a server names, they aren't all in hand at once."""
    most = 0

    def note() -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))

    async def namenode(request: web.BaseRequest) -> web.Response:
        note()
        if request.query["op"] == "GETFILESTATUS":
            return says({"FileStatus": {"pathSuffix": "", "type": "DIRECTORY"}})
        is_top = request.path.endswith("/m")
        names = [{"pathSuffix": str(n), "type": "DIRECTORY"} for n in range(1000 if is_top else 0)]
        return says({"FileStatuses": {"FileStatus": names}})

    async def share(request: web.BaseRequest) -> web.Response:
        note()
        if request.method == "HEAD":
            return web.Response(status=404)
        is_top = request.path.endswith("/m")
        names = [f"<Directory><Name>{n}</Name></Directory>" for n in range(1000 if is_top else 0)]
        entries = f"<Entries>{''.join(names)}</Entries>"
        return web.Response(text=f"<EnumerationResults>{entries}</EnumerationResults>")

    uri = "https://account.file.core.windows.net/share/m"
    for handler, where in ((namenode, "webhdfs://HOST/m"), (share, uri)):
        assert isinstance(await refused(handler, where), NotFound)
        assert 8 < most < 500


@pytest.mark.parametrize("uri", ["gs://bucket/m", "gs://bucket"])
async def test_an_objects_name_that_no_url_can_have(uri: str) -> None:
    async def gcs(request: web.BaseRequest) -> web.Response:
        item = {"name": f"m/{HALF}", "size": "1", "generation": "1"}
        return says(item if request.path.endswith("/o/m") else {"items": [item]})

    assert isinstance(await refused(gcs, uri), PathUnsafe | OriginError)


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "a\rb"},
        {"token": "a b"},
        {"token": "a\0b"},
        {"access_token": "é"},
    ],
)
async def test_a_registrys_token_that_no_header_can_carry(answer: Any) -> None:
    error = await refused(challenging(answer), "oci://HOST/a/b:v1", plain_http=True)
    assert type(error) is OriginError
    assert "without a token that can be sent" in error.message
    assert error.hint


async def test_a_registrys_token_that_lives_for_ever() -> None:
    told = {"token": "t", "expires_in": 10**400}
    error = await refused(challenging(told), "oci://HOST/a/b:v1", plain_http=True)
    assert isinstance(error, CredentialsMissing)


def challenging(answer: Any) -> Any:
    async def registry(request: web.BaseRequest) -> web.Response:
        if request.path == "/token":
            return says(answer)
        realm = f'Bearer realm="http://{request.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    return registry
