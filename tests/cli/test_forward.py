"""The environment of KServe's init containers, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cachd.cli.ambient import choose
from cachd.cli.forward import gather
from cachd.cli.forward_values import Overrides
from cachd.errors import InvalidError, UriInvalid
from tests.cli.mounted import PEM, reader

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
SENT_KEYS = {"access_key_id": "AK", "secret_access_key": "SK"}
GS = "gs://bucket/model"
BLOB = "https://account.blob.core.windows.net/container/m"
ABFS = "abfss://container@account.dfs.core.windows.net/m"
APPLICATION = {
    "AZURE_TENANT_ID": "T",
    "AZURE_CLIENT_ID": "C",
    "AZURE_CLIENT_SECRET": "S",
}
KEY = {"GOOGLE_APPLICATION_CREDENTIALS": "/var/secrets/key.json"}
FILES = {
    "/var/secrets/key.json": "{}",
    "/etc/aws.pem": PEM,
    "/certs/cabundle.crt": PEM + "map",
    "/etc/bad.pem": "nonsense",
}
read = reader(FILES)
MAP = {"CA_BUNDLE_CONFIGMAP_NAME": "global", "CA_BUNDLE_VOLUME_MOUNT_POINT": "/certs"}
S3 = "s3://bucket/model"


def storage(**config: Any) -> dict[str, str]:
    return {"STORAGE_CONFIG": json.dumps({"type": "s3", **config})}


@pytest.mark.parametrize(
    ("uri", "environ", "credentials", "options"),
    [
        (S3, {}, {}, {}),
        (S3, KEYS, SENT_KEYS, {}),
        ("cachd+" + S3, KEYS, SENT_KEYS, {}),
        ("S3://bucket/model", KEYS, SENT_KEYS, {}),
        (S3, {**KEYS, "AWS_SESSION_TOKEN": "T"}, {**SENT_KEYS, "session_token": "T"}, {}),
        (S3, {**KEYS, "awsAnonymousCredential": "True"}, {"anonymous": True}, {}),
        (S3, {**KEYS, "awsAnonymousCredential": "no"}, SENT_KEYS, {}),
        (S3, {"S3_USER_VIRTUAL_BUCKET": "true"}, {}, {"addressing": "virtual"}),
        (S3, {"S3_USE_ACCELERATE": "TRUE"}, {}, {"accelerate": True}),
        (
            S3,
            {"S3_CONNECT_TIMEOUT": "15", "S3_READ_TIMEOUT": "2.5", "S3_MAX_ATTEMPTS": "3"},
            {},
            {"connect_timeout": 15.0, "read_timeout": 2.5, "max_attempts": 3},
        ),
        (S3, {"AWS_ENDPOINT_URL": "http://a"}, {}, {"endpoint": "http://a"}),
        (
            S3,
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"},
            {},
            {"endpoint": "http://b"},
        ),
        (S3, {"S3_ENDPOINT": "minio:9000"}, {}, {"endpoint": "https://minio:9000"}),
        (
            S3,
            {"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"},
            {},
            {"endpoint": "http://minio:9000"},
        ),
        (
            S3,
            {"S3_ENDPOINT": "http://minio:9000", "S3_USE_HTTPS": "1"},
            {},
            {"endpoint": "http://minio:9000"},
        ),
        (
            S3,
            {"AWS_ENDPOINT_URL": "https://s3.amazonaws.com", "AWS_DEFAULT_REGION": "eu-west-1"},
            {},
            {
                "endpoint": "https://s3.amazonaws.com",
                "region": "eu-west-1",
                "addressing": "virtual",
            },
        ),
        (
            S3,
            {"AWS_ENDPOINT_URL": "https://s3.amazonaws.com", "AWS_DEFAULT_REGION": "us-east-1"},
            {},
            {"endpoint": "https://s3.amazonaws.com", "region": "us-east-1"},
        ),
        (S3, {"AWS_REGION": "b", "AWS_DEFAULT_REGION": "a"}, {}, {"region": "a"}),
        (S3, {"S3_VERIFY_SSL": "0"}, {}, {"verify": False}),
        (S3, {"S3_VERIFY_SSL": "False"}, {}, {"verify": False}),
        (S3, {"S3_VERIFY_SSL": "1"}, {}, {}),
        (S3, {"AWS_CA_BUNDLE": "/etc/aws.pem", **MAP}, {}, {"ca_pem": PEM}),
        (S3, {"AWS_CA_BUNDLE": "", **MAP}, {}, {"ca_pem": PEM + "map"}),
        (S3, {"AWS_CA_BUNDLE": "/none", "S3_VERIFY_SSL": "0"}, {}, {"verify": False}),
        (
            S3,
            {
                "AWS_ACCESS_KEY_ID": "other",
                **storage(
                    endpoint_url="http://c",
                    access_key_id="AK",
                    secret_access_key="SK",
                    region="r",
                    ca_bundle="/etc/aws.pem",
                ),
            },
            SENT_KEYS,
            {"endpoint": "http://c", "region": "r", "ca_pem": PEM},
        ),
        (S3, storage(anonymous="true", verify_ssl="0"), {"anonymous": True}, {"verify": False}),
        (S3, storage(anonymous=True), {"anonymous": True}, {}),
        (
            S3,
            {
                **storage(endpoint_url="http://c"),
                "STORAGE_OVERRIDE_CONFIG": '{"endpoint_url": "http://d"}',
                "AWS_ENDPOINT_URL_S3": "http://e",
            },
            {},
            {"endpoint": "http://d"},
        ),
        (S3, {"STORAGE_CONFIG": '{"type": "hdfs", "region": "r"}'}, {}, {}),
        (S3, {"HF_TOKEN": "hf", "host-headers": "{}"}, {}, {}),
        ("https://host/x", {**KEYS, "AWS_DEFAULT_REGION": "r", "HF_TOKEN": "hf"}, {}, {}),
        (
            "https://Example.com:8443/x",
            {"example.com-headers": '{"Authorization": "x"}', "other-headers": '{"a": "b"}'},
            {"headers": {"example.com": {"Authorization": "x"}}},
            {},
        ),
        ("https://host/x", MAP, {}, {"ca_pem": PEM + "map"}),
        ("http://host/x", MAP, {}, {}),
        ("hf://o/m", {"HF_TOKEN": "hf", **KEYS}, {"token": "hf"}, {}),
        (
            "model-registry://r/m",
            {**KEYS, "HF_TOKEN": "hf", "a.example-headers": '{"A": "b"}', "AWS_REGION": "r"},
            {
                **SENT_KEYS,
                "headers": {
                    "a.example": {"A": "b"},
                    "huggingface.co": {"Authorization": "Bearer hf"},
                },
            },
            {"region": "r"},
        ),
        (GS, {**KEYS, "HF_TOKEN": "hf"}, {}, {}),
        (GS, KEY, {"google_key": "{}"}, {}),
        (GS, {**KEY, **MAP}, {"google_key": "{}"}, {"ca_pem": PEM + "map"}),
        (
            GS,
            {**KEY, "STORAGE_EMULATOR_HOST": "http://fake:4443"},
            {},
            {"endpoint": "http://fake:4443"},
        ),
        (GS, {"STORAGE_EMULATOR_HOST": "fake:4443"}, {}, {"endpoint": "http://fake:4443"}),
        (
            GS,
            {"storage.googleapis.com-headers": '{"Authorization": "x"}', "bucket-headers": "{}"},
            {"headers": {"storage.googleapis.com": {"Authorization": "x"}}},
            {},
        ),
        (BLOB, {"AZURE_STORAGE_ACCESS_KEY": "K", **KEYS}, {"azure_account_key": "K"}, {}),
        (BLOB, {"AZURE_STORAGE_SAS_TOKEN": "sig=x"}, {"azure_sas": "sig=x"}, {}),
        (ABFS, {"AZURE_STORAGE_ACCESS_KEY": "K"}, {"azure_account_key": "K"}, {}),
        (
            BLOB,
            {"AZURE_STORAGE_ACCESS_KEY": "K", "AZURE_ACCOUNT_NAME": "account"},
            {"azure_account_key": "K"},
            {},
        ),
        (BLOB, {"AZURE_STORAGE_ACCESS_KEY": "K", "AZURE_ACCOUNT_NAME": "other"}, {}, {}),
        (f"{BLOB}?sv=1&sig=x", {"AZURE_STORAGE_ACCESS_KEY": "K"}, {}, {}),
        (BLOB, {**APPLICATION, **MAP}, {}, {"ca_pem": PEM + "map"}),
        (
            BLOB,
            {"AZURE_SERVICE_URL": "http://azurite:10000"},
            {},
            {"endpoint": "http://azurite:10000"},
        ),
        (BLOB, {"AZURE_SERVICE_URL": "https://other.blob.core.windows.net"}, {}, {}),
        (BLOB, {"AZURE_ACCESS_TOKEN": "changed by the client", "minio-headers": "{}"}, {}, {}),
        (
            ABFS,
            {"account.blob.core.windows.net-headers": '{"Authorization": "x"}'},
            {"headers": {"account.blob.core.windows.net": {"Authorization": "x"}}},
            {},
        ),
        (
            "mlflow://r/m",
            {**APPLICATION, "AZURE_AUTHORITY_HOST": "https://a", "AZURE_SERVICE_URL": "http://b"},
            {"azure_tenant_id": "T", "azure_client_id": "C", "azure_client_secret": "S"},
            {"authority": "https://a"},
        ),
        ("mlflow://r/m", {**KEY, "STORAGE_EMULATOR_HOST": "f"}, {}, {}),
        ("mlflow://r/m", KEY, {"google_key": "{}"}, {}),
    ],
)
def test_environment(
    uri: str, environ: dict[str, str], credentials: dict[str, Any], options: dict[str, Any]
) -> None:
    result = gather(environ, uri, read=read)
    assert (result.credentials, result.options, result.warnings) == (credentials, options, ())
    nothing = gather(environ, uri, forward=False, read=read)
    assert (nothing.credentials, nothing.options) == ({}, {})


@pytest.mark.parametrize(
    ("uri", "environ", "word"),
    [
        (S3, {"AWS_ACCESS_KEY_ID": "AK"}, "only one of"),
        (S3, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t"}, "WEB_IDENTITY"),
        ("https://host/x", {**MAP, "CA_BUNDLE_VOLUME_MOUNT_POINT": "/none"}, "Failed to find"),
        ("model-registry://r/m", {"AWS_CA_BUNDLE": "/etc/bad.pem"}, "no PEM certificate"),
        ("mlflow://r/m", {"GOOGLE_APPLICATION_CREDENTIALS": "/none"}, "can't be read"),
        ("models:/m/1", {"AZURE_ACCESS_TOKEN": "secret"}, "AZURE_ACCESS_TOKEN isn't sent"),
        ("mlflow://r/m", {"minio-headers": '{"A": "secret"}'}, "minio-headers isn't sent"),
    ],
)
def test_warnings(uri: str, environ: dict[str, str], word: str) -> None:
    result = gather(environ, uri, read=read)
    assert word in result.warnings[0]
    assert "secret" not in str(result.warnings) + str(result.credentials)
    assert "ca_pem" not in result.options


@pytest.mark.parametrize(
    ("uri", "environ", "message"),
    [
        (S3, {"AWS_CA_BUNDLE": "/none"}, "Failed to find ca bundle file"),
        (S3, {**MAP, "CA_BUNDLE_VOLUME_MOUNT_POINT": "/none"}, "Failed to find ca bundle file"),
        (S3, {"AWS_CA_BUNDLE": "/etc/bad.pem"}, "holds no PEM certificate"),
        (S3, {"STORAGE_CONFIG": "{secret"}, "STORAGE_CONFIG holds no JSON object"),
        (S3, {"S3_READ_TIMEOUT": "soon"}, "must be a positive number"),
        (S3, {"S3_MAX_ATTEMPTS": "1.5"}, "must be a positive number"),
        ("https://h/x", {"h-headers": "secret"}, "h-headers holds no JSON object"),
        ("https://h/x", {"h-headers": '{"secret": 1}'}, "must map header names"),
    ],
)
def test_what_cannot_be_meant(uri: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidError, match=message) as caught:
        gather(environ, uri, read=read)
    assert "secret" not in caught.value.message


def test_a_uri_without_a_valid_host_is_the_callers_fault() -> None:
    with pytest.raises(UriInvalid, match="no valid host") as caught:
        gather({}, "https://[bad/m.bin?sig=secret", read=read)
    assert "secret" not in caught.value.message
    with pytest.raises(UriInvalid, match="no valid host"):
        choose({}, "gs://[bad/m", {})


@pytest.mark.parametrize(
    ("overrides", "environ", "credentials", "options"),
    [
        (Overrides(endpoint="http://z"), {"AWS_ENDPOINT_URL": "a"}, {}, {"endpoint": "http://z"}),
        (Overrides(anonymous=True), KEYS, {"anonymous": True}, {}),
        (Overrides(verify=False), {"AWS_CA_BUNDLE": "/none"}, {}, {"verify": False}),
        (
            Overrides(ca_bundle="/etc/aws.pem"),
            {"AWS_CA_BUNDLE": "/none", "S3_VERIFY_SSL": "0"},
            {},
            {"ca_pem": PEM},
        ),
        (
            Overrides(endpoint="https://s3.amazonaws.com", region="eu-west-1"),
            {},
            {},
            {
                "endpoint": "https://s3.amazonaws.com",
                "region": "eu-west-1",
                "addressing": "virtual",
            },
        ),
        (
            Overrides(endpoint="https://s3.amazonaws.com", region="eu-west-1", addressing="path"),
            {},
            {},
            {"endpoint": "https://s3.amazonaws.com", "region": "eu-west-1", "addressing": "path"},
        ),
    ],
)
def test_the_command_line_beats_the_environment(
    overrides: Overrides,
    environ: dict[str, str],
    credentials: dict[str, Any],
    options: dict[str, Any],
) -> None:
    result = gather(environ, S3, overrides, read=read)
    assert (result.credentials, result.options) == (credentials, options)


def test_headers_of_the_command_line_join_those_of_the_environment() -> None:
    environ = {"h-headers": '{"A": "1", "B": "2"}'}
    result = gather(environ, "https://h/x", Overrides(headers=(("B", "3"), ("C", "4"))), read=read)
    assert result.credentials == {"headers": {"h": {"A": "1", "B": "3", "C": "4"}}}


@pytest.mark.parametrize(
    ("uri", "environ", "hosts"),
    [
        (GS, {}, ["storage.googleapis.com"]),
        (GS, {"STORAGE_EMULATOR_HOST": "https://fake:4443"}, ["fake"]),
        (BLOB, {}, ["account.blob.core.windows.net"]),
        (ABFS, {}, ["account.blob.core.windows.net"]),
        ("hf://o/m", {}, ["huggingface.co"]),
        ("oci://registry.example:5000/m", {}, ["registry.example"]),
        ("webhdfs://nn:9870/m", {}, ["nn:9870"]),
        (
            "hdfs://models/m",
            {"STORAGE_CONFIG": '{"type": "hdfs", "HDFS_NAMENODE": "http://a:9870;http://b"}'},
            ["a:9870", "b"],
        ),
    ],
)
def test_headers_of_the_command_line_go_to_who_is_asked(
    uri: str, environ: dict[str, str], hosts: list[str]
) -> None:
    result = gather(environ, uri, Overrides(headers=(("A", "1"),)), read=read)
    assert result.credentials["headers"] == {host: {"A": "1"} for host in hosts}


@pytest.mark.parametrize(
    ("uri", "environ"),
    [
        (S3, {}),
        ("model-registry://registry.example:1/iris", {}),
        ("models:/iris/3", {}),
        ("hdfs://models/m", {}),
        ("webhdfs:///m", {}),
        (GS, {"STORAGE_EMULATOR_HOST": "in-the-clear:4443"}),
        (BLOB, {"AZURE_SERVICE_URL": "http://in-the-clear:10000"}),
    ],
)
def test_headers_of_the_command_line_go_to_no_guess(uri: str, environ: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="URI with a host") as caught:
        gather(environ, uri, Overrides(headers=(("A", "1"),)), read=read)
    assert caught.value.field == "--header"


def test_secrets_are_in_no_repr() -> None:
    environ = {**KEYS, "AWS_SECRET_ACCESS_KEY": "very-secret"}
    assert "very-secret" not in repr(gather(environ, S3))
    assert "very-secret" not in repr(Overrides(headers=(("A", "very-secret"),)))
