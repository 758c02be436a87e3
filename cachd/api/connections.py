"""How many connections the pods' socket has at once, in all and for each uid: pods that hold idle
ones must not use up the daemon's descriptors, which the administrators' socket needs as well."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, cast

from aiohttp import web

from cachd.api.identity import peer_of
from cachd.api.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from cachd.metrics import Metrics

log = logging.getLogger("cachd.api")

ACCEPTS = 64
"""Connections accepted in one go, before the first of them is counted."""

LOG_INTERVAL = 1.0


def effective_limit(wanted: int) -> int:
    """``wanted`` connections, or half of the open files that the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


class Gate:
    """Counts connections: at most ``limit``, and three quarters of it for one uid."""

    def __init__(
        self, limit: int, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.limit_of_uid = max(1, limit * 3 // 4)
        self._metrics = metrics
        self._clock = clock
        self._count = 0
        self._of_uid: Counter[int] = Counter()
        self._told = float("-inf")

    def enter(self, uid: int) -> bool:
        """Whether a connection of ``uid`` may stay; then ``leave`` follows it."""
        reason: Literal["all", "uid"]
        if self._count >= self.limit:
            reason = "all"
        elif self._of_uid[uid] >= self.limit_of_uid:
            reason = "uid"
        else:
            self._count += 1
            self._of_uid[uid] += 1
            return True
        self._metrics.refused(reason)
        now = self._clock()
        if now - self._told >= LOG_INTERVAL:
            self._told = now
            log.warning(
                "a connection of uid %d was closed at once: the pods' socket has %d connections, "
                "%d of them from that uid (listen.max_connections, effectively %d)",
                uid,
                self._count,
                self._of_uid[uid],
                self.limit,
            )
        return False

    def leave(self, uid: int) -> None:
        """A connection that entered has ended."""
        self._count -= 1
        self._of_uid[uid] -= 1
        if not self._of_uid[uid]:
            del self._of_uid[uid]


class _Connection(web.RequestHandler):
    """A connection that the gate has let in, or one that is closed before a byte is read."""

    __slots__ = ("_gate", "_uid")

    def __init__(self, server: web.Server, gate: Gate, options: dict[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._gate = gate
        self._uid: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _, uid, _ = peer_of(transport.get_extra_info("socket"))
        if not self._gate.enter(uid):
            cast("asyncio.Transport", transport).abort()
            return
        self._uid = uid
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        uid, self._uid = self._uid, None
        if uid is not None:
            self._gate.leave(uid)
            super().connection_lost(exc)


async def serve_limited(
    runner: web.AppRunner, sock: socket.socket, gate: Gate, options: dict[str, Any]
) -> asyncio.Server:
    """Serve ``runner`` at the Unix socket ``sock`` for as many as ``gate`` lets in. ``options`` are
    those of the runner's own connections. Whoever calls closes what this returns."""
    server = runner.server
    assert server is not None, "the runner is not set up"
    serving = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server, gate, options), sock=sock, backlog=ACCEPTS
    )
    # The event loop takes the backlog for the number of connections to accept in one go.
    sock.listen(BACKLOG)
    return serving
