"""Places for fetches: who waits goes first, prefetches never take them all."""

from __future__ import annotations

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from cachd.cache.resolve import choose_probes
from cachd.cache.slots import Slots, Turns
from cachd.model import PlannedFile


class Holder:
    def __init__(self, slots: Slots, priority: str) -> None:
        self.priority = priority
        self.is_in = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.create_task(self.hold(slots))

    async def hold(self, slots: Slots) -> None:
        async with slots.taken(lambda: self.priority):
            self.is_in.set()
            await self.go.wait()

    async def leave(self) -> None:
        self.go.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_prefetches_leave_a_place_and_the_waiting_goes_first():
    slots = Slots(4)
    prefetches = [Holder(slots, "prefetch") for _ in range(5)]
    await settle()
    assert [h.is_in.is_set() for h in prefetches] == [True, True, True, False, False]
    first, second = Holder(slots, "interactive"), Holder(slots, "interactive")
    await settle()
    assert (first.is_in.is_set(), second.is_in.is_set()) == (True, False)
    await prefetches[0].leave()
    await settle()
    assert second.is_in.is_set()
    assert not prefetches[3].is_in.is_set()
    prefetches[3].priority = "interactive"
    await first.leave()
    await settle()
    assert prefetches[3].is_in.is_set()
    for holder in [*prefetches[1:], second]:
        await holder.leave()
    assert slots.waiting == 0


async def test_who_gives_up_waiting_leaves_no_trace():
    slots = Slots(1)
    one, two, three = (Holder(slots, "interactive") for _ in range(3))
    await settle()
    two.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await two.task
    one.go.set()
    await settle()
    assert three.is_in.is_set()
    three.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await three.task
    four = Holder(slots, "prefetch")
    await settle()
    assert four.is_in.is_set()
    await four.leave()


class First:
    def choice(self, files):
        return files[-1]


PATHS = st.lists(st.text("ab/", min_size=1, max_size=8), unique=True, max_size=60)


@given(PATHS, st.data())
def test_probes_stand_for_the_model(paths, data):
    files = [PlannedFile(path=path, url="", size=data.draw(st.integers(0, 9))) for path in paths]
    chosen = choose_probes(files, First())
    assert set(chosen) <= set(paths)
    assert len(chosen) == len(set(chosen)) <= 8
    if files:
        assert max(files, key=lambda f: f.size).path in chosen
        assert files[-1].path in chosen


async def test_one_caller_takes_a_quarter_of_the_turns():
    turns = Turns(8)

    async def hold(whose: object) -> None:
        async with turns.taken(whose):
            inside.append(whose)
            await go.wait()

    inside: list[object] = []
    go = asyncio.Event()
    tasks = [asyncio.create_task(hold("greedy")) for _ in range(6)]
    await settle()
    assert inside == ["greedy"] * 2
    # They wait without being in the way of others, and the daemon is no caller.
    tasks += [asyncio.create_task(hold(whose)) for whose in ("one", "other", None, None, None, 7)]
    await settle()
    assert inside == ["greedy"] * 2 + ["one", "other", None, None, None, 7]
    tasks.append(asyncio.create_task(hold("late")))
    await settle()
    assert turns.waiting == 5
    # Who waited longest comes first once there is room, whoever it is that leaves.
    tasks[0].cancel()
    await settle()
    assert inside[8:] == ["greedy"]
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(map(str, inside)) == sorted(
        ["greedy"] * 6 + ["one", "other", "None", "None", "None", "7", "late"]
    )
    assert turns.waiting == 0
