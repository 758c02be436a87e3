"""Acting on what ``retry.decide`` says of failed parts of one job."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from cachd.errors import Cancelled, DiskFull
from cachd.fetch.plan import Part
from cachd.fetch.retry import RetryPolicy, decide
from cachd.fetch.schedule import make_units

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from cachd.errors import CachdError
    from cachd.fetch.job import FetchJob
    from cachd.fetch.schedule import Unit

REFRESHES_MOST = 16
"""Times that credentials are asked for without any part having succeeded in between."""


class Recovery:
    """``push`` puts units back to the scheduler; ``spawn`` runs a coroutine that the job owns;
    ``fail`` ends the job."""

    def __init__(
        self,
        job: FetchJob,
        policy: RetryPolicy,
        *,
        push: Callable[[list[Unit]], None],
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        set_clock: Callable[[float], None],
        retried: Callable[[str], None],
        restream: Callable[[int], None],
        fail: Callable[[CachdError], None],
    ) -> None:
        self._job = job
        self._policy = policy
        self._push = push
        self._spawn = spawn
        self._set_clock = set_clock
        self._retried = retried
        self._restream = restream
        self._fail = fail
        self._attempts: dict[tuple[int, int], int] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._parked: list[Part] = []
        self._refresh: asyncio.Task[None] | None = None
        self._refreshes = 0
        self._starved: list[Part] = []
        self._waits_for_room = False
        self.generation = 0

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def note_success(self) -> None:
        self._refreshes = 0

    def note_auth(self) -> None:
        """Other credentials are in use from now on."""
        self.generation += 1

    def failed(self, part: Part, advanced: int, error: CachdError, generation: int) -> None:
        """``part`` failed after its first ``advanced`` bytes were kept; ``generation`` is that of
        the credentials it used."""
        if isinstance(error, Cancelled):
            # Its connection was taken for another model, which is no failure of anybody.
            self._push(make_units([_rest(part, advanced)]))
            return
        key = (part.file, part.offset)
        attempts = 1 if advanced else self._attempts.get(key, 0) + 1
        part = _rest(part, advanced)
        self._attempts[(part.file, part.offset)] = attempts
        if isinstance(error, DiskFull):
            self._job.on_retry(error.code, error)
            self._ask_for_room(part, error)
            return
        decision = decide(error, attempts=attempts, policy=self._policy, random=random.random)
        if decision.action == "fail":
            self._fail(error)
            return
        self._retried(error.code)
        self._job.on_retry(error.code, error)
        if decision.action == "restream":
            self._restream(part.file)
        elif decision.action == "adjust_clock":
            self._set_clock(float(error.detail["clock_offset"]))
            self._push(make_units([part]))
        elif decision.action == "refresh":
            self._attempts[(part.file, part.offset)] = attempts - 1
            self._ask_for_auth(part, error, generation)
        elif decision.delay <= 0:
            self._push(make_units([part]))
        else:
            self._push_later([part], decision.delay)

    def _push_later(self, parts: Sequence[Part], delay: float) -> None:
        def act() -> None:
            self._timers.discard(timer)
            self._push(make_units(parts))

        timer = asyncio.get_running_loop().call_later(delay, act)
        self._timers.add(timer)

    def _ask_for_auth(self, part: Part, error: CachdError, generation: int) -> None:
        if generation < self.generation:
            self._push(make_units([part]))
            return
        self._parked.append(part)
        if self._refresh is None:
            self._refreshes += 1
            if self._refreshes > REFRESHES_MOST:
                self._fail(error)
                return
            self._refresh = self._spawn(self._get_auth(), "refresh")

    def _ask_for_room(self, part: Part, error: DiskFull) -> None:
        """The others go on meanwhile, and nothing that is in place is fetched again."""
        self._starved.append(part)
        if not self._waits_for_room:
            self._waits_for_room = True
            self._retried(error.code)
            self._spawn(self._get_room(error), "room")

    async def _get_room(self, error: DiskFull) -> None:
        try:
            await self._job.make_room(error)
        finally:
            self._waits_for_room = False
        parts, self._starved = self._starved, []
        self._push(make_units(parts))

    async def _get_auth(self) -> None:
        try:
            auth = await self._job.refresh_auth()
        finally:
            self._refresh = None
        self._job.set_auth(auth)
        parts, self._parked = self._parked, []
        self._push(make_units(parts))


def _rest(part: Part, advanced: int) -> Part:
    if not advanced or part.length is None:
        return part
    return Part(part.file, part.offset + advanced, part.length - advanced)
