"""What the store tells others: counters, and named steps for tests that kill the process there."""

from __future__ import annotations

import time
from typing import Protocol


class StoreMetrics(Protocol):
    """Counters of the store; gauges are read from ``Store.usage()``."""

    def evicted(self, reason: str, count: int) -> None:
        """A snapshot or an unfinished ingest went for ``reason``, and ``count`` bytes with it."""

    def scrub(self, what: str, count: int) -> None:
        """Snapshots against their checksums. ``what``: scrub_bytes, that were read; bad_blocks,
        that were found; repaired_blocks, that were replaced by good ones."""

    def disk_failed(self, kind: str) -> None:
        """A call failed on the disk: enospc, edquot, eio, erofs, other."""

    def degraded(self, reason: str, is_so: bool) -> None:
        """Whether the store lacks something, for each of ``health.REASONS``."""


class NoMetrics:
    """Counts nothing."""

    def evicted(self, reason: str, count: int) -> None:
        return

    def scrub(self, what: str, count: int) -> None:
        return

    def disk_failed(self, kind: str) -> None:
        return

    def degraded(self, reason: str, is_so: bool) -> None:
        return


class Clock(Protocol):
    """Time, replaceable in tests."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from some start; never goes back."""
        ...


class SystemClock:
    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class OnStep(Protocol):
    """Called after each named step of start, begin, commit, removal and keeping, from whichever
    thread does it. Tests of crashes end the process there; docs/crash-matrix.md has the names."""

    def __call__(self, name: str, /) -> None: ...


class OnEvicted(Protocol):
    """Called after each eviction with what went, why, and the bytes that came free."""

    def __call__(self, key: str, uri: str, reason: str, count: int, /) -> None: ...


def ignore_eviction(_key: str, _uri: str, _reason: str, _count: int, /) -> None:
    return


def ignore_step(_name: str, /) -> None:
    return
