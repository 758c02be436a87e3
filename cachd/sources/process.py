"""The resolver process: ``python -m cachd.sources.process FD``. Hosts the sources, so that their
libraries and their memory stay out of the daemon, and go when nobody needs them.

In: ``{"settings": …}`` once, then ``{"id", "call", "request", "file"?}`` and ``{"id", "cancel"}``.
Out: ``{"id", "result"}`` or ``{"id", "error"}``, in any order; before a long plan's result
``{"id", "files"}`` with most of its files, so that no message keeps the daemon's loop for long. It
ends when its channel closes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from cachd.channel import ChildStreams
from cachd.errors import CachdError, Cancelled, InternalError
from cachd.settings import SourcesSettings
from cachd.sources import wire
from cachd.sources.base import SourceContext
from cachd.sources.egress import EgressGuard
from cachd.sources.registry import Registry

if TYPE_CHECKING:
    from cachd.channel import Message

FILES_AT_ONCE = 2000
"""Most files of a plan in one message."""

_log = logging.getLogger(__name__)


class Host:
    """Answers the calls of one channel, each in a task of its own."""

    def __init__(self, channel: ChildStreams, settings: SourcesSettings) -> None:
        self._channel = channel
        self._registry = Registry()
        self._context = SourceContext(
            settings=settings, egress=EgressGuard(settings.egress), environ=os.environ
        )
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until the channel closes."""
        try:
            while (message := await self._channel.receive()) is not None:
                self._take(message)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._registry.aclose()

    def _take(self, message: Message) -> None:
        number = int(message["id"])
        if message.get("cancel"):
            task = self._tasks.get(number)
            if task is not None:
                task.cancel()
            return
        task = asyncio.create_task(self._answer(number, message))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, message: Message) -> None:
        answer: Message
        try:
            result = await self._call(message)
            if message["call"] == "resolve":
                await self._send_ahead(number, result)
            answer = {"id": number, "result": result}
        except CachdError as error:
            answer = {"id": number, "error": error.to_wire()}
        except asyncio.CancelledError:
            answer = {"id": number, "error": Cancelled("the call was cancelled").to_wire()}
        except Exception as error:
            # The traceback names code and types; an exception's text may quote a signed URL.
            _log.warning("%s failed: %s", message.get("call"), describe(error))
            answer = {
                "id": number,
                "error": InternalError(
                    f"a source failed with {type(error).__name__}",
                    hint="the daemon's log has the place; please report it",
                ).to_wire(),
            }
        try:
            await self._channel.send(answer)
        except (TypeError, ValueError) as error:
            # A source gave what can't be written: half a character, say.
            _log.warning("%s gave no answer: %s", message.get("call"), describe(error))
            problem = InternalError("a source's answer can't be passed on")
            await self._channel.send({"id": number, "error": problem.to_wire()})

    async def _send_ahead(self, number: int, plan: dict[str, Any]) -> None:
        files = plan["files"]
        last = max(0, len(files) - 1) // FILES_AT_ONCE * FILES_AT_ONCE
        for first in range(0, last, FILES_AT_ONCE):
            ahead = files[first : first + FILES_AT_ONCE]
            await self._channel.send({"id": number, "files": ahead})
        plan["files"] = files[last:]

    async def _call(self, message: Message) -> Any:
        request = wire.request_from_json(message["request"])
        source = self._registry.source(request.location.scheme)
        match message["call"]:
            case "resolve":
                return wire.plan_to_json(await source.resolve(request, self._context))
            case "probe":
                await source.probe(request, message["file"], self._context)
                return None
            case "name":
                named = await source.name(request, self._context)  # type: ignore[attr-defined]
                return wire.target_to_json(named)
            case "authorize":
                return wire.auth_to_json(await source.authorize(request, self._context))
            case call:
                raise InternalError(f"the resolver process doesn't know the call {call!r}")


def describe(error: BaseException) -> str:
    """Type and places of an exception, without its text."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' < '.join(reversed(places[-6:]))}"


async def _main() -> None:
    channel = await ChildStreams.from_arguments()
    try:
        first = await channel.receive()
        if first is not None:
            await Host(channel, SourcesSettings.model_validate_json(first["settings"])).run()
    finally:
        await channel.close()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Their warnings may quote URLs and headers.
    for name in ("aiobotocore", "botocore", "aiohttp", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(_main())


if __name__ == "__main__":
    main()
