"""Whether an answer is the range that was planned, and what else it says of the file. Pure.

If-Match is necessary and not enough: weak ETags never match (RFC 9110 section 13.1.1), and some
servers ignore it. So every answer is checked for itself.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cachd.errors import DigestMismatch, OriginChanged, OriginError, RangeIgnored
from cachd.model import Digest, Validator

if TYPE_CHECKING:
    from cachd.fetch.head import Head

_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")
_MD5 = re.compile(r'^"([0-9a-fA-F]{32})"$')

_CHECKSUMS: dict[str, tuple[Literal["sha256", "sha1", "crc32", "crc32c", "crc64nvme"], int]] = {
    "x-amz-checksum-crc64nvme": ("crc64nvme", 8),
    "x-amz-checksum-crc32c": ("crc32c", 4),
    "x-amz-checksum-crc32": ("crc32", 4),
    "x-amz-checksum-sha256": ("sha256", 32),
    "x-amz-checksum-sha1": ("sha1", 20),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One request: a file and a range of it, in bytes.

    ``length`` None: to the end. ``is_whole``: a GET without Range; ``size`` None: not known.
    """

    path: str
    url: str
    size: int | None
    validator: Validator
    offset: int
    length: int | None
    is_whole: bool
    is_s3: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an origin says of a file: ``digests`` of the whole of it, FULL_OBJECT ones only.

    ``is_opaque``: encrypted in a way that makes an ETag of 32 hex digits no MD5.
    """

    etag: str | None = None
    digests: tuple[Digest, ...] = ()
    is_opaque: bool = False

    def to_wire(self) -> dict[str, Any]:
        return {
            "etag": self.etag,
            "digests": [[d.algorithm, d.value] for d in self.digests],
            "opaque": self.is_opaque,
        }

    @staticmethod
    def from_wire(data: dict[str, Any]) -> Facts:
        return Facts(
            etag=data["etag"],
            digests=tuple(Digest(algorithm=a, value=v) for a, v in data["digests"]),
            is_opaque=data["opaque"],
        )


def request_headers(wanted: Wanted) -> list[tuple[str, str]]:
    """Range and preconditions. A version id is in the URL already."""
    headers = [("accept-encoding", "identity")]
    if not wanted.is_whole:
        assert wanted.length is not None
        headers.append(("range", f"bytes={wanted.offset}-{wanted.offset + wanted.length - 1}"))
    if wanted.validator.strong_etag:
        headers.append(("if-match", wanted.validator.strong_etag))
    elif wanted.validator.last_modified and not wanted.validator.version_id:
        headers.append(("if-unmodified-since", wanted.validator.last_modified))
    if wanted.is_s3:
        headers.append(("x-amz-checksum-mode", "ENABLED"))
    return headers


def check_answer(wanted: Wanted, head: Head) -> int | None:
    """The bytes that the body must have, None if nobody knows. ``head`` has status 200 or 206.

    Raises OriginChanged, RangeIgnored, OriginError (an answer that contradicts itself).
    """
    _check_validators(wanted, head)
    encoding = (head.get("content-encoding") or "identity").strip().lower()
    # In S3 the header is a note on the object, and the stored bytes are what was listed.
    if encoding != "identity" and not (wanted.is_s3 and wanted.validator.strong_etag):
        raise OriginError(
            f"the origin sends {wanted.path} with the encoding {encoding[:40]!r}, unasked",
            hint="turn compression off for this file at the origin",
            final=True,
        )
    if head.status == 200:
        return _check_whole(wanted, head)
    return _check_range(wanted, head)


def _check_whole(wanted: Wanted, head: Head) -> int | None:
    if not wanted.is_whole and not (wanted.offset == 0 and wanted.length == wanted.size):
        raise RangeIgnored(f"the origin ignores the range asked of {wanted.path}")
    if head.length is not None and wanted.size is not None and head.length != wanted.size:
        raise OriginChanged(
            f"{wanted.path} has {head.length} bytes at its source, not {wanted.size} as planned",
            size=head.length,
            planned=wanted.size,
        )
    return wanted.size if wanted.size is not None else head.length


def _check_range(wanted: Wanted, head: Head) -> int:
    match = _RANGE.match((head.get("content-range") or "").strip())
    if wanted.is_whole or wanted.length is None or match is None:
        raise OriginError(f"the origin answers 206 to {wanted.path} without a range that fits")
    start, end, total = int(match[1]), int(match[2]), match[3]
    if total != "*" and wanted.size is not None and int(total) != wanted.size:
        raise OriginChanged(
            f"{wanted.path} has {total} bytes at its source, not {wanted.size} as planned",
            size=int(total),
            planned=wanted.size,
        )
    if start != wanted.offset or end != wanted.offset + wanted.length - 1 or total == "*":
        raise OriginError(
            f"the origin sends bytes {start}-{end}/{total} of {wanted.path}, asked for "
            f"{wanted.offset}-{wanted.offset + wanted.length - 1}"
        )
    if head.length is not None and head.length != wanted.length:
        raise OriginError(
            f"the origin announces {head.length} bytes for a range of {wanted.length} "
            f"of {wanted.path}"
        )
    return wanted.length


def _check_validators(wanted: Wanted, head: Head) -> None:
    planned, got = wanted.validator, head.get("etag")
    version = head.get("x-amz-version-id")
    has_version = planned.version_id is not None and version == planned.version_id
    if planned.version_id and version and not has_version:
        raise _changed(wanted, "another version")
    if planned.strong_etag is not None:
        if got is None and not has_version:
            raise OriginError(f"the origin sends {wanted.path} without the ETag it had before")
        if got is not None and got != planned.etag and not _is_bare(got, planned.etag):
            raise _changed(wanted, "another ETag")
    elif planned.etag is not None and got is not None:
        if got.removeprefix("W/") != planned.etag.removeprefix("W/"):
            raise _changed(wanted, "another ETag")
    elif planned.last_modified is not None:
        modified = head.get("last-modified")
        if modified is not None and modified != planned.last_modified:
            raise _changed(wanted, "another date")


def _is_bare(got: str, planned: str | None) -> bool:
    """Some servers leave out the quotes, now here, now there."""
    return planned is not None and got.strip('"') == planned.strip('"') and got[:2] != "W/"


def _changed(wanted: Wanted, what: str) -> OriginChanged:
    return OriginChanged(
        f"{wanted.path} changed at its source while it was fetched ({what})",
        hint="ask again: the new state will be fetched",
    )


def read_facts(head: Head, *, is_whole: bool) -> Facts:
    """``is_whole``: the answer is about the whole object, for a checksum of a range says nothing
    of the file. A composite checksum (``…-3``) is no digest of the bytes."""
    digests: list[Digest] = []
    composite = (head.get("x-amz-checksum-type") or "FULL_OBJECT").upper() != "FULL_OBJECT"
    if is_whole and not composite:
        for name, (algorithm, width) in _CHECKSUMS.items():
            value = _decode(head.get(name), width)
            if value is not None:
                digests.append(Digest(algorithm=algorithm, value=value))
    encryption = (head.get("x-amz-server-side-encryption") or "").lower()
    is_opaque = (
        encryption.startswith("aws:")
        or head.get("x-amz-server-side-encryption-customer-algorithm") is not None
        or (head.get("x-amz-storage-class") or "").upper() == "EXPRESS_ONEZONE"
    )
    return Facts(etag=head.get("etag"), digests=tuple(digests), is_opaque=is_opaque)


def mismatch(path: str, digest: Digest, value: str) -> DigestMismatch:
    """The error for bytes that are not what the origin claims."""
    return DigestMismatch(
        f"{path} has the {digest.algorithm} {value}, its source says {digest.value}",
        hint="the copy at the source, or the way from there, is damaged",
        path=path,
        expected=str(digest),
        seen=f"{digest.algorithm}:{value}",
    )


def _decode(text: str | None, width: int) -> str | None:
    if not text or "-" in text:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw.hex() if len(raw) == width else None


def digest_to_check(planned: Digest | None, facts: Facts | None, *, is_s3: bool) -> Digest | None:
    """The one digest that a file's bytes are checked against.

    A sha256 in the plan always is, for it may be shared by. Else the cheapest that is there:
    crc64nvme costs nothing (the blocks add up to it), md5 costs most. An ETag is an MD5 only
    for a plain S3 object of one part (S3 API Reference, "Object", on ETag).
    """
    if planned is not None and planned.algorithm == "sha256":
        return planned
    found = {d.algorithm: d for d in (facts.digests if facts else ())}
    if planned is not None:
        found.setdefault(planned.algorithm, planned)
    for algorithm in ("crc64nvme", "crc32c", "crc32", "sha256", "sha1"):
        if algorithm in found:
            return found[algorithm]
    if facts is not None and facts.is_opaque:
        return None if planned is None or planned.algorithm == "md5" else planned
    if planned is not None:
        return planned
    match = _MD5.match(facts.etag or "") if facts is not None and is_s3 else None
    return Digest(algorithm="md5", value=match[1].lower()) if match else None
