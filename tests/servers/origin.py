"""An HTTP server in this process whose answers a test writes, for what real servers won't do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from tests.servers.ports import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable


class Origin:
    """``url`` has no slash at the end; ``seen`` holds each request's method, target and headers."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[tuple[str, str, dict[str, str]]] = []


@asynccontextmanager
async def serve(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
    host: str = LOOPBACK,
) -> AsyncIterator[Origin]:
    """A server on a free port that answers every request by ``handler``."""

    async def record(request: web.BaseRequest) -> web.StreamResponse:
        origin.seen.append((request.method, request._message.path, dict(request.headers)))
        return await handler(request)

    runner = web.ServerRunner(web.Server(record), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    origin = Origin(f"{'https' if tls else 'http'}://{host}:{port}")
    try:
        yield origin
    finally:
        await runner.cleanup()
        # Closed transports let go of their sockets in the loop's next rounds.
        for _ in range(5):
            await asyncio.sleep(0)
