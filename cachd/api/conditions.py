"""Ranges and preconditions of RFC 9110, as pure functions of headers and a file's state."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cachd.model import ManifestFile

_BYTES = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Span:
    """``count`` bytes from ``start``."""

    start: int
    count: int


def parse_range(header: str | None, size: int) -> Span | Literal["unsatisfiable"] | None:
    """The range that ``header`` asks for of ``size`` bytes; None: send everything.

    More than one range, another unit and a malformed header are ignored, as RFC 9110 section 14.2
    allows. No byte of an empty file can be ranged over.
    """
    found = _BYTES.fullmatch(header or "")
    if not found or len(found[1]) > _DIGITS or len(found[2]) > _DIGITS:
        return None
    first, last = found[1], found[2]
    if not first:
        if not last:
            return None
        count = min(int(last), size)
        return Span(size - count, count) if count else "unsatisfiable"
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return "unsatisfiable"
    end = min(int(last), size - 1) if last else size - 1
    return Span(start, end - start + 1)


def etag(file: ManifestFile) -> str:
    """A strong validator: the file's sha256 if the manifest has it, else a hash of its size and
    block checksums. The same bytes have the same one on every node that knows as much."""
    for digest in file.digests:
        if digest.algorithm == "sha256":
            return f'"sha256-{digest.value}"'
    whole = hashlib.sha256(f"{file.size}:{','.join(file.blocks)}".encode()).hexdigest()
    return f'"blocks-{whole[:32]}"'


def _tags(header: str) -> list[str]:
    found, position = [], 0
    while match := _TAG.match(header, position):
        found.append(match[1])
        position = match.end()
    return found


def is_unmodified(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has it already (weak comparison, RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in [
        t.removeprefix("W/") for t in _tags(if_none_match)
    ]


def is_another(if_match: str | None, tag: str) -> bool:
    """Whether the caller wants only another state (strong comparison, section 13.1.1)."""
    if if_match is None:
        return False
    return if_match.strip() != "*" and tag not in _tags(if_match)


def may_range(if_range: str | None, tag: str) -> bool:
    """Whether Range applies. A date never does: files here have no Last-Modified (13.1.5)."""
    return if_range is None or if_range.strip() == tag
