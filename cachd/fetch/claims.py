"""What an answer's headers claim of the bytes of a whole file. Pure.

Only what describes the whole representation counts: a checksum of a range says nothing of the file.
What can't be read is no claim. S3's checksum headers and ETags: S3 User Guide, "Checking object
integrity", and API Reference, "Object"; Repr-Digest and Content-Digest: RFC 9530; Digest: RFC 3230;
Content-MD5: RFC 1864; x-goog-hash: Cloud Storage, "HTTP headers"; x-ms-blob-content-md5: Azure,
"Get Blob".
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd.errors import DigestMismatch
from cachd.model import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.fetch.head import Head

_MD5 = re.compile(r'^"?([0-9a-fA-F]{32})(?:-(\d{1,5}))?"?$')
_SHA256_FIELD = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")

_S3 = {
    "x-amz-checksum-crc64nvme": ("crc64nvme", 8),
    "x-amz-checksum-crc32c": ("crc32c", 4),
    "x-amz-checksum-crc32": ("crc32", 4),
    "x-amz-checksum-sha256": ("sha256", 32),
    "x-amz-checksum-sha1": ("sha1", 20),
}
_RFC3230 = {"sha-256": ("sha256", 32), "sha": ("sha1", 20), "md5": ("md5", 16)}
_GOOG = {"crc32c": ("crc32c", 4), "md5": ("md5", 16)}

_CHEAP = ("crc64nvme", "crc32c", "crc32")
_DEAR = ("sha256", "sha1", "md5")
PARTS_MOST = 10_000
"""Parts of an S3 object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """A checksum over the raw checksums of ``count`` parts; ``value`` in hex."""

    algorithm: str
    value: str
    count: int

    @property
    def digest(self) -> Digest:
        """As it is kept in manifests."""
        return Digest(algorithm=f"{self.algorithm}-multipart", value=f"{self.value}-{self.count}")


