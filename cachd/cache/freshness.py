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

    def seen(self, ref: Ref) -> str | None:
        """The revision that the source had a moment ago; None: it is to be asked again."""
        checked = self._checked.get(ref)
        if checked is None or self._clock() - checked[1] >= self._interval:
            return None
        return checked[0]

    def is_fresh(self, ref: Ref, info: SnapshotInfo, revision: str) -> bool:
        """Whether the snapshot may be given without asking the source if it moved."""
        return info.is_immutable or self.seen(ref) == revision
