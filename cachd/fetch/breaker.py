"""Whether an origin may be called now. Pure: the caller brings the clock (monotonic) and the dice.

An origin that says it is busy (429, 503), or that failed ``failures`` times in a row, is *open*:
nobody calls it until its time is over. Then it is *half open*: one call goes out as a probe, for
everybody; each success lets in one more than before, until as many run as ever (*closed*). So what
waits comes back in growing steps. Pattern: Michael Nygard, "Release It!", on circuit breakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cachd.errors import (
    AccessError,
    CachdError,
    Forbidden,
    NotFound,
    OriginBusy,
    OriginChanged,
    OriginError,
    OriginMoved,
    OriginStalled,
    OriginUnreachable,
    RangeIgnored,
)
from cachd.fetch.retry import RETRY_AFTER_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

State = Literal["closed", "open", "half_open"]
Verdict = Literal["good", "busy", "bad", "neutral"]

UNLIMITED = 1 << 30


def verdict_of(error: CachdError | None, received: int = 0) -> Verdict:
    """What an answer says of its origin's health. An origin that refuses, or that has another state
    than was planned, is well; one that breaks off in mid-body is no proof either way."""
    if isinstance(error, OriginBusy):
        return "busy"
    if isinstance(error, OriginUnreachable | OriginStalled):
        return "neutral" if received else "bad"
    if isinstance(error, Forbidden):
        return "neutral"
    if error is None or isinstance(
        error, AccessError | NotFound | OriginChanged | OriginMoved | RangeIgnored
    ):
        return "good"
    if type(error) is OriginError:
        return "bad" if int(error.detail.get("status", 0)) >= 500 else "neutral"
    return "neutral"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """``failures`` in a row that open it (0: none do); ``base`` and ``most`` seconds of the first
    and the longest hold; ``full``: calls at once that make it closed again."""

    failures: int
    base: float
    most: float
    full: int


class Breaker:
    """One origin. ``fruitless``: times that it opened since it was last heard to be well."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.state: State = "closed"
        self.until = 0.0
        self.cause: Verdict = "bad"
        self.message = ""
        self.fruitless = 0
        self._level = 0
        self._failures = 0
        self._epoch = 0
        self._running = 0
        self._limit = 0

    def room(self, now: float) -> int:
        """Calls that may be begun now."""
        if self.state == "closed":
            return UNLIMITED
        if self.state == "open":
            return 0 if now < self.until else 1
        return max(0, self._limit - self._running)

    def opens_in(self, now: float) -> float:
        """Seconds until a probe may go out."""
        return max(0.0, self.until - now) if self.state == "open" else 0.0

    def begin(self) -> int:
        """A call goes out, for which there was room; what to end it with."""
        if self.state == "open":
            self.state, self._limit = "half_open", 1
        self._running += 1
        return self._epoch

    def end(self, ticket: int) -> None:
        """The call is over, whatever came of it."""
        if ticket == self._epoch:
            self._running -= 1

    def good(self, ticket: int) -> None:
        """It answers. Of what was begun before it opened that says little."""
        self._failures = self.fruitless = 0
        if ticket != self._epoch or self.state != "half_open":
            return
        self._limit += 1
        if self._limit > self._policy.full:
            self.state, self._level = "closed", 0

    def failed(
        self,
        ticket: int,
        verdict: Verdict,
        message: str,
        now: float,
        *,
        retry_after: float | None = None,
        random: Callable[[], float],
    ) -> bool:
        """A call ended with ``verdict`` busy or bad; whether that opened it now."""
        if self.state == "open":
            if verdict == "busy" and retry_after is not None:
                self.until = max(self.until, now + min(retry_after, RETRY_AFTER_MAX))
            return False
        if ticket != self._epoch:
            return False
        self._failures += 1
        is_due = bool(self._policy.failures) and self._failures >= self._policy.failures
        if verdict == "bad" and self.state == "closed" and not is_due:
            return False
        hold = min(self._policy.most, self._policy.base * 2.0 ** min(self._level, 32))
        # Jitter for the sake of the other nodes: they were all told the same.
        jitter = random() * hold / 4
        if retry_after is not None:
            hold = max(hold if verdict == "bad" else 0.0, min(max(retry_after, 0), RETRY_AFTER_MAX))
        self.state, self.until = "open", now + hold + jitter
        self.cause, self.message = verdict, message
        self._level += 1
        self.fruitless += 1
        self._failures = self._running = 0
        self._epoch += 1
        return True
