"""Parsing of ``gs://`` URIs and of what surrounds them. Pure.

``gs://bucket[/path]``, with ``?generation=`` of one object. A slash at the end means nothing. No
endpoint may be in the query: the URI would decide who gets a caller's token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

from cachd.errors import UriInvalid
from cachd.sources import endpoints
from cachd.sources.base import Location

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings.google import GoogleSettings

GOOGLE_ENDPOINT = "https://storage.googleapis.com"
# "Bucket names" in Cloud Storage's documentation; names with dots may have 222 characters.
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$")
_EXAMPLE = "it looks like gs://bucket/path/to/model"
_PINNED = "one state of an object looks like gs://bucket/model.tar.gz?generation=1700000000000000"
_GENERATION = re.compile(r"^[0-9]{1,19}$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleAddress:
    """What a ``gs://`` URI names. ``prefix`` has no slash at either end; "" is the bucket."""

    bucket: str
    prefix: str
    generation: str | None = None

    @property
    def uri(self) -> str:
        text = f"gs://{self.bucket}/{self.prefix}" if self.prefix else f"gs://{self.bucket}"
        return f"{text}?generation={self.generation}" if self.generation else text


def parse_gs(uri: str) -> GoogleAddress:
    """Raises UriInvalid saying which part is wrong."""
    path, mark, query = uri.partition("://")[2].partition("?")
    generation = _parse_query(query) if mark else None
    bucket, _, name = path.partition("/")
    if not bucket:
        raise UriInvalid("the URI has no bucket", field="uri", hint=_EXAMPLE)
    if "@" in bucket:
        raise UriInvalid(
            "a gs:// URI can't carry user information",
            field="uri",
            hint="send a service account's key as credentials of the request",
        )
    if not _BUCKET.match(bucket) or ".." in bucket:
        raise UriInvalid(
            f"{bucket!r} is no name of a bucket",
            field="uri",
            hint=f"{_EXAMPLE}; a bucket's name has small letters, digits, '-', '_' and '.'",
        )
    prefix = name.strip("/")
    if any(part in {".", ".."} for part in prefix.split("/")):
        raise UriInvalid("the URI's path has a part '.' or '..'", field="uri", hint=_EXAMPLE)
    if generation and not prefix:
        raise UriInvalid("generation needs the name of one object", field="uri", hint=_PINNED)
    return GoogleAddress(bucket=bucket, prefix=prefix, generation=generation)


def _parse_query(query: str) -> str:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise UriInvalid("the URI's query is not name=value&…", field="uri", hint=_PINNED) from None
    for name, _ in pairs:
        if name != "generation":
            raise UriInvalid(
                f"the URI's query has an unknown option {name[:64]!r}",
                field="uri",
                hint="known is generation; an endpoint is named beside the URI (--endpoint)",
            )
    if len(pairs) != 1:
        raise UriInvalid("the URI's query has generation twice", field="uri", hint=_PINNED)
    if not _GENERATION.match(pairs[0][1]):
        raise UriInvalid("the URI's generation is no number", field="uri", hint=_PINNED)
    return pairs[0][1]


def default_endpoint(settings: GoogleSettings, environ: Mapping[str, str]) -> str:
    """What the daemon uses if nobody says otherwise."""
    if settings.endpoint:
        return _normalise(settings.endpoint, "sources.gs.endpoint")
    if environ.get("STORAGE_EMULATOR_HOST"):
        # Google's own clients take it without a scheme for plain HTTP.
        return _normalise(environ["STORAGE_EMULATOR_HOST"], "STORAGE_EMULATOR_HOST", "http")
    return GOOGLE_ENDPOINT


def locate_gs(
    uri: str, options: SourceOptions, settings: GoogleSettings, environ: Mapping[str, str]
) -> Location:
    """The endpoint is the request's, else the daemon's. Raises UriInvalid."""
    address = parse_gs(uri)
    default = default_endpoint(settings, environ)
    endpoint = _normalise(options.endpoint, "options.endpoint") if options.endpoint else default
    return Location(
        scheme="gs",
        uri=address.uri,
        origin=f"gs+{endpoint}",
        is_default_origin=endpoint == default,
        options=options.without_s3(endpoint),
    )


def _normalise(endpoint: str, field: str, scheme: str = "https") -> str:
    return endpoints.normalise_endpoint(
        endpoint,
        field,
        what="the endpoint for gs://",
        example=GOOGLE_ENDPOINT,
        scheme=scheme,
    )


def list_url(endpoint: str, bucket: str) -> str:
    return f"{endpoint}/storage/v1/b/{quote(bucket, safe='')}/o"


def object_url(endpoint: str, bucket: str, name: str) -> str:
    """The URL of what is known of an object."""
    return f"{list_url(endpoint, bucket)}/{quote(name, safe='')}"


def media_url(endpoint: str, bucket: str, name: str, generation: str) -> str:
    """The URL of one state of an object's bytes."""
    path = f"/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
    return f"{endpoint}{path}?alt=media&generation={generation}"
