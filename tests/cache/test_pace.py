"""Never more bytes than the budget, by the clock that the budget is told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.pace import Budget

BLOCK = 8 << 20

steps = st.lists(
    st.tuples(st.integers(1, BLOCK), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=60
)


@given(st.integers(1 << 10, 1 << 30), steps)
def test_no_window_has_more_than_its_share_and_a_block(
    rate: int, reads: list[tuple[int, float]]
) -> None:
    """``reads``: sizes, and how long the reader did something else before."""
    budget, now = Budget(rate), 0.0
    done: list[tuple[float, int]] = []
    for size, pause in reads:
        now += pause
        delay = budget.take(size, now)
        assert delay >= 0
        now += delay
        done.append((now, size))
    for first, (start, _) in enumerate(done):
        total = 0
        for when, size in done[first:]:
            total += size
            assert total <= rate * (when - start) * (1 + 1e-9) + BLOCK + 1


@given(steps)
def test_without_a_rate_nothing_waits(reads: list[tuple[int, float]]) -> None:
    budget = Budget(0)
    assert all(budget.take(size, when) == 0 for size, when in reads)


def test_a_steady_reader_gets_just_the_rate() -> None:
    budget, now = Budget(BLOCK), 50.0
    for _ in range(100):
        now += budget.take(BLOCK, now)
    assert now == 50.0 + 99
