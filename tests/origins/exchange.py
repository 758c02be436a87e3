"""What an origin serves, and what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field


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
