"""Parsing of ``s3://`` URIs and of what surrounds them. Pure.

``s3://bucket[/prefix]`` with the options of model registries in the query
(``?endpoint=…&defaultRegion=…``) and ``?versionId=…``. A slash at the end means nothing: ``s3://b/m``
and ``s3://b/m/`` are one model. The canonical URI has no such slash, no endpoint and no region, but
keeps the version, which is part of what is meant. The origin names whatever decides which bucket
of that name is meant: the endpoint; at AWS's own the partition, which follows from the region; and
elsewhere whether the bucket is named in the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlsplit

from cachd.errors import UriInvalid
from cachd.sources import endpoints
from cachd.sources.base import Location
from cachd.sources.s3_partition import AWS, find_partition, partition_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings import S3Settings

AWS_ENDPOINT = "https://s3.amazonaws.com"
_AWS_HOST = re.compile(
    r"^(?:s3|s3[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)|s3-accelerate)"
    r"(?:\.dualstack)?\.amazonaws\.com(?:\.cn)?$"
)
# What AWS allowed before 2018 in us-east-1 still exists: capitals, underscores, up to 255.
_BUCKET = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$")
_DNS_BUCKET = re.compile(r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")
_OPTIONS = ("endpoint", "defaultRegion", "versionId")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Address:
    """What an ``s3://`` URI names. ``prefix`` has no slash at either end; "" is the bucket."""

    bucket: str
    prefix: str
    version_id: str | None = None

    @property
    def uri(self) -> str:
        text = f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"
        return f"{text}?versionId={quote(self.version_id)}" if self.version_id else text


def parse_s3(uri: str) -> tuple[S3Address, dict[str, str]]:
    """The address, and the query's options. Raises UriInvalid."""
    rest = uri.partition("://")[2]
    path, mark, query = rest.partition("?")
    given = _parse_query(query) if mark else {}
    bucket, _, key = path.partition("/")
    if not bucket:
        raise UriInvalid(
            "the URI has no bucket", field="uri", hint="it looks like s3://bucket/path/to/model"
        )
    if "@" in bucket:
        raise UriInvalid(
            "an s3:// URI can't carry user information",
            field="uri",
            hint="send the keys as credentials of the request",
        )
    if not _BUCKET.match(bucket) or ".." in bucket:
        raise UriInvalid(f"{bucket!r} is no name of a bucket", field="uri")
    prefix = key.strip("/")
    if any(part in {".", ".."} for part in prefix.split("/")):
        raise UriInvalid("the URI's path has a part '.' or '..'", field="uri")
    version = given.pop("versionId", None)
    if version is not None and not prefix:
        raise UriInvalid("versionId needs the key of one object", field="uri")
    return S3Address(bucket=bucket, prefix=prefix, version_id=version), given


def _parse_query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise UriInvalid("the URI's query is not name=value&…", field="uri") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _OPTIONS:
            raise UriInvalid(
                f"the URI's query has an unknown option {name!r}",
                field="uri",
                hint=f"known are {', '.join(_OPTIONS)}",
            )
        if name in given:
            raise UriInvalid(f"the URI's query has {name} twice", field="uri")
        if not value:
            raise UriInvalid(f"the URI's {name} is empty", field="uri")
        given[name] = value
    return given


def normalise_endpoint(endpoint: str, field: str = "options.endpoint") -> str:
    """``scheme://host[:port][/path]``. Raises UriInvalid.

    ``https://`` is assumed where no scheme is given, as KServe does for ``S3_ENDPOINT``.
    """
    return endpoints.normalise_endpoint(
        endpoint, field, what="the S3 endpoint", example="https://minio.example:9000"
    )


def default_endpoint(settings: S3Settings, environ: Mapping[str, str]) -> str:
    """What the daemon uses if nobody says otherwise."""
    if settings.endpoint:
        return normalise_endpoint(settings.endpoint, "sources.s3.endpoint")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if environ.get(name):
            return normalise_endpoint(environ[name], name)
    return AWS_ENDPOINT


