"""Models that a node has without being asked: fetched after the start and by schedule.

With the daemon's own identity, as a prefetch: behind what somebody waits for. One that fails is
tried again, less and less often. Monotonic time alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cachd.cache.telling import tell_failed, tell_ready
from cachd.cache.types import Ask, Caller, LeaseRequest
from cachd.errors import CachdError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from cachd.cache.lookup import Lookup
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.cache.types import Answer, Event
    from cachd.model import Ref
    from cachd.settings import PrefetchRule

log = logging.getLogger("cachd.prefetch")

AT_ONCE = 4
"""Models that are asked for at the same time."""

START_JITTER = 2.0
"""Seconds within which the first asks are spread: all nodes of a rollout start together."""

LONGEST = 600.0
"""Seconds after which one that fails is tried again at the latest."""

_FIRST_TIMES = 10.0
"""Times ``fetch.backoff_base`` before the first retry."""

_HOLD = 60.0
"""Seconds of the lease that keeps a model until it is pinned."""

_WHO = Caller(role="admin")
"""Whose identity at the source is the daemon's own."""

State = Literal["wanted", "fetching", "ready", "failed", "gone"]


def next_try(failures: int, base: float, chance: float) -> float:
    """Seconds until one that failed ``failures`` times in a row is tried again. Pure."""
    longest = min(LONGEST, base * _FIRST_TIMES * 2.0 ** min(failures - 1, 32))
    return longest * (0.5 + chance / 2)


@dataclass(slots=True, eq=False)
class Entry:
    """One rule and its luck. ``due``: when it is looked at next (monotonic), None: not again."""

    rule: PrefetchRule
    ref: Ref | None = None
    revision: str | None = None
    state: State = "wanted"
    failures: int = 0
    error: CachdError | None = None
    due: float | None = None


class Prefetcher:
    """``start`` and ``stop``. ``follow`` is how anybody asks."""

    def __init__(
        self,
        parts: Parts,
        lookup: Lookup,
        follow: Callable[[Asked], AsyncGenerator[Event, None]],
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._parts = parts
        self._lookup = lookup
        self._follow = follow
        self._chance = chance
        self._entries = [Entry(rule) for rule in parts.settings.prefetch]
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for entry in self._entries:
            name = f"prefetch {entry.rule.uri}"
            self._tasks.append(asyncio.create_task(self._keep(entry), name=name))

    async def stop(self) -> None:
        """A second call does nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def usage(self) -> dict[str, int]:
        """How many there should be, are, and can't be had."""
        states = [self._state(entry) for entry in self._entries]
        return {
            "prefetch_wanted": len(states),
            "prefetch_ready": states.count("ready"),
            "prefetch_failed": states.count("failed"),
        }

    def describe(self) -> list[dict[str, Any]]:
        """Each rule, and how far it is; ``next_in`` in seconds."""
        now = time.monotonic()
        return [
            {
                "uri": entry.rule.uri,
                "allow": list(entry.rule.allow),
                "ignore": list(entry.rule.ignore),
                "pin": entry.rule.pin,
                "every": entry.rule.every,
                "key": entry.ref.key if entry.ref else None,
                "revision": entry.revision,
                "state": self._state(entry),
                "failures": entry.failures,
                "code": entry.error.code if entry.error else None,
                "message": entry.error.message if entry.error else None,
                "hint": (entry.error.hint or None) if entry.error else None,
                "next_in": None if entry.due is None else round(max(0.0, entry.due - now), 1),
            }
            for entry in self._entries
        ]

    def _state(self, entry: Entry) -> State:
        """A model that is ready may have gone since."""
        if entry.state == "ready" and entry.ref is not None:
            there = self._parts.store.get(entry.ref.key, entry.revision)
            return "ready" if there is not None else "gone"
        return entry.state

    async def _keep(self, entry: Entry) -> None:
        delay: float | None = START_JITTER * self._chance()
        while delay is not None:
            entry.due = time.monotonic() + delay
            await asyncio.sleep(delay)
            async with self._turn:
                entry.due = None
                delay = await self._look(entry)
        entry.due = None

    async def _look(self, entry: Entry) -> float | None:
        """Have it; seconds until the next look, None for none."""
        rule = entry.rule
        had = entry.state
        entry.state = "fetching" if had != "ready" else had
        try:
            answer = await self._have(entry)
        except CachdError as error:
            entry.state, entry.error = "failed", error
            entry.failures += 1
            base = self._parts.settings.fetch.backoff_base
            delay = next_try(entry.failures, base, self._chance())
            delay = max(delay, min(error.retry_after or 0.0, LONGEST))
            log.warning(
                "%s can't be prefetched (%s): %s; again in %.0f s",
                rule.uri,
                error.code,
                error.message,
                delay,
            )
            if entry.ref is not None:
                tell_failed(self._parts.events, _WHO, entry.ref, error)
            return delay
        except Exception:
            log.exception("%s can't be prefetched", rule.uri)
            entry.state = "failed"
            return LONGEST
        if answer.result == "miss" or had != "ready":
            log.info("%s is here: %s", rule.uri, answer.result)
        tell_ready(self._parts.events, _WHO, answer)
        entry.revision, entry.state = answer.revision, "ready"
        entry.failures, entry.error = 0, None
        return None if rule.every is None else rule.every * (0.9 + 0.2 * self._chance())

    async def _have(self, entry: Entry) -> Answer:
        rule, store = entry.rule, self._parts.store
        ask = Ask(
            uri=rule.uri,
            allow=rule.allow,
            ignore=rule.ignore,
            priority="prefetch",
            lease=LeaseRequest(holder="prefetch", ttl=_HOLD) if rule.pin else None,
        )
        asked = self._lookup.understand(ask, _WHO)
        entry.ref = asked.ref
        answer: Answer | None = None
        async with contextlib.aclosing(self._follow(asked)) as events:
            async for event in events:
                answer = event.answer or answer
        assert answer is not None
        if answer.lease is not None:
            try:
                await store.pin(answer.key)
            finally:
                await store.release(answer.lease.id)
        return answer
