"""The origins' breakers, shared by all models and by the calls that resolve them: who may call now,
who waits, and who is told at once that it is no use."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from cachd.errors import CachdError, OriginBusy, OriginError, OriginUnreachable
from cachd.fetch.breaker import Breaker, BreakerPolicy, verdict_of
from cachd.fetch.job import is_upstream
from cachd.fetch.observe import FetchMetrics, NoMetrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cachd.settings import FetchSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

ORIGINS_REMEMBERED = 1000
"""Origins come from callers, so that their number must be bounded; those that are well go first."""


class Gates:
    """Event loop only. ``close`` at the end, for a timer may be armed."""

    def __init__(self, settings: FetchSettings, metrics: FetchMetrics | None = None) -> None:
        self._policy = BreakerPolicy(
            failures=settings.breaker_failures,
            base=settings.backoff_base,
            most=settings.backoff_max,
            full=settings.connections_per_origin,
        )
        # There is another place for what an upstream doesn't give.
        self._hasty = replace(self._policy, failures=1)
        self._attempts = settings.attempts
        self._metrics = metrics or NoMetrics()
        self._breakers: dict[str, Breaker] = {}
        self._since: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self._listener: Callable[[], None] = lambda: None

    def listen(self, listener: Callable[[], None]) -> None:
        """Called soon after an origin may be called that might not before."""
        self._listener = listener

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._listener = lambda: None

    # --- calls of workers ------------------------------------------------------------------

    def has_room(self, origin: str) -> bool:
        breaker = self._breakers.get(origin)
        return breaker is None or breaker.room(time.monotonic()) > 0

    def begin(self, origin: str) -> int:
        """A ticket for a call for which there was room."""
        breaker = self._breakers.get(origin)
        if breaker is None:
            return 0
        was = breaker.state
        ticket = breaker.begin()
        self._note(origin, breaker, was)
        return ticket

    def end(self, origin: str, ticket: int) -> None:
        """The call is over; after ``judge``."""
        breaker = self._breakers.get(origin)
        if breaker is not None and breaker.state != "closed":
            breaker.end(ticket)
            self._tell()
        elif breaker is not None:
            breaker.end(ticket)

    def heard(self, origin: str) -> None:
        """Bytes still come from it, by a call that was judged already."""
        breaker = self._breakers.get(origin)
        if breaker is not None:
            breaker.fruitless = 0

    def judge(
        self, origin: str, ticket: int, error: CachdError | None, received: int = 0
    ) -> CachdError | None:
        """Note how a call went. The error that every model of the origin ends with, where it has
        been tried in vain as often as a part is; else None."""
        verdict = verdict_of(error, received)
        breaker = self._breakers.get(origin)
        if verdict == "neutral" or (breaker is None and verdict == "good"):
            return None
        if breaker is None:
            breaker = self._breakers[origin] = Breaker(
                self._hasty if is_upstream(origin) else self._policy
            )
            self._forget_some()
        was = breaker.state
        if verdict == "good":
            breaker.good(ticket)
            self._note(origin, breaker, was)
            return None
        assert error is not None
        opened = breaker.failed(
            ticket,
            verdict,
            error.message,
            time.monotonic(),
            retry_after=error.retry_after,
            random=random.random,
        )
        self._note(origin, breaker, was)
        if breaker.state == "open":
            self._arm(origin, breaker)
        if opened and breaker.fruitless >= self._attempts:
            return self._refusal(origin, breaker, in_vain=True)
        return None

    # --- calls of the resolver -------------------------------------------------------------

    async def call(self, origin: str, patience: float, act: Callable[[], Awaitable[T]]) -> T:
        """``act()``, when the origin may be called. Waits, and tries again, for ``patience``
        seconds at most where that is long enough; else raises OriginBusy or OriginUnreachable at
        once, with the time to come back. Raises what ``act`` does."""
        deadline = time.monotonic() + patience
        while True:
            ticket = await self._enter(origin, deadline)
            try:
                result = await act()
            except CachdError as error:
                self.judge(origin, ticket, error)
                if not self._is_worth_waiting(origin, deadline):
                    raise
            else:
                self.judge(origin, ticket, None)
                return result
            finally:
                self.end(origin, ticket)

    async def _enter(self, origin: str, deadline: float) -> int:
        while not self.has_room(origin):
            breaker = self._breakers[origin]
            now = time.monotonic()
            if now >= deadline or now + breaker.opens_in(now) > deadline:
                raise self._refusal(origin, breaker)
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - now):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return self.begin(origin)

    def _is_worth_waiting(self, origin: str, deadline: float) -> bool:
        breaker = self._breakers.get(origin)
        now = time.monotonic()
        return (
            breaker is not None
            and breaker.state == "open"
            and now + breaker.opens_in(now) < deadline
        )

    def _refusal(self, origin: str, breaker: Breaker, *, in_vain: bool = False) -> OriginError:
        wait = max(1, math.ceil(breaker.opens_in(time.monotonic())))
        kind = OriginBusy if breaker.cause == "busy" else OriginUnreachable
        tried = f" {breaker.fruitless} times in vain" if in_vain else ""
        return kind(
            f"{breaker.message}; it was tried{tried} and is left alone for {wait} s"
            if tried
            else f"{breaker.message}; it is left alone for {wait} s",
            hint="ask again then; what was fetched is kept",
            retry_after=float(wait),
            origin=origin,
        )

    # --- changes ---------------------------------------------------------------------------

    def _note(self, origin: str, breaker: Breaker, was: str) -> None:
        if breaker.state != was:
            now = time.monotonic()
            if was == "open" and origin in self._since:
                cause = "busy" if breaker.cause == "busy" else "unreachable"
                self._metrics.held(cause, now - self._since.pop(origin))
            if breaker.state == "open":
                self._since[origin] = now
                wait = breaker.opens_in(now)
                log.warning("%s is left alone for %.1f s: %s", origin, wait, breaker.message)
            elif breaker.state == "closed":
                log.info("%s is called as ever again", origin)
            self._metrics.breaker(breaker.state)
            self._metrics.origins_held(len(self._since))
        if breaker.state != "open":
            self._tell()

    def _arm(self, origin: str, breaker: Breaker) -> None:
        timer = self._timers.pop(origin, None)
        if timer is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        wait = breaker.opens_in(time.monotonic())
        self._timers[origin] = loop.call_later(wait + 0.001, self._due, origin)

    def _due(self, origin: str) -> None:
        self._timers.pop(origin, None)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        asyncio.get_running_loop().call_soon(self._listener)

    def _forget_some(self) -> None:
        if len(self._breakers) <= ORIGINS_REMEMBERED:
            return
        some = list(self._breakers)[:-1]
        well = [origin for origin in some if self._breakers[origin].state == "closed"]
        for origin in (well or some)[: ORIGINS_REMEMBERED // 10]:
            del self._breakers[origin]
            self._since.pop(origin, None)
            if (timer := self._timers.pop(origin, None)) is not None:
                timer.cancel()

    def describe(self) -> dict[str, Any]:
        """Origins that aren't called as ever, for a person who looks."""
        now = time.monotonic()
        return {
            origin: {"state": breaker.state, "opens_in": round(breaker.opens_in(now), 1)}
            for origin, breaker in self._breakers.items()
            if breaker.state != "closed"
        }
