"""A pod's identity in its cloud: which one it is, what is asked for it, what comes of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from cachd.cli import ambient_azure, ambient_google, token_calls
from cachd.cli.ambient import Passes, choose
from cachd.cli.ambient_aws import Agent, WebIdentity, sts_url
from cachd.cli.identity import Obtained
from cachd.errors import (
    AccessError,
    CachdError,
    CredentialsInvalid,
    InvalidError,
    OriginTls,
    OriginUnreachable,
)
from tests.servers.clouds import Clouds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.certificates import Certificates

S3 = "s3://bucket/model"
GCS = "https://storage.googleapis.com/bucket/m.bin"
BLOB = "https://account.blob.core.windows.net/container/m.bin"
IRSA = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/m", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}
AZURE = {"AZURE_CLIENT_ID": "app", "AZURE_TENANT_ID": "here", "AZURE_FEDERATED_TOKEN_FILE": "/t"}


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    monkeypatch.setattr(token_calls, "FIRST_PAUSE", 0.01)
    served = Clouds()
    yield served
    served.stop()


@pytest.fixture
def token(tmp_path: Path) -> str:
    (tmp_path / "token").write_text("pods-own-token-2718\n")
    return str(tmp_path / "token")


# --- which --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "environ", "given"),
    [
        (S3, {}, {}),
        (S3, IRSA, {"access_key_id": "AK", "secret_access_key": "SK"}),
        (S3, IRSA, {"anonymous": True}),
        (S3, {"AWS_ROLE_ARN": "x"}, {}),
        ("https://host/m", IRSA, {}),
        ("hf://owner/model", {**IRSA, **AZURE}, {}),
        (GCS, {"GCE_METADATA_HOST": "m", "GOOGLE_APPLICATION_CREDENTIALS": "/key"}, {}),
        (GCS, {"NO_GCE_CHECK": "true"}, {}),
        (GCS + "?X-Goog-Signature=5f", {"GCE_METADATA_HOST": "m"}, {}),
        (GCS, {"GCE_METADATA_HOST": "m"}, {"headers": {"storage.googleapis.com": {}}}),
        ("gs://b/m", {"GCE_METADATA_HOST": "m"}, {"google_key": "{}"}),
        ("gs://b/m", {"GCE_METADATA_HOST": "m"}, {"headers": {"storage.googleapis.com": {}}}),
        (BLOB, {}, {}),
        (BLOB + "?sv=2020&sig=ab", AZURE, {}),
        (BLOB, {**AZURE, "AZURE_TENANT_ID": ""}, {}),
        (BLOB, AZURE, {"azure_account_key": "K"}),
        (BLOB, AZURE, {"azure_sas": "sig=x"}),
        (BLOB, AZURE, {"headers": {"account.blob.core.windows.net": {"Authorization": "x"}}}),
        (BLOB.replace("https", "http"), AZURE, {}),
        (GCS.replace("https", "http"), {"GCE_METADATA_HOST": "m"}, {}),
    ],
)
def test_what_was_spelled_out_wins_and_other_stores_get_nothing(
    uri: str, environ: dict[str, str], given: dict[str, Any]
) -> None:
    assert choose(environ, uri, given) is None


@pytest.mark.parametrize("scheme", ["s3", "cachd+s3", "model-registry", "mlflow"])
def test_irsa_comes_before_an_agent_as_in_botocore(scheme: str) -> None:
    agent = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
    assert isinstance(choose({**IRSA, **agent}, f"{scheme}://a/b", {}), WebIdentity)
    assert isinstance(choose(agent, f"{scheme}://a/b", {}), Agent)


def test_the_relative_uri_comes_before_the_full_one() -> None:
    both = {
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/y",
    }
    found = choose(both, S3, {})
    assert isinstance(found, Agent)
    assert found.url == "http://169.254.170.2/v2/x"


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "http://example.com/x", "ftp://localhost/x"])
def test_a_token_goes_to_this_nodes_agents_alone(url: str) -> None:
    with pytest.raises(InvalidError, match="no agent of this node"):
        choose({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}, S3, {})


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://sts.amazonaws.com/"),
        ({"AWS_REGION": "eu-west-1"}, "https://sts.eu-west-1.amazonaws.com/"),
        ({"AWS_DEFAULT_REGION": "cn-north-1"}, "https://sts.cn-north-1.amazonaws.com.cn/"),
        (
            {"AWS_REGION": "eu-west-1", "AWS_STS_REGIONAL_ENDPOINTS": "legacy"},
            "https://sts.amazonaws.com/",
        ),
        ({"AWS_ENDPOINT_URL_STS": "http://sts:1", "AWS_ENDPOINT_URL": "http://a"}, "http://sts:1/"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000"}, "http://minio:9000/"),
        (
            {"AWS_ENDPOINT_URL": "https://s3.amazonaws.com", "AWS_REGION": "us-east-1"},
            "https://sts.us-east-1.amazonaws.com/",
        ),
    ],
)
def test_where_sts_is(environ: dict[str, str], url: str) -> None:
    assert sts_url(environ) == url


def test_no_token_goes_to_an_endpoint_in_the_clear() -> None:
    environ = {"GCE_METADATA_HOST": "m"}
    assert choose(environ, "gs://b/m", {}, endpoint="http://emulator:4443") is None
    assert choose(environ, "mlflow://b/m", {}) is not None


def test_google_is_told_by_the_machine(tmp_path: Path) -> None:
    product = tmp_path / "product_name"
    assert ambient_google.choose({}, product) is None
    product.write_text("Google Compute Engine\n")
    found = ambient_google.choose({}, product)
    assert found is not None
    assert isinstance(found, ambient_google.Metadata)
    assert found.url.startswith("http://metadata.google.internal/computeMetadata/v1/")
    product.write_text("Standard PC\n")
    assert ambient_google.choose({}, product) is None


@pytest.mark.parametrize(
    ("uri", "endpoint", "host"),
    [
        (BLOB, None, "account.blob.core.windows.net"),
        ("abfss://c@account.dfs.core.windows.net/m", None, "account.blob.core.windows.net"),
        ("https://a.z20.blob.storage.azure.net/c/m", None, "a.z20.blob.storage.azure.net"),
        ("https://a.file.core.windows.net/s/m", None, "a.file.core.windows.net"),
        (BLOB, "https://account.blob.stack.local:444", "account.blob.stack.local:444"),
    ],
)
def test_azures_token_is_for_the_host_that_is_called(
    uri: str, endpoint: str | None, host: str
) -> None:
    found = choose({"AZURE_ACCESS_TOKEN": "T"}, uri, {}, endpoint=endpoint)
    assert found is not None
    (sent,) = found.obtain().credentials["headers"].items()
    assert sent[0] == host
    assert sent[1]["Authorization"] == "Bearer T"
    assert ("x-ms-file-request-intent" in sent[1]) == (".file." in host)
    assert choose({"AZURE_ACCESS_TOKEN": "T"}, uri, {}, endpoint="http://azurite:10000") is None


def test_azure_has_its_order() -> None:
    host = "account.blob.core.windows.net"
    given = ambient_azure.choose({**AZURE, "AZURE_ACCESS_TOKEN": "T"}, host)
    assert given is not None
    assert given.obtain().credentials["headers"][host]["Authorization"] == "Bearer T"
    secret = ambient_azure.choose({**AZURE, "AZURE_CLIENT_SECRET": "S"}, host)
    assert isinstance(secret, ambient_azure.Application)
    assert (secret.secret, secret.token_file) == ("S", "")
    with pytest.raises(InvalidError, match="must be https"):
        ambient_azure.choose({**AZURE, "AZURE_AUTHORITY_HOST": "http://here"}, host)


# --- what is asked ------------------------------------------------------------------------


def test_irsa(clouds: Clouds, token: str) -> None:
    environ = {
        **IRSA,
        "AWS_WEB_IDENTITY_TOKEN_FILE": token,
        "AWS_ENDPOINT_URL_STS": clouds.url,
        "POD_NAME": "llama/0",
    }
    clouds.refusals = [(503, "ServiceUnavailable"), (400, "IDPCommunicationError")]
    found = choose(environ, S3, {})
    assert found is not None
    obtained = found.obtain()
    assert obtained.credentials == {
        "access_key_id": "AKIA1",
        "secret_access_key": "secret-1",
        "session_token": "session-1",
    }
    assert obtained.expires is not None
    assert 3500 < obtained.expires - time.time() <= 3600
    assert len(clouds.calls) == 3
    assert clouds.calls[-1].form == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::1:role/m",
        "RoleSessionName": "cachd-llama-0",
        "WebIdentityToken": "pods-own-token-2718",
    }
    assert "2718" not in repr(found) + repr(obtained)
    assert "secret-1" not in repr(obtained)


@pytest.mark.parametrize("is_file", [True, False])
def test_eks_pod_identity(is_file: bool, clouds: Clouds, token: str) -> None:
    environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{clouds.url}/agent"}
    if is_file:
        environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = token
    else:
        environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = "pods-own-token-2718"
    found = choose(environ, S3, {})
    assert found is not None
    assert found.obtain().credentials["session_token"] == "session-1"
    assert clouds.calls[0].headers["authorization"] == "pods-own-token-2718"


def test_a_nodes_service_is_asked_past_the_proxy(
    clouds: Clouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    found = choose({"GCE_METADATA_HOST": clouds.host}, GCS, {})
    assert found is not None
    obtained = found.obtain()
    headers = {"storage.googleapis.com": {"Authorization": "Bearer token-1"}}
    assert obtained.credentials == {"headers": headers}
    assert clouds.calls[0].headers["metadata-flavor"] == "Google"
    found = choose({"GCE_METADATA_HOST": clouds.host}, "gs://bucket/m", {})
    assert found is not None
    assert "storage.googleapis.com" in found.obtain().credentials["headers"]
    private = "https://Storage-x.p.googleapis.com:444/"
    found = choose({"GCE_METADATA_HOST": clouds.host}, "gs://b/m", {}, endpoint=private)
    assert found is not None
    assert "storage-x.p.googleapis.com:444" in found.obtain().credentials["headers"]


def test_azure_workload_identity(
    certificates: Certificates, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = certificates.server_context()
    clouds = Clouds(context)
    try:
        environ = {
            **AZURE,
            "AZURE_FEDERATED_TOKEN_FILE": token,
            "AZURE_AUTHORITY_HOST": f"{clouds.url}/",
        }
        found = choose(environ, BLOB, {})
        assert found is not None
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(OriginTls, match="no certificate that is trusted"):
            found.obtain()
        assert clouds.calls == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        obtained = found.obtain()
        sent = obtained.credentials["headers"]["account.blob.core.windows.net"]
        assert sent["Authorization"] == "Bearer token-1"
        assert sent["x-ms-version"]
        (call,) = clouds.calls
        assert call.path == "/here/oauth2/v2.0/token"
        assert call.form["client_assertion"] == "pods-own-token-2718"
        assert call.form["scope"] == "https://storage.azure.com/.default"
    finally:
        clouds.stop()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InvalidIdentityToken", CredentialsInvalid),
        (403, "AccessDenied", AccessError),
        (302, "http://127.0.0.1:1/elsewhere", AccessError),
    ],
)
def test_a_refusal_is_told_at_once(
    status: int, code: str, kind: type[CachdError], clouds: Clouds, token: str
) -> None:
    clouds.refusals = [(status, code)]
    found = WebIdentity(role="r", token_file=token, session="s", url=f"{clouds.url}/")
    with pytest.raises(kind) as caught:
        found.obtain()
    assert len(clouds.calls) == 1
    assert str(status) in caught.value.message
    assert "2718" not in str(caught.value.to_wire())


def test_a_service_that_is_away(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_calls, "FIRST_PAUSE", 0.01)
    found = WebIdentity(role="r", token_file=token, session="s", url="http://127.0.0.1:1/")
    with pytest.raises(OriginUnreachable, match=r"AWS's STS at 127\.0\.0\.1:1 can't be reached"):
        found.obtain()


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    found = WebIdentity(role="r", token_file=str(tmp_path / "t"), session="s", url="http://x/")
    with pytest.raises(InvalidError) as caught:
        found.obtain()
    assert caught.value.field == "AWS_WEB_IDENTITY_TOKEN_FILE"
    (tmp_path / "t").write_text("a\nb")
    with pytest.raises(InvalidError, match="holds no token"):
        found.obtain()


# --- when ---------------------------------------------------------------------------------


class Issuer:
    """Gives out keys that live ``life`` seconds of a clock that the test moves."""

    name = "an issuer"

    def __init__(self, life: float | None) -> None:
        self.life, self.now, self.count = life, 1000.0, 0

    def obtain(self) -> Obtained:
        self.count += 1
        return Obtained(
            credentials={"access_key_id": f"K{self.count}"},
            expires=None if self.life is None else self.now + self.life,
        )


def test_credentials_are_changed_before_they_end() -> None:
    issuer = Issuer(3600.0)
    passes = Passes({"uri": S3, "options": {}}, issuer, clock=lambda: issuer.now)
    assert not passes.is_due
    assert passes.body()["credentials"] == {"access_key_id": "K1"}
    issuer.now += 3290
    assert passes.body()["credentials"] == {"access_key_id": "K1"}
    issuer.now += 20
    assert passes.is_due
    passes.postpone(15)
    assert not passes.is_due
    issuer.now += 15
    assert passes.body()["credentials"] == {"access_key_id": "K2"}
    assert passes.body()["uri"] == S3
    issuer.life = 10.0
    issuer.now += 4000
    passes.body()
    issuer.now += 7.9
    assert not passes.is_due
    issuer.now += 0.2
    assert passes.is_due


def test_credentials_without_an_end_are_kept() -> None:
    issuer = Issuer(None)
    passes = Passes({}, issuer, clock=lambda: issuer.now)
    passes.body()
    issuer.now += 1e9
    assert not passes.is_due
    assert passes.body() == {"credentials": {"access_key_id": "K1"}}
