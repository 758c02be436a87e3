"""When an origin is left alone, probed, and called as ever. No clock, no network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import (
    AccessError,
    CachdError,
    DiskFull,
    EgressForbidden,
    NotFound,
    OriginBusy,
    OriginChanged,
    OriginError,
    OriginStalled,
    OriginTls,
    OriginUnreachable,
)
from cachd.fetch.breaker import Breaker, BreakerPolicy, verdict_of

POLICY = BreakerPolicy(failures=3, base=1.0, most=8.0, full=4)


def fail(
    breaker: Breaker, now: float, verdict: str = "bad", ticket: int = 0, **more: float
) -> bool:
    return breaker.failed(ticket, verdict, "no", now, random=lambda: 0.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "received", "verdict"),
    [
        (None, 0, "good"),
        (OriginBusy("x"), 0, "busy"),
        (OriginUnreachable("x"), 0, "bad"),
        (OriginUnreachable("x"), 10, "neutral"),
        (OriginStalled("x"), 0, "bad"),
        (OriginError("x", status=502), 0, "bad"),
        (OriginError("x", status=418), 0, "neutral"),
        (OriginError("x"), 0, "neutral"),
        (OriginTls("x"), 0, "neutral"),
        (OriginChanged("x"), 0, "good"),
        (AccessError("x"), 0, "good"),
        (EgressForbidden("x"), 0, "neutral"),
        (NotFound("x"), 0, "good"),
        (DiskFull("x"), 0, "neutral"),
    ],
)
def test_verdicts(error: CachdError | None, received: int, verdict: str) -> None:
    assert verdict_of(error, received) == verdict


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(POLICY)
    assert not fail(breaker, 0)
    assert not fail(breaker, 0)
    breaker.good(0)
    assert not fail(breaker, 0)
    assert not fail(breaker, 0)
    assert fail(breaker, 0)
    assert (breaker.state, breaker.room(0.5), breaker.opens_in(0.5)) == ("open", 0, 0.5)


def test_busy_opens_it_at_once_for_as_long_as_it_says() -> None:
    breaker = Breaker(POLICY)
    assert fail(breaker, 10, "busy", retry_after=7)
    assert breaker.opens_in(10) == 7
    # Another answer of the same moment asks for more, and doesn't count again.
    assert not fail(breaker, 11, "busy", retry_after=20)
    assert (breaker.opens_in(11), breaker.fruitless) == (20, 1)
    assert not fail(breaker, 12, "bad")
    assert breaker.opens_in(12) == 19


def test_holds_double_up_to_the_longest() -> None:
    breaker = Breaker(POLICY)
    now, holds = 0.0, []
    for _ in range(3):
        fail(breaker, now)
    for _ in range(5):
        holds.append(breaker.opens_in(now))
        now = breaker.until
        ticket = breaker.begin()
        assert breaker.room(now) == 0
        assert fail(breaker, now, ticket=ticket)
    assert holds == [1, 2, 4, 8, 8]
    assert breaker.fruitless == 6


def test_it_comes_back_in_growing_steps() -> None:
    breaker = Breaker(POLICY)
    fail(breaker, 0, "busy", retry_after=1)
    assert breaker.room(1) == 1
    tickets = [breaker.begin()]
    widths = []
    while breaker.state == "half_open":
        for ticket in tickets:
            breaker.good(ticket)
            breaker.end(ticket)
        widths.append(breaker.room(1))
        tickets = [breaker.begin() for _ in range(min(4, breaker.room(1)))]
    assert widths[:2] == [2, 4]
    assert breaker.state == "closed"


def test_what_began_before_it_opened_neither_closes_nor_opens_it() -> None:
    breaker = Breaker(POLICY)
    old = breaker.begin()
    fail(breaker, 0, "busy", old, retry_after=1)
    breaker.good(old)
    assert breaker.state == "open"
    probe = breaker.begin()
    assert not fail(breaker, 1, "busy", old)
    breaker.end(old)
    assert (breaker.state, breaker.room(1)) == ("half_open", 0)
    breaker.good(probe)
    breaker.end(probe)
    assert breaker.room(1) == 2


@given(st.lists(st.sampled_from(["good", "busy", "bad", "begin", "wait"]), max_size=60))
def test_never_more_than_one_probe_and_never_stuck(steps: list[str]) -> None:
    breaker, now = Breaker(POLICY), 0.0
    running: list[int] = []
    for step in steps:
        if step == "wait":
            now += 1
        elif step == "begin":
            was_open = breaker.state == "open"
            if breaker.room(now) > 0:
                running.append(breaker.begin())
                assert not (was_open and breaker.room(now) > 0)
        elif running:
            ticket = running.pop(0)
            if step == "good":
                breaker.good(ticket)
            else:
                fail(breaker, now, step, ticket)
            breaker.end(ticket)
    for ticket in running:
        breaker.end(ticket)
    assert breaker.room(now + POLICY.most + 1) > 0
