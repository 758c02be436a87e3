"""NDJSON: a line as things happen, a heartbeat while nothing does, an error as last line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from cachd.api import context, problem, wire
from cachd.errors import CachdError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

log = logging.getLogger("cachd.api")

NDJSON = "application/x-ndjson"
HEARTBEAT = 5.0
"""Seconds after which an idle stream says that it lives."""

WRITE_TIMEOUT = 60.0
"""Seconds that a reader may leave its socket full before it is cut off."""


def wants_ndjson(request: web.Request) -> bool:
    return NDJSON in request.headers.get("Accept", "").lower()


async def send_lines(
    request: web.Request, lines: AsyncGenerator[Mapping[str, Any], None], *, ends_on_drain: bool
) -> web.StreamResponse:
    """Stream ``lines`` to their end; closes the generator on every way out.

    An error before the first line is raised, so that it has its own HTTP status; later it becomes
    the last line. ``ends_on_drain``: the stream has no end of its own.
    """
    response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
    writer = _Writer(request, response)
    drain = context.parts(request).drain
    async with contextlib.aclosing(lines):
        try:
            await _pump(lines, writer, drain.wait_begun if ends_on_drain else None)
        except CachdError as error:
            if not writer.is_begun:
                raise
            await writer.fail(problem.told(error, context.facts(request).request_id))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            if not writer.is_begun:
                raise
            log.exception("unexpected error in a stream")
            await writer.fail(problem.internal(context.facts(request).request_id))
    await writer.end()
    return response


async def _pump(lines: AsyncGenerator[Mapping[str, Any], None], writer: _Writer, stop: Any) -> None:
    stopping = asyncio.create_task(stop(), name="api-stream-drain") if stop else None
    following: asyncio.Task[Mapping[str, Any]] | None = None
    try:
        while True:
            following = asyncio.create_task(_next(lines), name="api-stream-next")
            waited = {following, stopping} if stopping else {following}
            while not following.done():
                done, _ = await asyncio.wait(
                    waited, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED
                )
                if following not in done and stopping in done:
                    return
                if not done:
                    await writer.heartbeat()
            try:
                line = following.result()
            except StopAsyncIteration:
                return
            except _End:
                return
            await writer.line(line)
    finally:
        for task in (following, stopping):
            if task is not None:
                await _settle(task)


class _End(Exception):
    """The generator is through (a task can't end with StopAsyncIteration)."""


async def _next(lines: AsyncGenerator[Mapping[str, Any], None]) -> Mapping[str, Any]:
    try:
        return await anext(lines)
    except StopAsyncIteration:
        raise _End from None


async def _settle(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end, whatever it ends with."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class _Writer:
    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._started = time.monotonic()
        self.is_begun = False

    async def line(self, line: Mapping[str, Any]) -> None:
        if not self.is_begun:
            await self.begin()
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._response.write(wire.dumps(line))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the reader of a stream stopped reading") from None
        if line.get("event") == "ready":
            # The caller has its answer, and may go before the end of the chunked body.
            context.facts(self._request).log["status"] = self._response.status

    async def begin(self) -> None:
        self.is_begun = True
        await self._response.prepare(self._request)

    async def heartbeat(self) -> None:
        elapsed = round(time.monotonic() - self._started, 3)
        await self.line({"event": "heartbeat", "elapsed": elapsed})

    async def fail(self, error: CachdError) -> None:
        facts = context.facts(self._request)
        facts.log["code"] = error.code
        facts.log["status"] = problem.lookup(type(error))[0]
        await self.line({"event": "error", **problem.to_problem(error, facts.request_id)})

    async def end(self) -> None:
        if not self.is_begun:
            await self.begin()
        await self._response.write_eof()
