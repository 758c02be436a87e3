"""Looks at moving refs by schedule, so that a new revision is there before anybody asks for it.

Only what needs no caller's pass: what the source showed to nobody in particular, or to the daemon's
own identity. Nobody waits, so that the bytes come as a prefetch. Monotonic time alone: a clock that
is set moves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachd.cache.access import ANONYMOUS, DAEMON
from cachd.cache.anywhere import plan_unseen
from cachd.cache.resolve import ask_for, locate, unseen
from cachd.cache.updating import rule_of
from cachd.errors import CachdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cachd.cache.access import Principal
    from cachd.cache.parts import Parts
    from cachd.cache.resolve import Asked
    from cachd.model import Plan, Ref
    from cachd.settings import RefreshRule
    from cachd.store.types import StoredSnapshot

log = logging.getLogger("cachd.cache")

LONGEST_NAP = 30.0
SHORTEST_NAP = 0.2
_AT_ONCE = 500


def interval_of(ref: Ref, rules: Sequence[RefreshRule]) -> float | None:
    """Seconds between looks, by the first rule that means the ref; None: never."""
    rule = rule_of(ref, rules)
    return None if rule is None else rule.every


def next_look(checked: float | None, first: float, every: float, chance: float) -> float:
    """When to look again. ``checked``: when somebody last did, None if nobody has since ``first``,
    which is when the ref was first met; then the looks are spread over a whole interval. ``chance``
    is the ref's own, from 0 to 1, for what was fetched together isn't to be looked at together."""
    if checked is None:
        return first + every * chance
    return checked + every * (0.9 + 0.2 * chance)


def principal_for(snapshot: StoredSnapshot) -> Principal | None:
    """Whose pass a refresh may use: the daemon's where that was what saw it; nobody's where none
    was needed; else there is none."""
    info = snapshot.info
    if info.identity == "daemon":
        return DAEMON
    return None if info.is_credentialed else ANONYMOUS


@dataclass(slots=True)
class _Entry:
    """What is remembered of a ref: when it was met and last used (monotonic), and its luck."""

    met: float
    used: float
    chance: float
    failed: float | None = None


class Refresher:
    """``start`` and ``stop``; ``note_use`` of what is asked for. ``board`` starts a fetch that
    nobody waits for."""

    def __init__(
        self,
        parts: Parts,
        board: Callable[[Asked, Plan], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._parts = parts
        self._board = board
        self._clock = clock
        self._chance = chance
        settings = parts.settings.freshness
        self._rules = settings.refresh
        self._unused = settings.refresh_unused
        self._entries: dict[Ref, _Entry] = {}
        self._looks = bool(self._rules) and not parts.settings.offline
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="refresh")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def note_use(self, ref: Ref) -> None:
        """Somebody asked for it and got it."""
        if self._rules:
            self._entry(ref).used = self._clock()

    def next_in(self, snapshot: StoredSnapshot) -> float | None:
        """Seconds until the ref is looked at; None: it isn't by itself."""
        if self._task is None or not self._looks:
            return None
        due = self._due(snapshot)
        return None if due is None else max(0.0, due - self._clock())

    def _entry(self, ref: Ref) -> _Entry:
        entry = self._entries.get(ref)
        if entry is None:
            now = self._clock()
            entry = self._entries[ref] = _Entry(now, now, self._chance())
        return entry

    def _due(self, snapshot: StoredSnapshot) -> float | None:
        every = interval_of(snapshot.ref, self._rules)
        if every is None or snapshot.info.is_immutable or principal_for(snapshot) is None:
            return None
        entry = self._entry(snapshot.ref)
        if self._unused and self._clock() - entry.used > self._unused:
            return None
        looked = [self._parts.freshness.checked_at(snapshot.ref), entry.failed]
        last = max((at for at in looked if at is not None), default=None)
        return next_look(last, entry.met, every, entry.chance)

    async def _run(self) -> None:
        shortest = min((rule.every for rule in self._rules), default=20 * LONGEST_NAP)
        nap = max(SHORTEST_NAP, min(LONGEST_NAP, shortest / 20))
        while True:
            await asyncio.sleep(nap)
            try:
                await self._parts.updates.move_due()
                if self._looks:
                    await self._sweep()
            except Exception:
                log.exception("a round of refreshing failed")

    async def _sweep(self) -> None:
        snapshots = [s for s in self._parts.store.snapshots() if s.is_current]
        known = {snapshot.ref for snapshot in snapshots}
        for ref in [ref for ref in self._entries if ref not in known]:
            del self._entries[ref]
        for count, snapshot in enumerate(snapshots):
            due = self._due(snapshot)
            if due is not None and due <= self._clock():
                await self.look(snapshot)
            elif count % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def look(self, snapshot: StoredSnapshot) -> None:
        """At one ref, now. Rules have one at a time: a node's refreshes never come at once."""
        entry = self._entry(snapshot.ref)
        entry.chance = self._chance()
        try:
            result = await self._refresh(snapshot)
        except CachdError as error:
            entry.failed = self._clock()
            result = "failed"
            log.warning("%s can't be refreshed: %s", snapshot.key, error.message)
        self._parts.metrics.refreshed(result)
        self._parts.events.publish("refresh", key=snapshot.key, result=result)

    async def _refresh(self, snapshot: StoredSnapshot) -> str:
        asked = self._asked(snapshot)
        if asked is None:
            self._entry(snapshot.ref).failed = self._clock()
            return "skipped"
        updates = self._parts.updates
        plan = await plan_unseen(asked, self._parts, 0.0)
        # It may have moved while the source was asked.
        snapshot = self._parts.store.current(snapshot.ref) or snapshot
        is_hearsay = bool(plan.mirror) and self._parts.upstreams.has_way_to_origins
        if plan.revision == snapshot.revision:
            if not is_hearsay:
                await updates.note(snapshot, plan.revision)
            return "unchanged"
        if is_hearsay:
            # Other validators at a mirror are no sign of a change at the origin.
            self._entry(snapshot.ref).failed = self._clock()
            return "skipped"
        if updates.holds(snapshot, plan):
            is_news = await updates.note(snapshot, plan.revision)
            if updates.wants(snapshot.ref, plan.revision):
                await self._board(asked, plan)
            return "changed" if is_news else "held"
        if await updates.take(snapshot, plan.revision) is not None:
            return "changed"
        rule, is_approved = (
            updates.rule(snapshot.ref),
            updates.is_approved(snapshot.ref, plan.revision),
        )
        if rule is not None and not rule.ahead and rule.move == "on_ready" and not is_approved:
            return "changed" if await updates.note(snapshot, plan.revision) else "held"
        await self._board(asked, plan)
        return "changed"

    def _asked(self, snapshot: StoredSnapshot) -> Asked | None:
        """The ask that means just this ref; None where nothing but its caller's options would."""
        ref, principal = snapshot.ref, principal_for(snapshot)
        if principal is None:
            return None
        ask = ask_for(ref, self._parts.resolver)
        if ask is None:
            return None
        _, location = locate(ask, self._parts.resolver)
        ask = replace(ask, priority="prefetch")
        return unseen(ask, ref, location, principal)
