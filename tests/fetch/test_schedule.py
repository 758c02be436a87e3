"""The scheduler: limits, no idle connection while there is work, nobody starves."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cachd.fetch.plan import Part
from cachd.fetch.schedule import (
    BATCH_BYTES,
    BATCH_PARTS,
    SMALL_BYTES,
    Scheduler,
    Unit,
    make_units,
    reserve_of,
)

LENGTHS = st.lists(st.one_of(st.none(), st.integers(1, 4 * SMALL_BYTES)), max_size=200)


@given(lengths=LENGTHS)
def test_units_hold_every_part_once(lengths: list[int | None]) -> None:
    parts = [Part(i, 0, length) for i, length in enumerate(lengths)]
    units = make_units(parts)
    assert sorted(p.file for u in units for p in u.parts) == list(range(len(parts)))
    for unit in units:
        assert len(unit.parts) <= BATCH_PARTS
        if len(unit.parts) > 1:
            assert sum(p.length or 0 for p in unit.parts) <= BATCH_BYTES


JOBS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["interactive", "prefetch", "scrub"]),
        st.integers(0, 12),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=5,
)


def units_of(small: int, big: int) -> list[Unit]:
    return [Unit((Part(i, 0, 1),), is_small=True) for i in range(small)] + [
        Unit((Part(100 + i, 0, 1 << 24),)) for i in range(big)
    ]


@given(jobs=JOBS, limit=st.integers(1, 8), per_origin=st.integers(1, 8), data=st.data())
def test_limits_hold_and_work_is_conserved(
    jobs: list[tuple[str, Any, int, int]], limit: int, per_origin: int, data: st.DataObject
) -> None:
    scheduler = Scheduler(limit, per_origin)
    waiting: Counter[str] = Counter()
    origins = {}
    for index, (origin, priority, small, big) in enumerate(jobs):
        name = f"j{index}"
        origins[name] = origin
        scheduler.add(name, origin, priority, units_of(small, big))
        waiting[name] = small + big
    running: deque[tuple[str, Unit]] = deque()
    while sum(waiting.values()) or running:
        found = scheduler.next()
        used = Counter(origins[name] for name, _ in running)
        if found is None:
            free = [n for n, count in waiting.items() if count and used[origins[n]] < per_origin]
            held = Counter(name for name, _ in running)
            if len(running) < limit:
                # What is left is the reserve, and nobody waits who has nothing.
                assert all(held[name] for name in free)
                assert len(running) >= limit - reserve_of(limit) or not free
            assert running
            running.rotate(data.draw(st.integers(0, len(running))))
            name, unit = running.popleft()
            scheduler.finish(name, origins[name], unit)
            continue
        name, unit = found
        waiting[name] -= 1
        running.append(found)
        assert len(running) <= limit
        assert used[origins[name]] + 1 <= per_origin
        assert scheduler.running == len(running)
        held = Counter(name for name, _ in running)
        assert max(held.values()) <= max(1, limit - reserve_of(limit))
    assert scheduler.waiting == 0


def test_models_share_fairly() -> None:
    scheduler = Scheduler(8, 8)
    for name in "abc":
        scheduler.add(name, "o", "prefetch", units_of(0, 50))
    assert Counter(scheduler.next()[0] for _ in range(6)) == {"a": 2, "b": 2, "c": 2}  # type: ignore[index]


def test_a_waiting_person_goes_first() -> None:
    scheduler = Scheduler(10, 10)
    scheduler.add("p", "o", "prefetch", units_of(0, 5))
    scheduler.add("i", "o", "interactive", units_of(0, 3))
    assert [scheduler.next()[0] for _ in range(4)] == ["i", "i", "i", "p"]  # type: ignore[index]
    scheduler.set_priority("p", "interactive")
    scheduler.push("i", units_of(0, 1))
    assert scheduler.next()[0] == "p"  # type: ignore[index]


@given(small=st.integers(1, 40), big=st.integers(1, 40), limit=st.integers(3, 8))
def test_neither_kind_waits_for_the_end_of_the_other(small: int, big: int, limit: int) -> None:
    scheduler = Scheduler(limit, limit)
    scheduler.add("a", "o", "interactive", units_of(small, big))
    first = [scheduler.next() for _ in range(limit - reserve_of(limit))]
    kinds = {found[1].is_small for found in first if found}
    assert kinds == {True, False}


def test_a_dropped_file_and_a_removed_model() -> None:
    scheduler = Scheduler(4, 4)
    scheduler.add("a", "o", "interactive", make_units([Part(1, 0, 5), Part(2, 0, 5)]))
    scheduler.drop("a", 1)
    found = scheduler.next()
    assert found is not None
    assert [p.file for p in found[1].parts] == [2]
    scheduler.remove("a")
    scheduler.push("a", [found[1]])
    scheduler.finish("a", "o", found[1])
    assert (scheduler.running, scheduler.waiting) == (0, 0)


def take_all(scheduler: Scheduler) -> list[tuple[str, Unit]]:
    taken = []
    while (found := scheduler.next()) is not None:
        taken.append(found)
    return taken


def test_a_reserve_is_for_those_who_have_nothing() -> None:
    scheduler = Scheduler(16, 16)
    scheduler.add("slow", "o", "prefetch", units_of(0, 100))
    assert len(take_all(scheduler)) == 12
    scheduler.add("asked", "p", "interactive", units_of(0, 100))
    # A lower priority's connections don't count against it.
    assert Counter(job for job, _ in take_all(scheduler)) == {"asked": 4}
    assert scheduler.victims() == []


def test_one_is_taken_back_for_whoever_waits_with_nothing() -> None:
    scheduler = Scheduler(8, 8)
    for name in ("a", "b", "c"):
        scheduler.add(name, "o", "prefetch", units_of(0, 100))
    taken = take_all(scheduler)
    assert len(taken) == 6
    scheduler.add("s", "o", "scrub", units_of(0, 9))
    scheduler.add("d", "o", "prefetch", units_of(0, 9))
    taken += take_all(scheduler)
    assert len(taken) == 8
    scheduler.add("asked", "p", "interactive", units_of(0, 9))
    assert scheduler.next() is None
    assert scheduler.victims() == ["s"]
    scheduler.set_priority("s", "interactive")
    (victim,) = scheduler.victims()
    assert victim in {"a", "b", "c"}
    unit = next(unit for job, unit in taken if job == victim)
    scheduler.push(victim, [unit])
    scheduler.finish(victim, "o", unit)
    assert [job for job, _ in take_all(scheduler)] == ["asked"]
    assert scheduler.victims() == []


@given(jobs=JOBS, limit=st.integers(1, 8), per_origin=st.integers(1, 8))
def test_nobody_who_waits_with_nothing_waits_for_a_prefetch(
    jobs: list[tuple[str, Any, int, int]], limit: int, per_origin: int
) -> None:
    scheduler = Scheduler(limit, per_origin)
    origins: dict[str, str] = {}
    running: list[tuple[str, Unit]] = []
    for index, (origin, _, small, big) in enumerate(jobs):
        origins[f"p{index}"] = origin
        scheduler.add(f"p{index}", origin, "prefetch", units_of(small, big))
        running += take_all(scheduler)
    origins["asked"] = "a"
    scheduler.add("asked", "a", "interactive", units_of(0, 1))
    running += take_all(scheduler)
    while not any(job == "asked" for job, _ in running):
        (victim,) = scheduler.victims()
        found = next(one for one in running if one[0] == victim)
        running.remove(found)
        scheduler.push(victim, [found[1]])
        scheduler.finish(victim, origins[victim], found[1])
        before = len(running)
        running += take_all(scheduler)
        assert running[before][0] == "asked"
    assert scheduler.victims() == []
