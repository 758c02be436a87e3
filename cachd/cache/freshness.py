"""When a ref was last looked at, and what the source then said. Monotonic time, memory only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.model import Ref
    from cachd.store.types import SnapshotInfo


class Freshness:
    """Ref → (revision, when). After a restart every moving ref is looked at once more."""

    def __init__(
        self, interval: float, *, limit: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._limit = limit
        self._clock = clock
        self._checked: dict[Ref, tuple[str, float]] = {}

    def record(self, ref: Ref, revision: str) -> None:
        self._checked.pop(ref, None)
        self._checked[ref] = (revision, self._clock())
        while len(self._checked) > self._limit:
            del self._checked[next(iter(self._checked))]

    def checked_at(self, ref: Ref) -> float | None:
        """When the source was last heard of the ref (monotonic); None: not since the start."""
        checked = self._checked.get(ref)
        return None if checked is None else checked[1]

    def age(self, ref: Ref) -> float | None:
        """Seconds since then."""
        checked = self.checked_at(ref)
        return None if checked is None else self._clock() - checked

    def is_fresh(self, ref: Ref, info: SnapshotInfo, revision: str) -> bool:
        """Whether the snapshot may be given without asking the source if it moved."""
        if info.is_immutable:
            return True
        checked = self._checked.get(ref)
        return (
            checked is not None
            and checked[0] == revision
            and self._clock() - checked[1] < self._interval
        )
