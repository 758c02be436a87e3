"""What to do about a part that failed. Pure.

Only classes of errors decide, and those come from parsed codes (``refusal.py``), never from words
in a message. ``final`` in an error's detail: this one will come again, whatever its class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cachd.errors import (
    AccessError,
    CachdError,
    Forbidden,
    OriginBusy,
    RangeIgnored,
    WorkerDied,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.settings import FetchSettings

RETRY_AFTER_MAX = 600.0
"""Seconds; an origin that asks for more is not waited for any longer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """``attempts`` tries in all; backoff in seconds."""

    attempts: int
    backoff_base: float
    backoff_max: float

    @staticmethod
    def of(settings: FetchSettings) -> RetryPolicy:
        return RetryPolicy(
            attempts=settings.attempts,
            backoff_base=settings.backoff_base,
            backoff_max=settings.backoff_max,
        )

    def at_most(self, attempts: int | None) -> RetryPolicy:
        """With no more tries than ``attempts``."""
        return self if attempts is None else replace(self, attempts=min(self.attempts, attempts))


@dataclass(frozen=True, slots=True)
class Decision:
    """``again`` after ``delay`` seconds · ``refresh`` the credentials, then again · ``restream``
    the file from its start without ranges · ``adjust_clock`` to the origin's, then again · ``fail``
    the whole fetch."""

    action: Literal["again", "refresh", "restream", "adjust_clock", "fail"]
    delay: float = 0.0


def decide(
    error: CachdError,
    *,
    attempts: int,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> Decision:
    """The decision after ``attempts`` tries of a part (this one included) ended with ``error``.

    ``random`` gives a number from 0 to 1: full jitter, as in the AWS Architecture Blog's
    "Exponential Backoff And Jitter". A Retry-After is a lower bound, and jitter comes on top of it,
    so that a node's parts don't all come back in one instant.
    """
    if isinstance(error, RangeIgnored):
        return Decision("restream")
    if isinstance(error, AccessError) and not isinstance(error, Forbidden):
        return Decision("refresh")
    if "clock_offset" in error.detail:
        return Decision("adjust_clock" if attempts <= 2 else "fail")
    if not error.retryable or error.detail.get("final") or attempts >= policy.attempts:
        return Decision("fail")
    if isinstance(error, WorkerDied):
        return Decision("again")
    ceiling = min(policy.backoff_max, policy.backoff_base * 2.0 ** min(attempts - 1, 32))
    delay = random() * ceiling
    if error.retry_after is not None:
        delay += min(max(error.retry_after, 0.0), RETRY_AFTER_MAX)
    elif isinstance(error, OriginBusy):
        delay = max(delay, ceiling / 2)
    return Decision("again", delay)
