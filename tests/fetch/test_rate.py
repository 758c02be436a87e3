"""Floors, caps, and what a disk says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import DiskError, DiskFull
from cachd.fetch.place import disk_error, open_place, write_at
from cachd.fetch.progress import Progress
from cachd.fetch.rate import StallWatch, TokenBucket

if TYPE_CHECKING:
    from pathlib import Path


@given(rate=st.integers(0, 3000), step=st.floats(0.05, 0.9))
def test_a_steady_rate_is_judged_right(rate: int, step: float) -> None:
    watch = StallWatch(1000, 10, 0.0)
    now, stalled = 0.0, False
    while now < 30:
        now += step
        stalled = stalled or watch.is_stalled(int(rate * step), now)
    if rate < 900:
        assert stalled
    if rate > 1100 + 1 / step:
        assert not stalled


def test_a_good_start_is_no_excuse_for_ever() -> None:
    watch = StallWatch(1000, 10, 0.0)
    assert not watch.is_stalled(10**9, 1.0)
    verdicts = [watch.is_stalled(0, 1.0 + i * 0.5) for i in range(1, 40)]
    assert True in verdicts
    assert verdicts.index(True) <= 24


def test_waiting_for_the_cap_is_not_the_origins_fault() -> None:
    watch = StallWatch(1000, 10, 0.0)
    for second in range(1, 100):
        watch.pause(0.99)
        assert not watch.is_stalled(20, float(second))


@given(
    rate=st.integers(1000, 10**9),
    counts=st.lists(st.integers(1, 10**7), min_size=1, max_size=50),
    gaps=st.data(),
)
def test_the_bucket_never_lets_through_more_than_its_rate(
    rate: int, counts: list[int], gaps: st.DataObject
) -> None:
    bucket = TokenBucket(rate)
    now = start = 100.0
    for count in counts:
        now += bucket.reserve(count, now)
    assert sum(counts) <= rate * (now - start) * 1.000001 + 1
    now += gaps.draw(st.floats(0, 5))
    assert bucket.reserve(1, now) <= 1 / rate + 1e-6


def test_no_cap_means_no_waiting() -> None:
    bucket = TokenBucket()
    assert bucket.take(10**12) == 0.0
    assert bucket.chunk > 10**6


def test_a_full_disk_is_told_from_a_broken_one() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(DiskFull):
            write_at(fd, memoryview(b"x"), 0, "f")
    finally:
        os.close(fd)
    assert type(disk_error(OSError(5, "Input/output error"), "f")) is DiskError


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(DiskError), open_place(str(tmp_path), "link"):
        pass


def test_rate_and_eta() -> None:
    now = [0.0]
    progress = Progress(clock=lambda: now[0])
    progress.total = 1000
    assert progress.eta is None
    for second in range(6):
        now[0] = float(second)
        progress.note(second * 100)
    assert progress.rate == pytest.approx(100)
    assert progress.eta == pytest.approx(5)
    now[0] = 60.0
    assert progress.rate < 20
