"""What a FakeDaemon is told to do wrong, and what it keeps of what it was asked."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """What goes wrong, and what is recorded."""

    asks: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lease_headers: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    renewals: int = 0
    hide_path: bool = False
    """Answer with a path that the client can't see."""
    hide_page: bool = False
    """Refuse the model's page, so that only the lease is a pass."""
    break_asks: int = 0
    """Drop this many asks after their first events."""
    break_files: int = 0
    """Drop this many file answers in the middle."""
    problem: tuple[int, dict[str, Any]] | None = None
    error_event: dict[str, Any] | None = None
    not_ready: int = 0
    hang: bool = False
    forget_once: bool = False
    """Forget the snapshot between the first ask and the copy, until it is asked for again."""
    move_after: tuple[int, dict[str, bytes]] | None = None
    """After so many files the snapshot is gone, and the source has these instead."""
    stall_files: bool = False
    """Send half of each file, then nothing."""
    slow_files: float = 0.0
    """Seconds before each file."""
    hold_files: threading.Event | None = None
    """No file is answered before this is set."""
    corrupt: str = ""
    """A path whose streamed bytes are wrong in one bit."""
    view_problem: dict[str, Any] | None = None
    """What an ask for a view ends with."""
    view_facts: dict[str, Any] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    imported: bytes = b""
    plan: dict[str, Any] = field(default_factory=dict)
