"""Whose pass goes along to Azure Storage."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    ConfigInvalid,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
)
from cachd.sources.azure_identity import service_sas
from cachd.sources.azure_location import parse_azure
from tests.servers.azurefiles import KEY, FakeFiles
from tests.sources.asking import context, request, settings
from tests.sources.shares import SHARE, W, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.certificates import Certificates


async def test_what_comes_first(files: FakeFiles) -> None:
    share = files.make_bucket({"m/x": W})
    address = parse_azure(f"{SHARE}/{share}/m")
    sas = service_sas(address, KEY, "test", 4_000_000_000, is_tls=False)
    all_wrong = {"azure_account_key": base64.b64encode(b"wrong").decode()}
    uri = f"{SHARE}/{share}/m"
    for credentials in (
        Credentials(query=sas, azure_sas="sig=x", **all_wrong),
        Credentials(azure_sas=f"?{sas}", **all_wrong),
    ):
        assert (await resolve(uri, credentials, endpoint=files.endpoint)).auth.query == sas
    files.tokens.add("T")
    headers = (("Authorization", "Bearer T"), ("x-ms-version", "2023-11-03"))
    more = (*headers, ("x-ms-file-request-intent", "backup"))
    given = Credentials(headers=(("127.0.0.1", more),), **all_wrong)
    plan = await resolve(uri, given, endpoint=files.endpoint)
    assert dict(plan.auth.headers) == {k: v for k, v in more if k != "x-ms-version"}
    plan = await resolve(uri, Credentials(token="T"), endpoint=files.endpoint)
    assert plan.is_credentialed


async def test_an_application(
    files: FakeFiles, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = FakeFiles(certificates.server_context())
    authority.tokens = files.tokens
    try:
        uri = f"{SHARE}/{files.make_bucket({'m/x': W})}/m"
        one = {"azure_tenant_id": "t/1", "azure_client_id": "app"}
        named = Credentials(**one, azure_client_secret="app-secret-27182")
        options: dict[str, Any] = {
            "endpoint": files.endpoint,
            "authority": authority.endpoint,
            "ca_pem": certificates.ca_pem,
        }
        source, asked = request(uri, named, **options)
        plan = await source.resolve(asked, context())
        assert plan.auth.expires is not None
        assert authority.forms[0]["path"] == "/t%2F1/oauth2/v2.0/token"
        assert authority.forms[0]["scope"] == "https://storage.azure.com/.default"
        await source.probe(asked, "x", context())
        assert len(authority.forms) == 1
        assert (await source.authorize(asked, context())).headers != plan.auth.headers
        wrong = Credentials(**one, azure_client_secret="nonsense-1")
        with pytest.raises(CredentialsInvalid, match="invalid_client") as caught:
            await resolve(uri, wrong, **options)
        assert "nonsense-1" not in str(caught.value.to_wire())
        with pytest.raises(InvalidError, match="service principal takes"):
            await resolve(uri, Credentials(**one), **options)
        with pytest.raises(InvalidError, match="by https"):
            await resolve(uri, named, **{**options, "authority": "http://127.0.0.1:1"})

        # The daemon's, for a token of its service account; no caller says who changes it.
        (tmp_path / "token").write_text("federated-31415\n")
        for name, value in {
            "AZURE_TENANT_ID": "t",
            "AZURE_CLIENT_ID": "app",
            "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
            "AZURE_AUTHORITY_HOST": authority.endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        before = len(authority.forms)
        evil = {**options, "authority": "https://127.0.0.1:1"}
        assert (await resolve(uri, identity="daemon", **evil)).is_credentialed
        assert authority.forms[before]["client_assertion"] == "federated-31415"
    finally:
        authority.stop()


async def test_a_header_of_any_name_may_be_a_pass(files: FakeFiles) -> None:
    """Here nobody gets in by it."""
    given = ((files.endpoint.removeprefix("http://"), (("X-Api-Key", "31415"),)),)
    uri = f"{SHARE}/{files.make_bucket({'m/x': W})}/m"
    with pytest.raises(AccessError, match="the headers that were sent") as caught:
        await resolve(uri, Credentials(headers=given), endpoint=files.endpoint)
    assert "31415" not in str(caught.value.to_wire())


async def test_the_daemons_key(files: FakeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{SHARE}/{files.make_bucket({'m/x': W})}/m"
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", KEY)
    asked: dict[str, Any] = {"endpoint": files.endpoint, "identity": "daemon"}
    assert (await resolve(uri, **asked)).is_credentialed
    with pytest.raises(CredentialsMissing):
        await resolve(uri, given=settings(azure={"anonymous": True}), **asked)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "another")
    with pytest.raises(CredentialsMissing):
        await resolve(uri, **asked)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    for name, value in (
        ("AZURE_STORAGE_ACCESS_KEY", "no base64!-2718"),
        ("AZURE_STORAGE_SAS_TOKEN", "nothing-2718"),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigInvalid, match=name) as caught:
            await resolve(uri, **asked)
        assert "2718" not in str(caught.value.to_wire())
        assert caught.value.hint != InvalidError.next_step


async def test_an_authority_that_can_not_be_called(
    files: FakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("azure_tenant_id", "azure_client_id", "azure_client_secret")
    secret = Credentials(**dict.fromkeys(names, "x"))
    asked: dict[str, Any] = {"endpoint": files.endpoint}
    for url in ("http://login", "https://lo gin", "https://[x"):
        with pytest.raises(InvalidError) as caught:
            await resolve(f"{SHARE}/con/m", secret, authority=url, **asked)
        assert caught.value.field == "options.authority"
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", url)
        for name in names:
            monkeypatch.setenv(name.upper(), "x")
        with pytest.raises(ConfigInvalid) as own:
            await resolve(f"{SHARE}/con/m", identity="daemon", **asked)
        assert own.value.field == "AZURE_AUTHORITY_HOST"


@pytest.mark.parametrize(
    "given", [{"azure_account_key": "no base64!-2718"}, {"azure_sas": "nothing-2718"}]
)
async def test_credentials_that_are_none(files: FakeFiles, given: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match=f"credentials.{next(iter(given))}") as caught:
        await resolve(f"{SHARE}/con/m", Credentials(**given), endpoint=files.endpoint)
    assert "2718" not in str(caught.value.to_wire())
