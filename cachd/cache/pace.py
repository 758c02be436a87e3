"""How fast may be read. Pure."""

from __future__ import annotations


class Budget:
    """At most ``rate`` bytes per second, a block more at the beginning; 0: no limit. What wasn't
    used in the past isn't saved up."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = float("-inf")

    def take(self, count: int, now: float) -> float:
        """Seconds from ``now`` (monotonic) until ``count`` bytes may be read."""
        if self._rate <= 0:
            return 0.0
        start = max(now, self._free_at)
        self._free_at = start + count / self._rate
        return start - now
