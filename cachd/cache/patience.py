"""One ingest from its beginning to its end, on a disk that may be full or fail meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from cachd.errors import (
    ContentError,
    DeadlineExceeded,
    DiskError,
    DiskFull,
    OriginChanged,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from cachd.model import PartDone, Plan, Ref
    from cachd.store.ingest import Ingest
    from cachd.store.relief import Relief
    from cachd.store.store import Store

T = TypeVar("T")


async def in_ingest(
    store: Store, ref: Ref, plan: Plan, fill: Callable[[Ingest, Relief], Awaitable[T]]
) -> T:
    """What ``fill`` makes of an ingest of ``plan``. Where the disk was full and something could be
    let go it is done again, from where it stopped."""
    relief = store.relief(ref, plan)
    while True:
        try:
            return await _try(store, ref, plan, lambda ingest: fill(ingest, relief))
        except DiskError as error:
            await relief(error)


async def _try(store: Store, ref: Ref, plan: Plan, fill: Callable[[Ingest], Awaitable[T]]) -> T:
    ingest = await store.begin(ref, plan, source=ref.uri.partition("://")[0])
    try:
        return await fill(ingest)
    except OriginChanged:
        # The old state can't be completed any more: the source has moved on.
        await asyncio.shield(ingest.abort())
        raise
    except BaseException as error:
        # Bytes that are wrong would be resumed from for ever.
        is_spoilt = isinstance(error, (ContentError, StoreError))
        failed = isinstance(error, DiskError) and not isinstance(error, DiskFull)
        await asyncio.shield(ingest.abort() if is_spoilt else ingest.suspend(in_doubt=failed))
        raise


@contextlib.asynccontextmanager
async def in_time(key: str, seconds: float) -> AsyncIterator[None]:
    """What is inside ends within so many seconds, 0: when it will. Raises DeadlineExceeded."""
    limit = asyncio.timeout(seconds or None)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded(
            f"fetching {key} took longer than {seconds:g} s",
            hint="ask again: it goes on where it stopped; fetch.deadline sets the limit",
        ) from None


async def with_relief(
    relief: Relief,
    call: Callable[[], Awaitable[T]],
    unless: Callable[[], bool] = lambda: False,
) -> T:
    """What ``call`` gives; done again where the disk was full and something could be let go."""
    while True:
        try:
            return await call()
        except DiskFull as error:
            if unless():
                raise
            await relief(error)


def journal_of(
    ingest: Ingest, relief: Relief, mark: Callable[[Ingest], Awaitable[None]]
) -> Callable[[Sequence[PartDone]], Awaitable[None]]:
    """What writes finished parts down, after ``mark``, and waits where the disk is full."""

    async def write_down(done: Sequence[PartDone]) -> None:
        await mark(ingest)
        await ingest.record(done)

    async def journal(done: Sequence[PartDone]) -> None:
        await with_relief(relief, lambda: write_down(done))

    return journal
