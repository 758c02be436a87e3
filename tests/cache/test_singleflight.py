"""One running call per key; a waiter that goes cancels nothing while others wait."""

from __future__ import annotations

import asyncio

import pytest

from cachd.cache.singleflight import SingleFlight


async def test_callers_of_one_key_share_one_call():
    calls = []
    go = asyncio.Event()

    async def call():
        mine = object()
        calls.append(mine)
        await go.wait()
        return mine

    flight = SingleFlight()
    waiters = [asyncio.create_task(flight.run("k", call)) for _ in range(100)]
    other = asyncio.create_task(flight.run("other", call))
    while len(calls) < 2:
        await asyncio.sleep(0)
    go.set()
    answers = set(await asyncio.gather(*waiters))
    assert len(answers) == 1
    assert await other not in answers
    assert len(calls) == 2


async def test_a_failure_reaches_every_waiter_and_the_next_call_is_new():
    async def fail():
        raise ValueError("no")

    async def succeed():
        return 1

    flight = SingleFlight()
    results = await asyncio.gather(
        *(flight.run("k", fail) for _ in range(3)), return_exceptions=True
    )
    assert [type(r) for r in results] == [ValueError] * 3
    assert await flight.run("k", succeed) == 1


async def test_one_waiter_going_leaves_the_call_to_the_others():
    go = asyncio.Event()

    async def call():
        await go.wait()
        return "done"

    flight = SingleFlight()
    first = asyncio.create_task(flight.run("k", call))
    second = asyncio.create_task(flight.run("k", call))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert await second == "done"


async def test_the_last_waiter_going_cancels_the_call_and_nobody_joins_it():
    cancelled = asyncio.Event()
    calls = 0

    async def call():
        nonlocal calls
        calls += 1
        if calls == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                await asyncio.sleep(0)
                raise
        return calls

    flight = SingleFlight()
    only = asyncio.create_task(flight.run("k", call))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    assert await flight.run("k", call) == 2
    assert cancelled.is_set()
