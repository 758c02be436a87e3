"""How fast a connection must be at least, and all of them at most."""

from __future__ import annotations

import threading
import time
from collections import deque


class StallWatch:
    """Whether a connection stays above ``floor`` bytes per second over ``window`` seconds. Pure:
    the caller brings the clock. Time spent waiting for a bandwidth cap is not the origin's."""

    def __init__(self, floor: float, window: float, now: float) -> None:
        self._floor = floor
        self._window = window
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])
        self._total = 0
        self._paused = 0.0

    def pause(self, seconds: float) -> None:
        self._paused += seconds

    def is_stalled(self, count: int, now: float) -> bool:
        """Note ``count`` more bytes at ``now``; whether the last window was below the floor."""
        now -= self._paused
        self._total += count
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - self._window:
            samples.popleft()
        start, before = samples[0]
        if now - samples[-1][0] >= self._window / 16:
            samples.append((now, self._total))
        elapsed = now - start
        return elapsed >= self._window and (self._total - before) < self._floor * elapsed


class TokenBucket:
    """A cap in bytes per second that threads share; ``rate`` None or 0 means none."""

    def __init__(self, rate: float | None = None) -> None:
        self._lock = threading.Lock()
        self._rate = rate or 0.0
        self._free_at = 0.0

    def set_rate(self, rate: float | None) -> None:
        with self._lock:
            self._rate = rate or 0.0
            self._free_at = 0.0

    @property
    def chunk(self) -> int:
        """Bytes to take at once so that the flow stays smooth: a twentieth of a second's worth."""
        rate = self._rate
        return 1 << 30 if rate <= 0 else max(16 * 1024, int(rate / 20))

    def reserve(self, count: int, now: float) -> float:
        """Note ``count`` bytes; the seconds to wait before the next. Pure but for its state."""
        with self._lock:
            if self._rate <= 0:
                return 0.0
            self._free_at = max(self._free_at, now) + count / self._rate
            return self._free_at - now

    def take(self, count: int) -> float:
        """Pay for ``count`` bytes by waiting; the seconds that it took."""
        if self._rate <= 0:
            return 0.0
        delay = self.reserve(count, time.monotonic())
        if delay > 0:
            time.sleep(delay)
        return delay
