"""Who named what: a registry that is down hides nothing of what it named before."""

from __future__ import annotations


class NamedBy:
    """Which registry named a ref, by name or URL. Memory only, bounded."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._known: dict[object, str] = {}

    def note(self, ref: object, registry: str) -> None:
        self._known.pop(ref, None)
        self._known[ref] = registry
        while len(self._known) > self._limit:
            del self._known[next(iter(self._known))]

    def of(self, ref: object) -> str:
        return self._known.get(ref, "")
