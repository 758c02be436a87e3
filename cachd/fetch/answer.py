"""Whether an answer is the range that was planned. Pure.

If-Match is necessary and not enough: weak ETags never match (RFC 9110 section 13.1.1), and some
servers ignore it. So every answer is checked for itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachd.errors import OriginChanged, OriginError, RangeIgnored
from cachd.model import Validator

if TYPE_CHECKING:
    from cachd.fetch.head import Head

_VERSIONS = ("x-amz-version-id", "x-goog-generation", "x-ms-version-id")
_RANGE = re.compile(r"^bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One request: a file and a range of it, in bytes.

    ``length`` None: to the end. ``is_whole``: a GET without Range; ``size`` None: not known.
    ``is_in_query``: the range is asked for by the URL, so that the answer is whole in itself.
    """

    path: str
    url: str
    size: int | None
    validator: Validator
    offset: int
    length: int | None
    is_whole: bool
    is_s3: bool = False
    is_in_query: bool = False
    post: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def make_wanted(part: dict[str, Any], *, is_s3: bool) -> Wanted:
    """From a daemon's order: a part of a file, or without ``offset`` the whole of it."""
    offset, length, size = part.get("offset", 0), part.get("length"), part["size"]
    url, query = part["url"], part.get("range_query", "")
    is_in_query = bool(query) and length is not None
    if is_in_query:
        url += ("&" if "?" in url else "?") + query.format(offset=offset, length=length)
    return Wanted(
        path=part["path"],
        url=url,
        size=size,
        validator=Validator(
            etag=part["etag"],
            last_modified=part["last_modified"],
            version_id=part["version_id"],
        ),
        offset=offset,
        length=length,
        is_whole=length is None or (offset == 0 and length == size),
        is_s3=is_s3,
        is_in_query=is_in_query,
        post=part.get("post", ""),
        headers=tuple((name, value) for name, value in part.get("headers", ())),
    )


def request_headers(wanted: Wanted) -> list[tuple[str, str]]:
    """Range and preconditions. A version id is in the URL already."""
    headers = [("accept-encoding", "identity"), *wanted.headers]
    if not wanted.is_whole and not wanted.is_in_query:
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
    check_validators(wanted, head)
    encoding = (head.get("content-encoding") or "identity").strip().lower()
    # In S3 and at Azure the header is a note on the object, and the stored bytes are what was
    # listed. Only requests for Azure's have that header.
    is_note = wanted.is_s3 or any(name == "x-ms-version" for name, _ in wanted.headers)
    if encoding != "identity" and not (is_note and wanted.validator.etag):
        raise OriginError(
            f"the origin sends {wanted.path} with the encoding {encoding[:40]!r}, unasked",
            hint="turn compression off for this file at the origin",
            final=True,
        )
    if wanted.is_in_query:
        return _check_asked(wanted, head)
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


def _check_asked(wanted: Wanted, head: Head) -> int:
    assert wanted.length is not None
    if head.status != 200 or head.length not in (None, wanted.length):
        raise OriginError(
            f"the origin answers {head.status} with {head.length} bytes to a question for "
            f"{wanted.length} bytes of {wanted.path}"
        )
    return wanted.length


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


def check_validators(wanted: Wanted, head: Head) -> None:
    """Raises OriginChanged, OriginError unless the answer is of the state that was planned."""
    planned, got = wanted.validator, head.get("etag")
    version = None
    if planned.version_id is not None:
        version = next(filter(None, map(head.get, _VERSIONS)), None)
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
