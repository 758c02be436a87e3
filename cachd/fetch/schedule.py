"""Which unit of work goes next to a connection. Pure: no clock, no I/O.

Rules, in this order: the limits in all and per origin; the reserve, which only a model with nothing
running gets; the higher priority; of two models the one with fewer running units, then the one
served longest ago; within a model, small and big units in turn, whichever kind has fewer running,
so that neither waits for the end of the other.

The reserve is a quarter of all connections. So one model of a slow origin never holds them all. A
lower priority's connections don't count against a higher one's share, for they were given away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cachd.fetch.plan import Part

Priority = Literal["interactive", "prefetch", "scrub"]

_RANK: dict[Priority, int] = {"interactive": 0, "prefetch": 1, "scrub": 2}

BATCH_PARTS = 32
"""Most small files that one connection is given at once …"""

BATCH_BYTES = 2 * 1024 * 1024
"""… and most bytes of them together."""

SMALL_BYTES = 256 * 1024
"""A part below this is small: the round trip costs as much as its bytes."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one connection is given at once: one part, or a batch of small ones."""

    parts: tuple[Part, ...]
    is_small: bool = False


def make_units(parts: Iterable[Part]) -> list[Unit]:
    """Small parts grouped, the others alone; the order of each kind is kept."""
    units: list[Unit] = []
    batch: list[Part] = []
    batch_bytes = 0
    for part in parts:
        if part.length is None or part.length > SMALL_BYTES:
            units.append(Unit((part,)))
            continue
        if batch and (len(batch) == BATCH_PARTS or batch_bytes + part.length > BATCH_BYTES):
            units.append(Unit(tuple(batch), is_small=True))
            batch, batch_bytes = [], 0
        batch.append(part)
        batch_bytes += part.length
    if batch:
        units.append(Unit(tuple(batch), is_small=True))
    return units


@dataclass(slots=True)
class _Lane:
    """One model's waiting and running units."""

    origin: str
    priority: Priority
    served: int
    small: deque[Unit] = field(default_factory=deque)
    big: deque[Unit] = field(default_factory=deque)
    running_small: int = 0
    running_big: int = 0

    @property
    def running(self) -> int:
        return self.running_small + self.running_big

    @property
    def is_waiting(self) -> bool:
        return bool(self.small or self.big)

    def take(self) -> Unit:
        is_small = bool(self.small) and (not self.big or self.running_small <= self.running_big)
        if is_small:
            self.running_small += 1
            return self.small.popleft()
        self.running_big += 1
        return self.big.popleft()


def reserve_of(limit: int) -> int:
    """Of ``limit`` connections, those kept for models with nothing running."""
    return max(1, limit // 4) if limit > 1 else 0


class Scheduler:
    """Waiting units of all models, handed out one at a time.

    ``limit`` and ``limit_per_origin`` are running units, which is connections in use. ``has_room``
    says whether an origin may be called at all just now.
    """

    def __init__(
        self,
        limit: int,
        limit_per_origin: int,
        has_room: Callable[[str], bool] = lambda origin: True,
    ) -> None:
        self._limit = limit
        self._share = limit - reserve_of(limit)
        self._limit_per_origin = limit_per_origin
        self._has_room = has_room
        self._lanes: dict[str, _Lane] = {}
        self._running = 0
        self._by_origin: dict[str, int] = {}
        self._turn = 0

    def add(self, job: str, origin: str, priority: Priority, units: Iterable[Unit]) -> None:
        """Take up a model. Raises ValueError if it is there already."""
        if job in self._lanes:
            raise ValueError(f"job {job} is scheduled already")
        lane = self._lanes[job] = _Lane(origin, priority, self._turn)
        for unit in units:
            (lane.small if unit.is_small else lane.big).append(unit)

    def push(self, job: str, units: Sequence[Unit]) -> None:
        """Put units (of a failed part, say) before the others of their model, if it still runs."""
        lane = self._lanes.get(job)
        if lane is not None:
            for unit in reversed(units):
                (lane.small if unit.is_small else lane.big).appendleft(unit)

    def drop(self, job: str, file: int) -> None:
        """Forget the waiting parts of one file."""
        lane = self._lanes[job]
        for queue in (lane.small, lane.big):
            kept = []
            for unit in queue:
                parts = tuple(part for part in unit.parts if part.file != file)
                if parts:
                    kept.append(Unit(parts, unit.is_small))
            queue.clear()
            queue.extend(kept)

    def set_priority(self, job: str, priority: Priority) -> None:
        if job in self._lanes:
            self._lanes[job].priority = priority

    def next(self) -> tuple[str, Unit] | None:
        """The unit to start now; it counts as running until ``finish``."""
        if self._running >= self._limit:
            return None
        best: tuple[tuple[int, int, int], str] | None = None
        for job, lane in self._lanes.items():
            if not lane.is_waiting or self._is_full(lane.origin):
                continue
            if not self._has_room(lane.origin):
                continue
            if lane.running and self._held_by(lane.priority) >= self._share:
                continue
            rank = (_RANK[lane.priority], lane.running, lane.served)
            if best is None or rank < best[0]:
                best = (rank, job)
        if best is None:
            return None
        lane = self._lanes[best[1]]
        unit = lane.take()
        self._turn += 1
        lane.served = self._turn
        self._running += 1
        self._by_origin[lane.origin] = self._by_origin.get(lane.origin, 0) + 1
        return best[1], unit

    def _is_full(self, origin: str) -> bool:
        return self._by_origin.get(origin, 0) >= self._limit_per_origin

    def _held_by(self, priority: Priority) -> int:
        """Running units of this priority and of higher ones."""
        lower = (n.running for n in self._lanes.values() if _RANK[n.priority] > _RANK[priority])
        return self._running - sum(lower)

    def victims(self) -> list[str]:
        """Models each of which has to give one connection back now, one for each model that a
        person waits for, that has nothing running, and that finds all connections taken (in all,
        or its origin's). It is the one of lower priority that holds most."""
        running = {job: lane.running for job, lane in self._lanes.items()}
        found = []
        for lane in self._lanes.values():
            if lane.priority != "interactive" or lane.running or not lane.is_waiting:
                continue
            if not self._has_room(lane.origin):
                continue
            is_full = self._is_full(lane.origin)
            if not is_full and self._running < self._limit:
                continue
            candidates = [
                job
                for job, other in self._lanes.items()
                if running[job]
                and other.priority != "interactive"
                and (not is_full or other.origin == lane.origin)
            ]
            if candidates:
                victim = max(candidates, key=lambda job: (self._rank_of(job), running[job]))
                running[victim] -= 1
                found.append(victim)
        return found

    def _rank_of(self, job: str) -> int:
        return _RANK[self._lanes[job].priority]

    def finish(self, job: str, origin: str, unit: Unit) -> None:
        """A unit ended, well or badly; its model may be gone already."""
        self._running -= 1
        left = self._by_origin[origin] - 1
        if left:
            self._by_origin[origin] = left
        else:
            del self._by_origin[origin]
        lane = self._lanes.get(job)
        if lane is not None:
            if unit.is_small:
                lane.running_small -= 1
            else:
                lane.running_big -= 1

    def remove(self, job: str) -> None:
        """Forget a model's waiting units. Its running ones are given back by ``finish``."""
        self._lanes.pop(job, None)

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        """Units that no connection has yet."""
        return sum(len(lane.small) + len(lane.big) for lane in self._lanes.values())

    def running_of(self, job: str) -> int:
        lane = self._lanes.get(job)
        return lane.running if lane else 0
