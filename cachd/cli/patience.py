"""How long a client waits for a daemon that is away: it may be restarting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cachd.errors import CachdError, Cancelled, DaemonUnreachable, NotReady

if TYPE_CHECKING:
    import threading

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


def is_passing(error: CachdError) -> bool:
    """Whether ``error`` may be gone when the daemon is back."""
    if isinstance(error, DaemonUnreachable):
        return error.detail.get("reason") not in ("permission", "untrusted")
    return isinstance(error, NotReady)


class Patience:
    """A window of ``seconds`` that opens at the first failure and closes at each success."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._seconds = seconds
        self._stop = stop
        self._until: float | None = None
        self._pause = _FIRST_PAUSE

    @property
    def is_waiting(self) -> bool:
        """Whether the window is open."""
        return self._until is not None

    def succeeded(self) -> None:
        self._until = None
        self._pause = _FIRST_PAUSE

    def pause(self, error: CachdError) -> None:
        """Wait a little; raises ``error`` when it won't pass, or the window is over."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        left = self._until - now
        if not is_passing(error) or left <= 0:
            raise error
        pause = min(max(self._pause, min(error.retry_after or 0.0, _LONGEST_PAUSE)), left)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        if self._stop is None:
            time.sleep(pause)
        elif self._stop.wait(pause):
            raise Cancelled("the transfer was stopped")
