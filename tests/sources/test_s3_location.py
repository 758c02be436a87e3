from __future__ import annotations

from typing import Any

import pytest

from cachd.credentials import SourceOptions
from cachd.errors import UriInvalid
from cachd.settings import S3Settings
from cachd.sources.s3_location import endpoint_of_origin, is_virtual, locate_s3, object_url

AWS = "s3+https://s3.amazonaws.com"


def locate(uri: str, environ: dict[str, str] | None = None, s3: Any = None, **options: Any) -> Any:
    return locate_s3(uri, SourceOptions(**options), S3Settings(**(s3 or {})), environ or {})


@pytest.mark.parametrize(
    ("uri", "canonical"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/m", "s3://bucket/m"),
        ("s3://bucket/m/", "s3://bucket/m"),
        ("s3://bucket//m//x/", "s3://bucket/m//x"),
        ("s3://bucket/a%20b c#d", "s3://bucket/a%20b c#d"),
        ("s3://bucket/m?endpoint=https://e&defaultRegion=eu-west-1", "s3://bucket/m"),
        ("s3://bucket/m/k?versionId=a/b", "s3://bucket/m/k?versionId=a/b"),
    ],
)
def test_canonical_uris(uri: str, canonical: str) -> None:
    found = locate(uri)
    assert found.uri == canonical
    again = locate(found.uri)
    assert again.uri == canonical


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("s3://", "bucket"),
        ("s3:///key", "bucket"),
        ("s3://a", "bucket"),
        ("s3://-x-/k", "bucket"),
        ("s3://a..b/k", "bucket"),
        ("s3://buck et/k", "bucket"),
        ("s3://arn:aws:s3:::x/k", "bucket"),
        ("s3://key:secret@bucket/k", "user information"),
        ("s3://bucket/a/../b", "'..'"),
        ("s3://bucket/./b", "'.'"),
        ("s3://bucket/m?foo=bar", "'foo'"),
        ("s3://bucket/m?endpoint", "query"),
        ("s3://bucket/m?endpoint=", "endpoint"),
        ("s3://bucket/m?endpoint=ftp://x", "endpoint"),
        ("s3://bucket/m?endpoint=http://", "endpoint"),
        ("s3://bucket/m?endpoint=http://h:99999", "endpoint"),
        ("s3://bucket/m?endpoint=http://u:p@h", "user information"),
        ("s3://bucket/m?endpoint=http://h/?x=y", "query"),
        ("s3://bucket/m?endpoint=http://a&endpoint=http://b", "twice"),
        ("s3://bucket?versionId=1", "versionId"),
    ],
)
def test_faults_name_the_part(uri: str, part: str) -> None:
    with pytest.raises(UriInvalid) as caught:
        locate(uri)
    assert part in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("HTTP://Minio.Example:80/", "s3+http://minio.example"),
        ("https://minio.example:443", "s3+https://minio.example"),
        ("https://minio.example:9000", "s3+https://minio.example:9000"),
        ("minio.example:9000", "s3+https://minio.example:9000"),
        ("http://[::1]:9000", "s3+http://[::1]:9000"),
        ("http://h/storage/s3/", "s3+http://h/storage/s3"),
    ],
)
def test_origins_are_normalised(endpoint: str, origin: str) -> None:
    found = locate("s3://bucket/m", endpoint=endpoint)
    assert found.origin == origin
    assert not found.is_default_origin


def test_who_says_the_endpoint() -> None:
    environ = {"AWS_ENDPOINT_URL": "http://env"}
    both = {**environ, "AWS_ENDPOINT_URL_S3": "http://env3"}
    s3 = {"endpoint": "http://set"}
    uri, query = "s3://bucket/m", "s3://bucket/m?endpoint=http://query"
    assert locate(uri).origin == AWS
    assert locate(uri, environ).origin == "s3+http://env"
    assert locate(uri, both).origin == "s3+http://env3"
    assert locate(uri, both, s3).origin == "s3+http://set"
    assert locate(uri, both, s3, endpoint="http://ask").origin == "s3+http://ask"
    assert locate(query, both, s3, endpoint="http://ask").origin == "s3+http://query"
    for given in (locate(uri), locate(uri, both), locate(uri, both, s3)):
        assert given.is_default_origin
    assert locate(uri, both, endpoint="http://env3/").is_default_origin
    assert not locate(query, both, s3).is_default_origin


def test_region_of_the_query_wins() -> None:
    found = locate("s3://bucket/m?defaultRegion=eu-west-1", region="us-west-2")
    assert found.options.region == "eu-west-1"
    assert found.is_default_origin


