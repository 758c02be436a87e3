"""Azure's URIs, files, and what refusals mean. Blobs are under the contract, at Azurite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cachd.credentials import Credentials
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
from cachd.sources import azure_xml
from cachd.sources.azure_location import base_url, item_url, parse_azure
from tests.servers.azurefiles import ACCOUNT, KEY, FakeFiles
from tests.sources.asking import NOBODY, context, paths, request, settings
from tests.sources.shares import OWN, SHARE, W, resolve

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite


# --- what a URI means ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "canonical", "service"),
    [
        (
            "https://Acct.blob.core.windows.net/triton/simple_string/",
            "https://acct.blob.core.windows.net/triton/simple_string",
            "blob",
        ),
        (
            "https://acct.blob.core.windows.net:443/con/",
            "https://acct.blob.core.windows.net/con",
            "blob",
        ),
        (
            "https://acct.z20.blob.storage.azure.net/con/m",
            "https://acct.z20.blob.storage.azure.net/con/m",
            "blob",
        ),
        (
            "https://acct.z2.file.storage.azure.net/share/m",
            "https://acct.z2.file.storage.azure.net/share/m",
            "file",
        ),
        (
            "abfss://con@acct.dfs.core.windows.net/a%20b/m",
            "https://acct.blob.core.windows.net/con/a%20b/m",
            "blob",
        ),
        (
            "wasbs://con@acct.blob.core.usgovcloudapi.net/m",
            "https://acct.blob.core.usgovcloudapi.net/con/m",
            "blob",
        ),
        (
            "cachd+abfs://con@acct.dfs.core.chinacloudapi.cn",
            "https://acct.blob.core.chinacloudapi.cn/con",
            "blob",
        ),
        (
            "https://acct.blob.core.windows.net/con/m?versionid=2024-01-01T00:00:00.0000000Z",
            "https://acct.blob.core.windows.net/con/m?versionid=2024-01-01T00:00:00.0000000Z",
            "blob",
        ),
    ],
)
def test_where_it_leads(uri: str, canonical: str, service: str) -> None:
    location = request(uri, NOBODY)[1].location
    assert (location.scheme, location.uri) == ("azure", canonical)
    assert location.origin == f"azure+https://{canonical.split('/')[2]}"
    assert location.is_default_origin
    assert parse_azure(location.uri).service == service
    assert parse_azure(location.uri).uri == canonical


def test_a_signature_is_no_part_of_the_name() -> None:
    query = "sp=r&st=2024&se=2025&spr=https&sv=2022-11-02&sr=c&sig=abc%3D&rscc=x"
    location = request(f"https://acct.blob.core.windows.net/con/m?{query}", NOBODY)[1].location
    assert location.uri == "https://acct.blob.core.windows.net/con/m"
    assert location.secret_query == query
    assert "abc" not in repr(location)


def test_endpoints() -> None:
    uri = "https://acct.blob.core.windows.net/con/m"
    given = settings(azure={"endpoint": "http://127.0.0.1:10000"})
    location = request(uri, NOBODY, given=given)[1].location
    assert location.origin == "azure+http://127.0.0.1:10000"
    assert location.is_default_origin
    location = request(uri, NOBODY, endpoint="http://127.0.0.1:10000")[1].location
    assert not location.is_default_origin
    own = request(uri, NOBODY, endpoint="https://acct.blob.core.windows.net")[1].location
    assert own.is_default_origin
    address = parse_azure(uri)
    for endpoint, base in (
        ("https://acct.blob.core.windows.net", "https://acct.blob.core.windows.net"),
        ("https://acct.blob.stack.local", "https://acct.blob.stack.local"),
        ("http://127.0.0.1:10000", "http://127.0.0.1:10000/acct"),
        ("http://127.0.0.1:10000/acct", "http://127.0.0.1:10000/acct"),
    ):
        assert base_url(endpoint, address) == base
    assert item_url("https://h", "$root", "a b/ü?#", "versionid=1") == (
        "https://h/$root/a%20b/%C3%BC%3F%23?versionid=1"
    )


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://acct.blob.core.windows.net/", "no container"),
        ("https://acct.file.core.windows.net/", "no share"),
        ("https://acct.blob.core.windows.net/C_1/m", "no name of a container"),
        ("https://u:p@acct.blob.core.windows.net/con/m", "user information"),
        ("https://acct.blob.core.windows.net:8443/c/m", "no host of an Azure"),
        ("https://a_b.blob.core.windows.net/con/m", "no host of an Azure"),
        ("https://acct.blob.core.windows.net/con/../m", "'.' or '..'"),
        ("https://acct.blob.core.windows.net/con/%FF", "no UTF-8"),
        ("https://acct.blob.core.windows.net/con/m?sv=1", "unknown option 'sv'"),
        ("https://acct.blob.core.windows.net/con/m?versionid=1&snapshot=2", "more than one"),
        ("https://acct.blob.core.windows.net/con?versionid=1", "one blob"),
        ("abfss://acct.dfs.core.windows.net/m", "names container@account"),
        ("abfss://con@somewhere.else/m", "no host of an Azure"),
        ("abfss://con@acct.file.core.windows.net/m", "no file share"),
    ],
)
def test_uris_that_mean_nothing(uri: str, words: str) -> None:
    with pytest.raises(UriInvalid, match=words) as caught:
        request(uri, NOBODY)
    assert "s3://" not in caught.value.hint


# --- XML -----------------------------------------------------------------------------------------


def test_no_document_type_is_read() -> None:
    bomb = (
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
        b"<EnumerationResults><Blobs><Blob><Name>&b;</Name></Blob></Blobs></EnumerationResults>"
    )
    for text in (bomb, bomb.decode().encode("utf-16"), b"", b"{}", b"<a>" * 20 + b"</a>" * 20):
        with pytest.raises(ValueError, match=r"no XML|too deep"):
            azure_xml.parse(text)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "foo", "rot13", "idna"])
def test_the_encoding_is_utf_8_whatever_is_said(encoding: str) -> None:
    head = f'\ufeff<?xml version="1.0" encoding="{encoding}"?>'
    page = azure_xml.parse(f"{head}<Error><Code>é</Code></Error>".encode())
    assert page.code == "é"
    with pytest.raises(ValueError, match="no XML"):
        azure_xml.parse(f"{head}<Error><Code>é</Code></Error>".encode("latin-1", "replace"))


def test_names_that_xml_cannot_hold() -> None:
    page = azure_xml.parse(
        b'<E><Blobs><Blob><Name Encoded="true">a%00b</Name></Blob>'
        b"<Blob><Name>a%20b</Name><OrMetadata><Name>no</Name></OrMetadata></Blob></Blobs></E>"
    )
    assert [found["Name"] for _, found in page.items] == ["a\0b", "a%20b"]


# --- blobs that Azurite doesn't have -------------------------------------------------------------


async def test_folders_of_a_hierarchical_namespace(azurite: Azurite) -> None:
    container = azurite.make_bucket({"m/x": W})
    azurite.put(container, "m/empty", b"", **{"x-ms-meta-hdi_isfolder": "true"})
    azurite.put(container, "m", b"", **{"x-ms-meta-hdi_isfolder": "true"})
    key = Credentials(azure_account_key=azurite.secret_key)
    base = f"https://{azurite.access_key}.blob.core.windows.net/{container}"
    plan = await resolve(f"{base}/m", key, endpoint=azurite.endpoint)
    assert paths(plan) == {"x": len(W)}
    with pytest.raises(NotFound, match="No model found"):
        await resolve(f"{base}/m/empty", key, endpoint=azurite.endpoint)


async def test_a_container_that_is_not_there(azurite: Azurite) -> None:
    key = Credentials(azure_account_key=azurite.secret_key)
    base = f"https://{azurite.access_key}.blob.core.windows.net"
    with pytest.raises(NotFound, match="container nothing does not exist"):
        await resolve(f"{base}/nothing/m", key, endpoint=azurite.endpoint)


async def test_the_archive_tier(azurite: Azurite) -> None:
    container = azurite.make_bucket({"n/x": W})
    azurite.put(container, "m/x", W, **{"x-ms-access-tier": "Archive"})
    key = Credentials(azure_account_key=azurite.secret_key)
    base = f"https://{azurite.access_key}.blob.core.windows.net/{container}"
    with pytest.raises(ContentError, match="archive tier"):
        await resolve(f"{base}/m", key, endpoint=azurite.endpoint)


# --- files ---------------------------------------------------------------------------------------


async def test_a_share(files: FakeFiles) -> None:
    deep = "/".join(f"d{n}" for n in range(9))
    share = files.make_bucket(
        {"m/x.bin": W, f"m/{deep}/y": b"", "m/a b\x01.txt": b"1", "m-hf/z": b"2"}
    )
    files.page = 2
    plan = await resolve(f"{SHARE}/{share}/m", endpoint=files.endpoint)
    assert paths(plan) == {"x.bin": len(W), f"{deep}/y": 0, "a b\x01.txt": 1}
    assert plan.is_credentialed
    assert plan.is_validated
    assert all((file.validator.etag or "").startswith('W/"0x') for file in plan.files)
    assert plan.auth.query.startswith("sp=rl&")
    assert plan.auth.host == files.endpoint.removeprefix("http://")
    one = await resolve(f"{SHARE}/{share}/m/x.bin", endpoint=files.endpoint)
    assert paths(one) == {"x.bin": len(W)}
    allowed = await resolve(f"{SHARE}/{share}/m", endpoint=files.endpoint, allow=("*.bin",))
    assert paths(allowed) == {"x.bin": len(W)}
    assert len((await resolve(f"{SHARE}/{share}", endpoint=files.endpoint)).files) == 4
    source, asked = request(f"{SHARE}/{share}/m", OWN, endpoint=files.endpoint)
    await source.probe(asked, "x.bin", context())
    with pytest.raises(NotFound, match="no longer"):
        await source.probe(asked, "y", context())


async def test_what_is_not_in_a_share(files: FakeFiles) -> None:
    share = files.make_bucket({"m/x": W})
    with pytest.raises(NotFound, match="No model found"):
        await resolve(f"{SHARE}/{share}/n", endpoint=files.endpoint)
    with pytest.raises(NotFound, match="share nothing does not exist"):
        await resolve(f"{SHARE}/nothing/n", endpoint=files.endpoint)
    with pytest.raises(CredentialsMissing):
        await resolve(f"{SHARE}/{share}/m", NOBODY, endpoint=files.endpoint)


async def test_hostile_directories(files: FakeFiles) -> None:
    share = files.make_bucket({"m/../x": W})
    with pytest.raises(PathUnsafe):
        await resolve(f"{SHARE}/{share}/m", endpoint=files.endpoint)


@pytest.mark.parametrize(
    ("status", "code", "is_signed", "kind"),
    [
        (403, "AuthenticationFailed", True, CredentialsInvalid),
        (401, "InvalidAuthenticationInfo", True, CredentialsInvalid),
        (401, "NoAuthenticationInformation", False, CredentialsMissing),
        (403, "AuthorizationPermissionMismatch", True, AccessError),
        (409, "PublicAccessNotPermitted", False, CredentialsMissing),
        (404, "ResourceNotFound", False, CredentialsMissing),
        (404, "ContainerNotFound", False, NotFound),
        (400, "InvalidResourceName", True, InvalidError),
        (503, "ServerBusy", True, OriginBusy),
        (500, "InternalError", True, OriginError),
        (418, "x", True, OriginError),
    ],
)
async def test_refusals(
    files: FakeFiles, status: int, code: str, is_signed: bool, kind: type[CachdError]
) -> None:
    files.refusals = [(status, code)] * 4
    uri = f"https://{ACCOUNT}.blob.core.windows.net/con"
    with pytest.raises(CachdError, match=str(status)) as caught:
        await resolve(uri, OWN if is_signed else NOBODY, endpoint=files.endpoint)
    assert type(caught.value) is kind
    assert code in caught.value.message
    assert KEY not in str(caught.value.to_wire())
    assert "sig=" not in str(caught.value.to_wire())
    if status == 503:
        assert caught.value.retry_after == 7
