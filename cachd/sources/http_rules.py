"""The rules of ``http(s)://`` URIs: file names, archives, Content-Types. Pure.

They are KServe's (python/storage/kserve_storage/kserve_storage.py, ``_download_from_uri``), but for
these: a plain file may also be ``binary/octet-stream`` (what S3 says of objects without a type); an
archive may also be octets, or have the type of its compression; ``.tar.zst`` is an archive; a
``.gz`` that is no tar stays as it is, where KServe unpacks it under another name; a file name stays
percent-encoded, as it does there.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from cachd.errors import ContentTypeInvalid, UriInvalid
from cachd.model import Digest
from cachd.sources.archives import ArchiveKind, archive_kind

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_OCTETS = ("application/octet-stream", "binary/octet-stream")
_ZIP_TYPES = ("application/zip", "application/x-zip-compressed", "application/zip-compressed")
_TAR_TYPES = ("application/x-tar", "application/x-gtar", "application/x-gzip", "application/gzip")
_COMPRESSED_TYPES = (
    "application/tar",
    "application/x-tgz",
    "application/x-compressed-tar",
    "application/x-bzip2",
    "application/x-bzip",
    "application/x-xz",
    "application/zstd",
    "application/x-zstd",
)
_SHA256_FIELD = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")
_TOKENS = frozenset({"token", "access_token", "auth_token", "api_key", "apikey", "signature"})
_SIGNATURES: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    # S3, signature version 2.
    (
        frozenset({"awsaccesskeyid", "signature"}),
        frozenset({"awsaccesskeyid", "signature", "expires"}),
    ),
    # Google Cloud Storage, signature version 2.
    (
        frozenset({"googleaccessid", "signature"}),
        frozenset({"googleaccessid", "signature", "expires"}),
    ),
    # CloudFront.
    (
        frozenset({"key-pair-id", "signature"}),
        frozenset({"key-pair-id", "signature", "expires", "policy"}),
    ),
    # Azure's shared access signature.
    (
        frozenset({"sig", "sv"}),
        frozenset(
            {"sig", "sv", "se", "st", "sp", "sr", "spr", "sip", "si", "ss", "srt", "skoid", "sktid"}
            | {"rscc", "rscd", "rsce", "rscl", "rsct", "sduoid", "skdutid"}
            | {"skt", "ske", "sks", "skv", "saoid", "suoid", "scid", "ses", "sdd"}
        ),
    ),
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TYPES = mimetypes.MimeTypes()


def split_url(url: str) -> SplitResult:
    """The parts of an absolute http(s) URL. Raises UriInvalid saying what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UriInvalid("the URL has no valid host or port", field="uri") from None
    if parts.scheme.lower() not in _DEFAULT_PORTS or not parts.hostname:
        raise UriInvalid("the URL has no host, or is not http(s)", field="uri")
    if port == 0 or re.search(r"[\s\\%<>\"]", parts.netloc) or re.search(r"\s", url):
        raise UriInvalid("the URL's host or port is not valid", field="uri")
    if "@" in parts.netloc:
        raise UriInvalid(
            "the URL can't carry user information",
            field="uri",
            hint="send it as a header of the request: Authorization, for that host",
        )
    return parts


def canonical_url(url: str) -> str:
    """Host in lower case, no default port, no fragment; path and query as they are."""
    parts = split_url(url)
    return urlunsplit((parts.scheme.lower(), authority(parts), parts.path, parts.query, ""))


def authority(parts: SplitResult) -> str:
    """``host[:port]`` in lower case, without the scheme's default port."""
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    if parts.port is None or parts.port == _DEFAULT_PORTS[parts.scheme.lower()]:
        return shown
    return f"{shown}:{parts.port}"


def origin_of(url: str) -> str:
    parts = split_url(url)
    return f"{parts.scheme.lower()}://{authority(parts)}"


def split_secret(url: str) -> tuple[str, str]:
    """The URL without what proves something, and that part of its query.

    Known are the presigned URLs of S3, Google Cloud Storage, CloudFront and Azure (SAS), and plain
    tokens; their parameters' names are in those services' documentation.
    """
    parts = urlsplit(url)
    pairs = parts.query.split("&") if parts.query else []
    names = {pair.partition("=")[0].lower() for pair in pairs}
    secret_names = set(_TOKENS)
    for marks, family in _SIGNATURES:
        if marks <= names:
            secret_names |= family
    secret = [p for p in pairs if _is_secret(p.partition("=")[0].lower(), secret_names)]
    plain = [p for p in pairs if p not in secret]
    return urlunsplit(parts._replace(query="&".join(plain))), "&".join(secret)


def join_secret(url: str, secret: str) -> str:
    """The URL with what ``split_secret`` took from it."""
    if not secret:
        return url
    return f"{url}{'&' if '?' in url else '?'}{secret}"


def _is_secret(name: str, secret_names: set[str]) -> bool:
    return name in secret_names or name.startswith(("x-amz-", "x-goog-"))


def shown(url: str) -> str:
    """``url`` for messages: without its query, which may hold a signature."""
    return url.partition("?")[0].partition("#")[0]


def file_name(url: str) -> str:
    """The base name of the path. Raises UriInvalid with KServe's words if there is none."""
    name = split_url(url).path.rsplit("/", 1)[-1]
    if name in {"", ".", ".."}:
        raise UriInvalid(
            f"No filename contained in URI: {shown(url)}",
            field="uri",
            hint="an http(s) URI names one file, such as https://host/model.tar.gz",
        )
    return name


def kind_of(url: str) -> ArchiveKind:
    """By the path's name, or by the query where the path's name has no known type."""
    parts = split_url(url)
    name = parts.path.rsplit("/", 1)[-1]
    kind = archive_kind(name)
    if not kind and _TYPES.guess_type(name) == (None, None):
        kind = archive_kind(parts.query)
    return kind


def check_content_type(url: str, kind: ArchiveKind, content_type: str, *, strict: bool) -> None:
    """Raises ContentTypeInvalid. HTML is always refused: it is a login page or an error page."""
    given = content_type.strip().lower()
    if given.startswith(("text/html", "application/xhtml")):
        raise ContentTypeInvalid(
            f"{shown(url)} answers with a web page (Content-Type {_clip(given)}), not a model",
            hint="is this a login page, or the page that describes the file?",
        )
    if not strict:
        return
    expected = {
        "zip": _ZIP_TYPES + _OCTETS,
        "tar": _TAR_TYPES + _COMPRESSED_TYPES + _OCTETS,
        "": _OCTETS,
    }[kind]
    if not given.startswith(expected):
        raise ContentTypeInvalid(
            f"{shown(url)} did not respond with Content-Type "
            f"{' or '.join(expected[:2])} but with {_clip(given) or 'none'}",
            hint="correct the server's types, or set sources.http.check_content_type to false",
        )


def _clip(text: str) -> str:
    return repr(text[:80]) if text else ""


def parse_retry_after(text: str | None) -> float | None:
    """Seconds, where the header is a number; a date would need a clock that is right."""
    text = (text or "").strip()
    return min(float(text), 86400.0) if text.isascii() and text.isdigit() else None


def sha256_of(repr_digest: str | None) -> Digest | None:
    """What a Repr-Digest (RFC 9530) says of the whole file, the last value for an algorithm."""
    found = _SHA256_FIELD.findall(repr_digest or "")
    return Digest(algorithm="sha256", value=base64.b64decode(found[-1]).hex()) if found else None
