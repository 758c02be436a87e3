"""Live counters of one fetch."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["queued", "fetching", "verifying", "unpacking", "done"]

RATE_WINDOW = 5.0
"""Seconds over which the rate is taken."""

_FILES_SHOWN = 32


class Progress:
    """``bytes`` in place of ``total`` (None: not known), what was there before included.

    ``received``: body bytes that came from the origin in this fetch, wasted ones included.
    ``active``: bytes and size (None: not known) by path, of files that are under way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State = "queued"
        self.bytes = 0
        self.total: int | None = None
        self.received = 0
        self.unpacked = 0
        self.files_done = 0
        self.files_total = 0
        self.active: dict[str, tuple[int, int | None]] = {}
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, count: int) -> None:
        """Take ``count`` as the bytes in place now."""
        self.bytes = count
        now = self._clock()
        if not self._samples or now - self._samples[-1][0] >= 0.1:
            self._samples.append((now, self.bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_WINDOW:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        if not self._samples:
            return 0.0
        start, before = self._samples[0]
        elapsed = self._clock() - start
        return max(0.0, (self.bytes - before) / elapsed) if elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None if nobody can tell."""
        rate = self.rate
        if self.total is None or rate <= 0:
            return None
        return max(0, self.total - self.bytes) / rate

    def to_json(self) -> dict[str, Any]:
        """What a progress event holds; the active files that have most bytes, at most 32."""
        eta = self.eta
        return {
            "state": self.state,
            "bytes": self.bytes,
            "total": self.total,
            "rate": round(self.rate),
            "eta": None if eta is None else round(eta, 1),
            "files_done": self.files_done,
            "files_total": self.files_total,
            "files": [
                {"path": path, "bytes": count, "size": size}
                for path, (count, size) in sorted(
                    self.active.items(), key=lambda item: -item[1][0]
                )[:_FILES_SHOWN]
            ],
        }
