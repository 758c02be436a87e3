"""Callers at an origin's gate: who waits, who is told at once, and how many go first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from cachd.errors import NotFound, OriginBusy, OriginUnreachable
from cachd.fetch.gates import ORIGINS_REMEMBERED, Gates
from cachd.settings import FetchSettings

ORIGIN = "https://models.example"


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    made = Gates(FetchSettings(backoff_base=0.1, backoff_max=0.2, breaker_failures=3, attempts=2))
    yield made
    made.close()


def busy(seconds: float) -> OriginBusy:
    return OriginBusy("it is busy", retry_after=seconds)


async def test_a_call_waits_and_is_made_again_within_its_patience(gates: Gates) -> None:
    tries = 0

    async def act() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise busy(0.1)
        return "there"

    assert await gates.call(ORIGIN, 5.0, act) == "there"
    assert tries == 3


async def test_a_call_beyond_its_patience_is_refused_at_once(gates: Gates) -> None:
    gates.judge(ORIGIN, gates.begin(ORIGIN), busy(30))

    async def act() -> None:
        raise AssertionError("the origin is to be left alone")

    began = time.monotonic()
    for patience in (0.0, 5.0):
        with pytest.raises(OriginBusy) as caught:
            await gates.call(ORIGIN, patience, act)
        assert 29 < (caught.value.retry_after or 0) <= 31
    assert time.monotonic() - began < 4
    assert gates.describe()[ORIGIN]["state"] == "open"


async def test_fifty_that_wait_come_back_one_by_one(gates: Gates) -> None:
    gates.judge(ORIGIN, gates.begin(ORIGIN), busy(0.1))
    running = most = ended = 0
    widths: list[int] = []

    async def act() -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        widths.append(running)
        await asyncio.sleep(0.01)
        running -= 1
        ended += 1

    await asyncio.gather(*(gates.call(ORIGIN, 10.0, act) for _ in range(50)))
    assert ended == 50
    # The probe was alone; then two ran, and four, however many waited.
    assert widths[:3] == [1, 1, 2]
    assert max(widths[3:7]) <= 4


async def test_what_is_no_fault_of_the_origin_closes_nothing(gates: Gates) -> None:
    async def act() -> None:
        raise NotFound("there is no such model")

    for _ in range(10):
        with pytest.raises(NotFound):
            await gates.call(ORIGIN, 0.0, act)
    assert gates.has_room(ORIGIN)


async def test_models_end_when_it_was_tried_in_vain(gates: Gates) -> None:
    gone = OriginUnreachable("no connection")
    refusals = []
    for _ in range(2):
        while not gates.has_room(ORIGIN):
            await asyncio.sleep(0.01)
        while gates.has_room(ORIGIN):
            ticket = gates.begin(ORIGIN)
            refusals.append(gates.judge(ORIGIN, ticket, gone))
            gates.end(ORIGIN, ticket)
    assert [r is not None for r in refusals] == [False, False, False, True]
    assert isinstance(refusals[-1], OriginUnreachable)


async def test_a_cancelled_probe_lets_the_next_one_go(gates: Gates) -> None:
    gates.judge(ORIGIN, gates.begin(ORIGIN), busy(0))
    entered = asyncio.Event()

    async def hang() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def act() -> str:
        return "there"

    probe = asyncio.create_task(gates.call(ORIGIN, 5.0, hang))
    await entered.wait()
    waiting = asyncio.create_task(gates.call(ORIGIN, 5.0, act))
    await asyncio.sleep(0)
    assert not gates.has_room(ORIGIN)
    probe.cancel()
    assert await waiting == "there"
    with pytest.raises(asyncio.CancelledError):
        await probe


async def test_origins_are_forgotten(gates: Gates) -> None:
    for number in range(3 * ORIGINS_REMEMBERED):
        gates.judge(f"https://h{number}", 0, busy(60))
    assert len(gates.describe()) <= ORIGINS_REMEMBERED + 1
