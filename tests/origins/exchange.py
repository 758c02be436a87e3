"""What an origin serves, and what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self


@dataclass
class Body:
    data: bytes
    etag: str | None
    headers: dict[str, str] = field(default_factory=dict)
    modified: str = "Thu, 01 Jan 2026 00:00:00 GMT"
    check_if_match: bool = True
    parts: tuple[int, ...] = ()


@dataclass
class Seen:
    """One request as it came."""

    method: str
    target: str
    path: str
    headers: dict[str, str]
    peer: int

    @classmethod
    def of(cls, head: str, peer: int) -> Self:
        """What the head of a request says; names of headers in lower case."""
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return cls(method, target, target.partition("?")[0], headers, peer)