Claim = Digest | Composite


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an origin says of a file. ``digests`` are of all its bytes, ``composites`` of its parts'
    checksums. ``is_opaque``: its ETag is no MD5, whatever it looks like."""

    etag: str | None = None
    digests: tuple[Digest, ...] = ()
    composites: tuple[Composite, ...] = ()
    is_opaque: bool = False

    @property
    def has_claims(self) -> bool:
        return bool(self.digests or self.composites)

    def to_wire(self) -> dict[str, Any]:
        return {
            "etag": self.etag,
            "digests": [[d.algorithm, d.value] for d in self.digests],
            "composites": [[c.algorithm, c.value, c.count] for c in self.composites],
            "opaque": self.is_opaque,
        }

    @staticmethod
    def from_wire(data: dict[str, Any]) -> Facts:
        return Facts(
            etag=data["etag"],
            digests=tuple(Digest(algorithm=a, value=v) for a, v in data["digests"]),
            composites=tuple(
                Composite(algorithm=a, value=v, count=c) for a, v, c in data["composites"]
            ),
            is_opaque=data["opaque"],
        )


def read_facts(head: Head, *, is_whole: bool, has_body: bool = True) -> Facts:
    """``is_whole``: the answer is about the whole file. ``has_body``: it is one to GET."""
    digests: dict[str, Digest] = {}
    composites: list[Composite] = []
    if is_whole:
        for claim in _s3_claims(head):
            if isinstance(claim, Composite):
                composites.append(claim)
            else:
                digests[claim.algorithm] = claim
    for digest in _http_claims(head, is_body=is_whole and has_body and head.status == 200):
        digests.setdefault(digest.algorithm, digest)
    return Facts(
        etag=head.get("etag"),
        digests=tuple(digests.values()),
        composites=tuple(composites),
        is_opaque=_is_opaque(head),
    )


def _is_opaque(head: Head) -> bool:
    """Encrypted in a way that makes an ETag of 32 hex digits no MD5, or of a service that has its
    MD5 elsewhere (Cloud Storage, of which an ETag may look like one)."""
    encryption = (head.get("x-amz-server-side-encryption") or "").strip().lower()
    return (
        encryption not in ("", "aes256")
        or head.get("x-amz-server-side-encryption-customer-algorithm") is not None
        or (head.get("x-amz-storage-class") or "").upper() == "EXPRESS_ONEZONE"
        or head.get("x-goog-hash") is not None
    )


def _s3_claims(head: Head) -> Iterator[Claim]:
    kind = (head.get("x-amz-checksum-type") or "FULL_OBJECT").upper()
    for name, (algorithm, width) in _S3.items():
        text, dash, count = (head.get(name) or "").partition("-")
        value = _decode(text, width)
        if value is None:
            continue
        if dash and count.isascii() and count.isdigit() and 0 < int(count) <= PARTS_MOST:
            yield Composite(algorithm=algorithm, value=value, count=int(count))
        elif not dash and kind == "FULL_OBJECT":
            yield Digest(algorithm=algorithm, value=value)


def _http_claims(head: Head, *, is_body: bool) -> Iterator[Digest]:
    """``is_body``: the body is the whole file, so that what is said of it is said of the file."""
    for name in ("repr-digest", "content-digest") if is_body else ("repr-digest",):
        found = _SHA256_FIELD.findall(head.get(name) or "")
        yield from _one("sha256", found[-1] if found else None, 32)
    yield from _listed(head.get("digest"), _RFC3230)
    stored = (head.get("x-goog-stored-content-encoding") or "identity").strip().lower()
    if stored == "identity":
        yield from _listed(head.get("x-goog-hash"), _GOOG)
    yield from _one("md5", head.get("x-ms-blob-content-md5"), 16)
    if is_body:
        yield from _one("md5", head.get("content-md5"), 16)


def _listed(text: str | None, known: dict[str, tuple[str, int]]) -> Iterator[Digest]:
    for item in (text or "").split(","):
        name, _, value = item.strip().partition("=")
        if name.lower() in known:
            algorithm, width = known[name.lower()]
            yield from _one(algorithm, value, width)


def _one(algorithm: str, text: str | None, width: int) -> Iterator[Digest]:
    value = _decode(text, width)
    if value is not None:
        yield Digest(algorithm=algorithm, value=value)


def _decode(text: str | None, width: int) -> str | None:
    if not text:
        return None
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        return None
    return raw.hex() if len(raw) == width else None


def claim_to_check(
    planned: Digest | None, facts: Facts | None, *, takes_etags: bool
) -> Claim | None:
    """The one claim that a file's bytes are checked against.

    A sha256 in the plan always is, for it may be shared by, and git's name of a blob, for what else
    is said of a hub's file is said by whom the hub sends one on to. Else the cheapest there is:
    crc64nvme costs nothing (the blocks add up to it), md5 costs most. An ETag is an MD5 only of a
    plain S3 object; one that ends in ``-N`` is the MD5 of its parts' MD5s. ``takes_etags``: the
    origin is one whose ETags may be that.
    """
    if planned is not None and planned.algorithm in ("sha256", "git-sha1"):
        return planned
    found = {d.algorithm: d for d in (facts.digests if facts else ())}
    composites = {c.algorithm: c for c in (facts.composites if facts else ())}
    if planned is not None:
        found.setdefault(planned.algorithm, planned)
    for claims in (
        [found.get(name) for name in _CHEAP],
        [composites.get(name) for name in _CHEAP],
        [found.get(name) for name in _DEAR],
        [composites.get(name) for name in _DEAR],
        list(found.values()),
    ):
        for claim in claims:
            if claim is not None:
                return claim
    if facts is None or facts.is_opaque or not takes_etags:
        return None
    match = _MD5.match(facts.etag or "")
    if match is None:
        return None
    value, count = match[1].lower(), match[2]
    if count is None:
        return Digest(algorithm="md5", value=value)
    if not 0 < int(count) <= PARTS_MOST:
        return None
    return Composite(algorithm="md5", value=value, count=int(count))


def equal_parts(size: int, first: int, count: int) -> tuple[int, ...] | None:
    """The sizes of ``count`` parts as uploaders make them: all like the first but the last. None if
    they can't be that."""
    if first <= 0 or -(-size // first) != count:
        return None
    return (first,) * (count - 1) + (size - first * (count - 1),)


def mismatch(path: str, digest: Digest, value: str) -> DigestMismatch:
    """The error for bytes that are not what the origin claims."""
    return DigestMismatch(
        f"{path} has the {digest.algorithm} {value}, its source says {digest.value}",
        hint="the copy at the source, or the way from there, is damaged",
        path=path,
        expected=str(digest),
        seen=f"{digest.algorithm}:{value}",
    )
