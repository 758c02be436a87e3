"""One ingest from its beginning to its end, on a disk that may be full or fail meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from cachd.errors import ContentError, DiskError, DiskFull, OriginChanged, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cachd.model import Plan, Ref
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
