"""What happened in the cache, for whoever follows along. A slow follower loses the oldest."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_BACKLOG = 1000


class EventBus:
    """Publishes dictionaries with ``time`` (RFC 3339) and ``event``; never blocks the publisher."""

    def __init__(self) -> None:
        self._followers: set[_Follower] = set()

    def publish(self, event: str, **data: Any) -> None:
        item = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        item.update(data)
        for follower in self._followers:
            follower.push(item)

    async def follow(self) -> AsyncGenerator[dict[str, Any]]:
        """Events from now on. Ends when the iteration is closed."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while True:
                yield await follower.pop()
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self) -> None:
        self._items: deque[dict[str, Any]] = deque(maxlen=_BACKLOG)
        self._arrived = asyncio.Event()
        self._lost = 0

    def push(self, item: dict[str, Any]) -> None:
        if len(self._items) == _BACKLOG:
            self._lost += 1
        self._items.append(item)
        self._arrived.set()

    async def pop(self) -> dict[str, Any]:
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        item = dict(self._items.popleft())
        if self._lost:
            item["lost"], self._lost = self._lost, 0
        return item