def locate_s3(
    uri: str, options: SourceOptions, settings: S3Settings, environ: Mapping[str, str]
) -> Location:
    """The endpoint is the query's, else the request's, else the daemon's.

    Raises UriInvalid, also for a region that AWS can't have, where AWS is asked.
    """
    address, given = parse_s3(uri)
    default = default_endpoint(settings, environ)
    if "endpoint" in given:
        endpoint = normalise_endpoint(given["endpoint"], "uri")
    elif options.endpoint:
        endpoint = normalise_endpoint(options.endpoint)
    else:
        endpoint = default
    if "defaultRegion" in given:
        region, field = given["defaultRegion"], "uri"
    else:
        region, field = options.region or "", "options.region"
    own_region, own_field = _own_region(settings, environ)
    asked = _origin(
        endpoint,
        partition_of(region or own_region, field if region else own_field)
        if endpoint == AWS_ENDPOINT and (region or own_region)
        else AWS,
        options.addressing or settings.addressing,
    )
    own = _origin(default, find_partition(own_region) or AWS, settings.addressing)
    if options.accelerate and not _may_accelerate(asked):
        raise UriInvalid(
            "transfer acceleration is there in AWS's commercial regions alone",
            field="options.accelerate",
        )
    return Location(
        scheme="s3",
        uri=address.uri,
        origin=asked,
        is_default_origin=asked == own,
        options=replace(options, endpoint=endpoint, region=region or None),
    )


def _own_region(settings: S3Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """The daemon's region as far as it is known without reading files, and who says so."""
    if settings.region:
        return settings.region, "sources.s3.region"
    return environ.get("AWS_DEFAULT_REGION", ""), "AWS_DEFAULT_REGION"


def _origin(endpoint: str, partition: str, addressing: str) -> str:
    """Two origins are equal only if a bucket's name means one and the same bucket at both."""
    if endpoint == AWS_ENDPOINT:
        return f"s3+{endpoint}" if partition == AWS else f"s3+{endpoint}#{partition}"
    if addressing == "virtual" and aws_region(endpoint) is None:
        # Another host answers for the bucket, which somebody else may run.
        return f"s3+virtual+{endpoint}"
    return f"s3+{endpoint}"


def _may_accelerate(origin: str) -> bool:
    """Whether ``s3-accelerate.amazonaws.com`` has the origin's buckets. (Stores that aren't AWS's
    are refused when they are called.)"""
    endpoint = endpoint_of_origin(origin)
    region = aws_region(endpoint)
    if region is None:
        return True
    host = urlsplit(endpoint).hostname or ""
    return (
        partition_of_origin(origin) == AWS
        and not host.endswith(".cn")
        and (not region or find_partition(region) == AWS)
    )


def endpoint_of_origin(origin: str) -> str:
    """The endpoint's URL that an S3 origin names."""
    return endpoints.endpoint_of(origin)


def partition_of_origin(origin: str) -> str:
    """The partition that an origin at ``AWS_ENDPOINT`` names."""
    return origin.partition("#")[2] or AWS


def aws_region(endpoint: str) -> str | None:
    """The region in the name of an AWS endpoint, "" for one without, None if it isn't AWS's."""
    match = _AWS_HOST.match(urlsplit(endpoint).hostname or "")
    return None if match is None else match["region"] or ""


def is_virtual(addressing: str, endpoint: str, bucket: str) -> bool:
    """Whether the bucket goes into the host name.

    ``auto``: at AWS, if the name is one DNS label (a dot breaks the TLS wildcard); elsewhere never.
    """
    if addressing == "virtual":
        return True
    return (
        addressing == "auto"
        and aws_region(endpoint) is not None
        and bool(_DNS_BUCKET.match(bucket))
    )


def object_url(
    endpoint: str, bucket: str, key: str, *, virtual: bool, version_id: str | None = None
) -> str:
    """The URL of an object, percent-encoded as SigV4 for S3 wants its canonical path.

    Source: "Create a canonical request" in the Amazon S3 API reference (UriEncode, no double
    encoding).
    """
    scheme, _, host = endpoint.partition("://")
    path = quote(key, safe="/-_.~")
    base = f"{scheme}://{bucket}.{host}" if virtual else f"{endpoint}/{quote(bucket)}"
    query = f"?versionId={quote(version_id, safe='-_.~')}" if version_id else ""
    return f"{base}/{path}{query}"
