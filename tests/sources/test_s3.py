"""``s3://`` against two real servers of different make, signatures checked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    ConfigInvalid,
    CredentialsInvalid,
    CredentialsMissing,
    InvalidError,
    NotFound,
    OriginTls,
    OriginUnreachable,
    PathUnsafe,
)
from cachd.model import Auth
from tests.servers.ports import free_ports
from tests.servers.s3 import PUBLIC_BUCKET, SECRET_KEY
from tests.sources.asking import KEYS, NOBODY, context, paths, replace, request, resolve, settings

if TYPE_CHECKING:
    from tests.servers.s3 import S3Server

ODD_KEY = "odd/é ü+%20?#&=~'(x)!*,:;@$.txt"
OBJECTS = {
    "bar/models/weights.pt": b"w",
    "bar/0002.h5": b"h",
    "bar/a/very/long/path/config.json": b"{}",
    "name.pt": b"n",
    "path/to/model/name.pt": b"n",
    "test/churn-pickle": b"c",
    "test/churn-pickle-logs": b"l",
    "test/churn-pickle-report": b"r",
    "test/a/b/model.bin": b"m",
    "test/artifacts/model/model.pkl": b"1",
    "test/artifacts/model/a/model.pkl": b"2",
    "test/artifacts/model/conda.yaml": b"3",
    "m/x": b"x",
    "m/__init__.py": b"",
    "m-hf/y": b"y",
    "mix/a.bin": b"1",
    "mix/a.safetensors": b"2",
    "mix/deep/config.json": b"3",
    "zip/model.tar.gz": b"archive",
    ODD_KEY: b"odd",
}


@pytest.fixture(scope="module")
def _buckets() -> dict[str, str]:
    return {}


@pytest.fixture
def bucket(s3_server: S3Server, _buckets: dict[str, str]) -> str:
    if s3_server.name not in _buckets:
        _buckets[s3_server.name] = s3_server.make_bucket(OBJECTS)
    return _buckets[s3_server.name]


def fetch(url: str, auth: Auth, ca_pem: str | None = None) -> bytes:
    """GET of a planned URL as it stands, signed as a worker signs it."""
    asked = AWSRequest(method="GET", url=url)
    if auth.kind == "sigv4":
        keys = BotoCredentials(auth.access_key, auth.secret_key, auth.session_token or None)
        asked.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD"
        S3SigV4Auth(keys, auth.service, auth.region).add_auth(asked)
    got = urllib.request.Request(url, headers=dict(asked.headers))
    tls = ssl.create_default_context(cadata=ca_pem)
    with urllib.request.urlopen(got, timeout=10, context=tls) as answer:
        body: bytes = answer.read()
    return body


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("bar", {"models/weights.pt": 1, "0002.h5": 1, "a/very/long/path/config.json": 2}),
        ("bar/", {"models/weights.pt": 1, "0002.h5": 1, "a/very/long/path/config.json": 2}),
        ("name.pt", {"name.pt": 1}),
        ("path/to/model/name.pt", {"name.pt": 1}),
        ("test/churn-pickle", {"churn-pickle": 1}),
        ("test/a", {"b/model.bin": 1}),
        ("test/artifacts/model", {"model.pkl": 1, "a/model.pkl": 1, "conda.yaml": 1}),
        ("m", {"x": 1, "__init__.py": 0}),
        ("m/__init__.py", {"__init__.py": 0}),
        ("", {key: len(body) for key, body in OBJECTS.items()}),
    ],
)
async def test_what_a_uri_names(
    s3_server: S3Server, bucket: str, path: str, expected: dict[str, int]
) -> None:
    plan = await resolve(f"s3://{bucket}/{path}", endpoint=s3_server.endpoint)
    assert paths(plan) == expected
    assert plan.is_validated
    assert plan.is_credentialed
    assert not plan.unpack


@pytest.mark.parametrize("tls", [False, True])
async def test_planned_urls_are_signed_as_they_are(
    s3_server: S3Server, bucket: str, tls: bool
) -> None:
    endpoint = s3_server.tls_endpoint if tls else s3_server.endpoint
    plan = await resolve(f"s3://{bucket}", endpoint=endpoint, ca_pem=s3_server.ca_pem)
    for file in plan.files:
        assert fetch(file.url, plan.auth, s3_server.ca_pem) == OBJECTS[file.path]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(plan.files[0].url, replace(plan.auth, secret_key="wrong"), s3_server.ca_pem)


async def test_revision_follows_the_content_alone(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket({"m/a": b"1", "m/b": b"2"})
    other = s3_server.make_bucket({"x/y/a": b"1", "x/y/b": b"2"})
    uri = f"s3://{bucket}/m"
    first = await resolve(uri, endpoint=s3_server.endpoint)
    again = await resolve(uri, endpoint=s3_server.tls_endpoint, ca_pem=s3_server.ca_pem)
    moved = await resolve(f"s3://{other}/x/y", endpoint=s3_server.endpoint)
    assert first.revision == again.revision == moved.revision
    assert len(first.revision) == 32
    s3_server.make_bucket({"m/b": b"3"}, bucket)
    changed = await resolve(uri, endpoint=s3_server.endpoint)
    assert changed.revision != first.revision


async def test_patterns(s3_server: S3Server, bucket: str) -> None:
    uri, endpoint = f"s3://{bucket}/mix", s3_server.endpoint
    plan = await resolve(uri, endpoint=endpoint, allow=("*.safetensors", "*.json"))
    assert set(paths(plan)) == {"a.safetensors", "deep/config.json"}
    plan = await resolve(uri, endpoint=endpoint, ignore=("*.bin",))
    assert set(paths(plan)) == {"a.safetensors", "deep/config.json"}
    plan = await resolve(f"{uri}/a.bin", endpoint=endpoint, allow=("*.safetensors",))
    assert set(paths(plan)) == {"a.bin"}
    with pytest.raises(NotFound, match=r"No model found in .*patterns"):
        await resolve(uri, endpoint=endpoint, allow=("*.onnx",))


async def test_single_archives_are_unpacked(s3_server: S3Server, bucket: str) -> None:
    for path in ("zip", "zip/model.tar.gz"):
        plan = await resolve(f"s3://{bucket}/{path}", endpoint=s3_server.endpoint)
        assert (plan.unpack, list(paths(plan))) == ("tar", ["model.tar.gz"])


async def test_more_than_a_page(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket({f"m/{i:04}": b"x" for i in range(1003)})
    plan = await resolve(f"s3://{bucket}/m", endpoint=s3_server.endpoint)
    assert [f.path for f in plan.files] == [f"{i:04}" for i in range(1003)]


async def test_directory_markers_are_no_files(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket({"m/": b"", "m/sub/": b"", "m/sub/x": b"1", "void/": b""})
    plan = await resolve(f"s3://{bucket}/m", endpoint=s3_server.endpoint)
    assert paths(plan) == {"sub/x": 1}
    with pytest.raises(NotFound, match="No model found"):
        await resolve(f"s3://{bucket}/void", endpoint=s3_server.endpoint)


async def test_nothing_there(s3_server: S3Server, bucket: str) -> None:
    endpoint = s3_server.endpoint
    with pytest.raises(NotFound, match="No model found in s3://"):
        await resolve(f"s3://{bucket}/mod", endpoint=endpoint)
    with pytest.raises(NotFound, match="bucket no-such-bucket-here does not exist"):
        await resolve("s3://no-such-bucket-here/m", endpoint=endpoint)
    with pytest.raises(NotFound, match="No model found"):
        await resolve(f"s3://{s3_server.make_bucket({})}", endpoint=endpoint)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"secret_key": "very-wrong"}, CredentialsInvalid),
        ({"access_key": "nobody"}, CredentialsInvalid),
        ({"session_token": "made-up"}, CredentialsInvalid),
        ({"access_key": "", "anonymous": True}, CredentialsMissing),
        ({"access_key": ""}, CredentialsMissing),
    ],
)
@pytest.mark.parametrize("path", ["m", "name.pt", ""])
async def test_bad_credentials(
    s3_server: S3Server, bucket: str, wrong: dict[str, Any], error: type[AccessError], path: str
) -> None:
    source, asked = request(
        f"s3://{bucket}/{path}", replace(KEYS, **wrong), endpoint=s3_server.endpoint
    )
    with pytest.raises(error, match="S3 authentication") as caught:
        await source.resolve(asked, context())
    for secret in ("very-wrong", "made-up", SECRET_KEY):
        assert secret not in json.dumps(caught.value.to_wire())
        assert secret not in repr(asked)
    with pytest.raises(AccessError):
        await source.probe(asked, "x", context())


async def test_half_a_key_pair() -> None:
    with pytest.raises(InvalidError) as caught:
        await resolve("s3://bucket/m", Credentials(access_key="a"), endpoint="http://127.0.0.1:1")
    assert caught.value.field == "credentials.secret_access_key"


async def test_probe(s3_server: S3Server, bucket: str) -> None:
    endpoint = s3_server.endpoint
    for uri, file in (
        (f"s3://{bucket}/m", "x"),
        (f"s3://{bucket}/m/", "__init__.py"),
        (f"s3://{bucket}/name.pt", "name.pt"),
        (f"s3://{bucket}", "m/x"),
    ):
        source, asked = request(uri, endpoint=endpoint)
        await source.probe(asked, file, context())
        with pytest.raises(NotFound):
            await source.probe(asked, "gone", context())


async def test_anonymous(seaweed: S3Server) -> None:
    seaweed.make_bucket({"m/x": b"1"}, PUBLIC_BUCKET)
    plan = await resolve(f"s3://{PUBLIC_BUCKET}/m", NOBODY, endpoint=seaweed.endpoint)
    assert paths(plan) == {"x": 1}
    assert not plan.is_credentialed
    assert plan.auth == Auth()
    assert fetch(plan.files[0].url, plan.auth) == b"1"


async def test_versions(seaweed: S3Server) -> None:
    bucket = seaweed.make_bucket({})
    client = seaweed.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    ids = [
        client.put_object(Bucket=bucket, Key="m/k", Body=body)["VersionId"]
        for body in (b"first", b"second!")
    ]
    client.close()
    plans = [
        await resolve(f"s3://{bucket}/m/k?versionId={v}", endpoint=seaweed.endpoint) for v in ids
    ]
    assert [paths(p) for p in plans] == [{"k": 5}, {"k": 7}]
    assert [fetch(p.files[0].url, p.auth) for p in plans] == [b"first", b"second!"]
    assert all(p.is_immutable for p in plans)
    assert [p.files[0].validator.version_id for p in plans] == ids
    assert plans[0].revision != plans[1].revision
    latest = await resolve(f"s3://{bucket}/m/k", endpoint=seaweed.endpoint)
    assert (paths(latest), latest.is_immutable) == ({"k": 7}, False)
    with pytest.raises(NotFound):
        await resolve(f"s3://{bucket}/m/k?versionId={'0' * 32}", endpoint=seaweed.endpoint)


@pytest.mark.parametrize(
    "key", ["m/../../etc/passwd", "m/./x", "m//x", "m/x/../y", "m/" + "n" * 256]
)
async def test_hostile_keys(seaweed: S3Server, key: str) -> None:
    """Where the server stores such a key, the plan is refused; nothing is silently renamed."""
    bucket = seaweed.make_bucket({"m/good": b"1"})
    client = seaweed.client()
    # SeaweedFS stores some of them; test_s3_stub lists them all.
    with contextlib.suppress(client.exceptions.ClientError):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    listed = client.list_objects_v2(Bucket=bucket, Prefix="m/")["Contents"]
    client.close()
    if key in {item["Key"] for item in listed}:
        with pytest.raises(PathUnsafe):
            await resolve(f"s3://{bucket}/m", endpoint=seaweed.endpoint)
    else:
        plan = await resolve(f"s3://{bucket}/m", endpoint=seaweed.endpoint)
        assert {f"m/{f.path}" for f in plan.files} <= {item["Key"] for item in listed}


async def test_a_refused_certificate_is_not_tried_again(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.retries import standard

    def never(*_: object) -> bool:
        raise AssertionError("it was tried again")

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", never)
    with pytest.raises(OriginTls, match="certificate not accepted") as caught:
        await resolve(f"s3://{bucket}/m", endpoint=s3_server.tls_endpoint)
    assert s3_server.tls_endpoint in caught.value.message


async def test_tls(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    uri, endpoint = f"s3://{bucket}/m", s3_server.tls_endpoint
    with pytest.raises(OriginTls, match="certificate"):
        await resolve(uri, endpoint=endpoint)
    assert (await resolve(uri, endpoint=endpoint, verify=False)).connect.verify is False
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(s3_server.ca_pem)
    given = settings(s3={"ca_bundle": str(bundle)})
    plan = await resolve(uri, endpoint=endpoint, given=given)
    assert plan.connect.ca_pem == s3_server.ca_pem
    with pytest.raises(ConfigInvalid, match="no-such"):
        await resolve(uri, endpoint=endpoint, given=settings(s3={"ca_bundle": "/no-such"}))
    with pytest.raises(InvalidError) as caught:
        await resolve(uri, endpoint=endpoint, ca_pem="nonsense")
    assert caught.value.field == "options.ca_pem"


async def test_aws_ca_bundle_of_the_environment(
    seaweed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = seaweed.make_bucket({"m/x": b"1"})
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(seaweed.ca_pem)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    assert await resolve(f"s3://{bucket}/m", endpoint=seaweed.tls_endpoint)


async def test_nobody_listens() -> None:
    (port,) = free_ports(1)
    with pytest.raises(OriginUnreachable, match=r"Connection refused|Connect call failed"):
        await resolve("s3://bucket/m", endpoint=f"http://127.0.0.1:{port}", max_attempts=1)
    with pytest.raises(OriginUnreachable):
        await resolve("s3://bucket/m", endpoint="http://no-such-host.invalid", max_attempts=1)


async def test_nothing_is_written_to_disk(seaweed: S3Server, tmp_path: Path) -> None:
    bucket = seaweed.make_bucket({"m/x": b"1"})
    home = Path(os.environ["HOME"])
    await resolve(f"s3://{bucket}/m", endpoint=seaweed.tls_endpoint, ca_pem=seaweed.ca_pem)
    assert list(home.iterdir()) == []


async def test_checksum_of_an_exact_object(seaweed: S3Server) -> None:
    import hashlib

    bucket = seaweed.make_bucket({})
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key="k", Body=io.BytesIO(b"body"), ChecksumAlgorithm="SHA256")
    client.close()
    plan = await resolve(f"s3://{bucket}/k", endpoint=seaweed.endpoint)
    digest = plan.files[0].digest
    if digest is not None:
        assert (digest.algorithm, digest.value) == ("sha256", hashlib.sha256(b"body").hexdigest())
