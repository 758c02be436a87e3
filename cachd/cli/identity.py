"""What a pod's identity in its cloud is to the client, whichever cloud it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Obtained:
    """``credentials`` of a request's body. ``expires`` in Unix time, None: nobody says."""

    credentials: dict[str, Any] = field(repr=False)
    expires: float | None = None


class Identity(Protocol):
    def obtain(self) -> Obtained:
        """Ask the service that vouches for it. Raises CachdErrors."""