@pytest.mark.parametrize(
    ("addressing", "endpoint", "bucket", "virtual"),
    [
        ("auto", "https://s3.amazonaws.com", "bucket", True),
        ("auto", "https://s3.eu-west-1.amazonaws.com", "bucket", True),
        ("auto", "https://s3.amazonaws.com", "dotted.bucket", False),
        ("auto", "https://s3.amazonaws.com", "Old_Bucket", False),
        ("auto", "https://minio.example", "bucket", False),
        ("auto", "https://s3.amazonaws.com.evil.example", "bucket", False),
        ("virtual", "https://minio.example", "bucket", True),
        ("path", "https://s3.amazonaws.com", "bucket", False),
    ],
)
def test_addressing(addressing: str, endpoint: str, bucket: str, virtual: bool) -> None:
    assert is_virtual(addressing, endpoint, bucket) is virtual


def test_object_urls() -> None:
    url = object_url("http://h:1/base", "bkt", "a b/ü+%20?#&=~(x)", virtual=False, version_id="v/1")
    assert url == ("http://h:1/base/bkt/a%20b/%C3%BC%2B%2520%3F%23%26%3D~%28x%29?versionId=v%2F1")
    assert object_url("https://h", "bkt", "k", virtual=True) == "https://bkt.h/k"


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-iso-east-1", "aws-iso"),
        ("us-isob-east-1", "aws-iso-b"),
        ("us-isof-south-1", "aws-iso-f"),
        ("eu-isoe-west-1", "aws-iso-e"),
        ("eusc-de-east-1", "aws-eusc"),
    ],
)
def test_a_partition_is_an_origin_of_its_own(region: str, partition: str) -> None:
    uri = "s3://models/llama"
    by_query = locate(f"{uri}?defaultRegion={region}")
    by_option = locate(uri, region=region)
    for found in (by_query, by_option):
        assert found.origin == f"{AWS}#{partition}"
        assert found.uri == uri
        assert not found.is_default_origin
        assert endpoint_of_origin(found.origin) == "https://s3.amazonaws.com"
    assert locate(uri, region="eu-west-1").origin == AWS
    # Where the daemon itself is at home there, it is what the daemon would use.
    for home in (locate(uri, s3={"region": region}), locate(uri, {"AWS_DEFAULT_REGION": region})):
        assert home.origin == f"{AWS}#{partition}"
        assert home.is_default_origin
    away = locate(uri, s3={"region": region}, region="us-east-1")
    assert (away.origin, away.is_default_origin) == (AWS, False)
    # Away from AWS a region is a word of the store's own.
    assert locate(uri, endpoint="http://h", region=region).origin == "s3+http://h"


@pytest.mark.parametrize(
    "region", ["garage", "us-east-1.evil.example", "CN-north-1", "us-east", "x"]
)
def test_regions_that_aws_cannot_have(region: str) -> None:
    for given, field in (
        ({"region": region}, "options.region"),
        ({"s3": {"region": region}}, "sources.s3.region"),
    ):
        with pytest.raises(UriInvalid, match="region") as caught:
            locate("s3://models/llama", **given)
        assert caught.value.field == field
    with pytest.raises(UriInvalid) as caught:
        locate(f"s3://models/llama?defaultRegion={region}")
    assert caught.value.field == "uri"
    assert locate("s3://models/llama", endpoint="http://garage", region=region)


def test_buckets_in_host_names_are_another_origin() -> None:
    uri, minio = "s3://models/llama", "https://minio.example"
    s3 = {"endpoint": minio}
    assert locate(uri, s3=s3).origin == f"s3+{minio}"
    virtual = locate(uri, s3=s3, addressing="virtual")
    assert (virtual.origin, virtual.is_default_origin) == (f"s3+virtual+{minio}", False)
    assert endpoint_of_origin(virtual.origin) == minio
    home = locate(uri, s3={**s3, "addressing": "virtual"})
    assert home.is_default_origin
    assert not locate(uri, s3={**s3, "addressing": "virtual"}, addressing="path").is_default_origin
    # At AWS both forms name one bucket.
    assert locate(uri, addressing="virtual").origin == AWS


def test_acceleration_has_the_commercial_buckets_alone() -> None:
    assert locate("s3://models/m", accelerate=True).origin == AWS
    for given in (
        {"region": "us-gov-west-1"},
        {"endpoint": "https://s3.cn-north-1.amazonaws.com.cn"},
        {"endpoint": "https://s3.us-gov-west-1.amazonaws.com"},
    ):
        with pytest.raises(UriInvalid) as caught:
            locate("s3://models/m", accelerate=True, **given)
        assert caught.value.field == "options.accelerate"
