"""The daemon's side of the sources: finds the source of a URI, and has its calls made by the
resolver process, which is started on demand and ended when idle."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any

from cachd.channel import Child
from cachd.errors import CachdError, OriginUnreachable, WorkerDied
from cachd.sources import wire
from cachd.sources.patterns import check_patterns
from cachd.sources.registry import Registry, split_scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.channel import Message
    from cachd.credentials import SourceOptions
    from cachd.model import Auth, Plan
    from cachd.settings import SourcesSettings
    from cachd.sources.base import Location, SourceRequest, Target

MADE_HERE = 2000
"""Files of a plan up to which the event loop makes it; a thread does with more."""

CANCEL_PATIENCE = 3.0
"""Seconds that the process has to give up a call, before it counts as stuck and is killed."""


class Resolver:
    """Calls at sources. ``start`` does nothing costly: the process comes with the first call.

    A process that dies fails its calls, and each is made once more by a new one; a second death is
    WorkerDied. ``environ`` is what ``locate`` looks at; the process inherits the daemon's own.
    """

    def __init__(
        self,
        settings: SourcesSettings,
        *,
        metrics: object | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._registry = Registry()
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._busy = 0
        self._endings: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """Ready for calls."""
        self._stopped = False

    async def stop(self) -> None:
        """End the process; calls under way fail with WorkerDied. Takes a few seconds at most."""
        self._stopped = True
        self._disarm()
        if self._opening is not None:
            await asyncio.wait({self._opening})
        if self._link is not None:
            self._end(self._link)
        if self._endings:
            await asyncio.wait(set(self._endings))

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme that is known."""
        return self._registry.schemes

    @property
    def pid(self) -> int | None:
        """The resolver process, None while there is none."""
        return self._link.child.pid if self._link is not None else None

    def locate(self, uri: str, options: SourceOptions) -> Location:
        """Where ``uri`` leads. Pure. Raises UriInvalid, SchemeUnknown."""
        _, plain = split_scheme(uri)
        source = self._registry.source(self._registry.name_of(plain))
        return source.locate(plain, options, self._settings, self._environ)

    async def resolve(self, request: SourceRequest) -> Plan:
        """What the request's URI means now. Raises what ``Source.resolve`` does, PatternInvalid,
        OriginUnreachable after ``resolve_timeout`` seconds, WorkerDied."""
        check_patterns(request.allow, "allow")
        check_patterns(request.ignore, "ignore")
        data = await self._call("resolve", request)
        if len(data["files"]) > MADE_HERE:
            return await asyncio.to_thread(wire.plan_from_json, data)
        return wire.plan_from_json(data)

    async def name(self, request: SourceRequest) -> Target:
        """What the one registry of the request's location says that its URI names."""
        return wire.target_from_json(await self._call("name", request))

    async def probe(self, request: SourceRequest, plan_file: str) -> None:
        """Returns only if the request's caller may read ``plan_file`` at the source."""
        await self._call("probe", request, file=plan_file)

    async def authorize(self, request: SourceRequest) -> Auth:
        """Fresh credentials for a fetch that runs."""
        return wire.auth_from_json(await self._call("authorize", request))

    async def _call(self, call: str, request: SourceRequest, **more: Any) -> Any:
        message = {"call": call, "request": wire.request_to_json(request), **more}
        self._busy += 1
        self._disarm()
        try:
            async with asyncio.timeout(self._settings.resolve_timeout):
                try:
                    return await (await self._connected()).call(message)
                except WorkerDied:
                    if self._stopped:
                        raise
                    return await (await self._connected()).call(message)
        except TimeoutError:
            raise OriginUnreachable(
                f"{request.location.origin} gave no answer within "
                f"{self._settings.resolve_timeout:g} s",
                hint="is it slow, or the model very large? See sources.resolve_timeout",
            ) from None
        finally:
            self._busy -= 1
            self._arm()

    async def _connected(self) -> _Link:
        """The process; callers who come together share its start, and none of them cancels it."""
        if self._stopped:
            raise WorkerDied("the resolver is stopped")
        if self._link is not None and self._link.is_alive:
            return self._link
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_consume)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Link:
        try:
            if self._link is not None:
                self._end(self._link)
            child = await Child.spawn("cachd.sources.process")
            child.send({"settings": self._settings.model_dump_json()})
            self._link = _Link(child)
            return self._link
        finally:
            self._opening = None

    def _arm(self) -> None:
        if not self._busy and not self._stopped and self._link is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._settings.resolver_idle, self._end_idle)

    def _disarm(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end_idle(self) -> None:
        self._idle = None
        if not self._busy and self._link is not None:
            self._end(self._link)

    def _end(self, link: _Link) -> None:
        if self._link is link:
            self._link = None
        ending = asyncio.get_running_loop().create_task(link.stop())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)


class _Link:
    """One process and the calls that wait for it."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._given_up: dict[int, asyncio.TimerHandle] = {}
        self._files: dict[int, list[Any]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def is_alive(self) -> bool:
        return not self._reading.done()

    async def call(self, message: Message) -> Any:
        """The result. Raises the CachdError that the process sent, WorkerDied if it ends."""
        if not self.is_alive:
            raise _died()
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting[number] = answer
        self.child.send({"id": number, **message})
        try:
            return await answer
        except asyncio.CancelledError:
            self._files.pop(number, None)
            if self._waiting.pop(number, None) is not None and self.is_alive:
                self.child.send({"id": number, "cancel": True})
                self._given_up[number] = loop.call_later(CANCEL_PATIENCE, self.child.kill)
            raise

    async def stop(self) -> None:
        """End the process; bounded."""
        await self.child.stop(patience=CANCEL_PATIENCE)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reading), CANCEL_PATIENCE)

    async def _read(self) -> None:
        try:
            while (message := await self.child.receive()) is not None:
                self._take(message)
        finally:
            for timer in self._given_up.values():
                timer.cancel()
            self._given_up.clear()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_died())
            self._waiting.clear()

    def _take(self, message: Message) -> None:
        number = int(message["id"])
        if "files" in message:
            if number in self._waiting:
                self._files.setdefault(number, []).extend(message["files"])
            return
        ahead = self._files.pop(number, None)
        timer = self._given_up.pop(number, None)
        if timer is not None:
            timer.cancel()
        answer = self._waiting.pop(number, None)
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(CachdError.from_wire(message["error"]))
        else:
            result = message["result"]
            if ahead is not None:
                result["files"] = ahead + result["files"]
            answer.set_result(result)


def _died() -> WorkerDied:
    return WorkerDied(
        "the resolver process ended while it was asked",
        hint="was it killed for its memory? The daemon's log has its last words",
    )


def _consume(task: asyncio.Task[_Link]) -> None:
    """A failed start whose callers all went away is nobody's any more."""
    if not task.cancelled():
        task.exception()
