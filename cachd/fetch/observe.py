"""What the fetch tells a metrics module; the default tells nobody."""

from __future__ import annotations

from typing import Protocol


class FetchMetrics(Protocol):
    """``source`` is a scheme (s3, http, https), ``cause`` the code of an error: bounded labels."""

    def received(self, source: str, count: int, place: str = "origin") -> None:
        """``count`` more body bytes came from an origin, a mirror or an upstream, wasted ones
        included."""

    def retried(self, cause: str) -> None:
        """A part is tried again."""

    def connections(self, count: int) -> None:
        """Connections in use now."""

    def waiting(self, count: int) -> None:
        """Units of work that no connection has yet."""

    def workers(self, count: int) -> None:
        """Worker processes now."""

    def worker_died(self) -> None:
        """A worker process ended by itself, or was killed because it hung."""

    def breaker(self, state: str) -> None:
        """An origin's breaker went to ``state``: open, half_open, closed."""

    def held(self, cause: str, seconds: float) -> None:
        """An origin was left alone for so long, because it was ``busy`` or ``unreachable``."""

    def origins_held(self, count: int) -> None:
        """Origins that are left alone now."""


class NoMetrics:
    """Tells nobody."""

    def received(self, source: str, count: int, place: str = "origin") -> None: ...

    def retried(self, cause: str) -> None: ...

    def connections(self, count: int) -> None: ...

    def waiting(self, count: int) -> None: ...

    def workers(self, count: int) -> None: ...

    def worker_died(self) -> None: ...

    def breaker(self, state: str) -> None: ...

    def held(self, cause: str, seconds: float) -> None: ...

    def origins_held(self, count: int) -> None: ...
