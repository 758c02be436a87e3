"""The scrub gives way to fetches, keeps to its budget, and goes on where it was."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cachd.cache import scrub as module
from cachd.cache.events import EventBus
from cachd.cache.scrub import Scrub
from cachd.settings import LeaseSettings, Settings, StoreSettings
from cachd.store.checks import Checks
from cachd.store.store import Store
from tests.store.dying import flip
from tests.store.models import Model, number, publish, sized

BLOCK = 8 << 20
MODELS = [
    Model(f"s3://bucket/{i}", {"a": sized(2 * BLOCK, i), "b": sized(BLOCK + 5, i + 10)}, number(i))
    for i in range(3)
]
WHOLE = 3 * (3 * BLOCK + 5)


class Counting:
    """Metrics of the store."""

    def __init__(self) -> None:
        self.bytes = 0

    def evicted(self, reason: str, count: int) -> None: ...

    def scrub(self, what: str, count: int) -> None:
        if what == "scrub_bytes":
            self.bytes += count


class FakeTime:
    """Sleeping takes no time but this clock's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Any = lambda: None

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()
        await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    metrics = Counting()
    store = Store(
        tmp_path / "root",
        StoreSettings(quota="1GiB", free_floor="0", watch_interval=3600),
        LeaseSettings(),
        metrics=metrics,
    )
    await store.open()
    for model in MODELS:
        await publish(store, model)
    clock = FakeTime()
    settings = Settings.model_validate({"scrub": {"rate": BLOCK, "interval": 1e-9}})
    parts: Any = SimpleNamespace(settings=settings, store=store, events=EventBus())
    asking: Any = SimpleNamespace(flights={})
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    fakes = {name: getattr(asyncio, name) for name in ("create_task", "wait")}
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=clock.sleep, **fakes))
    began = max(row.checked_at for row in store._index.snapshots.values())
    yield SimpleNamespace(
        began=began,
        scrub=Scrub(parts, asking),
        store=store,
        clock=clock,
        asking=asking,
        metrics=metrics,
    )
    await store.close()


async def until_read(world: Any, count: int) -> None:
    """One round, that a fetch ends when ``count`` bytes were read."""

    def look() -> None:
        if world.metrics.bytes >= count:
            world.asking.flights["a fetch"] = None

    world.clock.on_sleep = look
    world.asking.flights.clear()
    look()
    await world.scrub._round(1e-9)


async def test_a_round_keeps_to_the_budget(world: Any) -> None:
    await until_read(world, WHOLE)
    assert world.metrics.bytes >= WHOLE
    # A block at the beginning is free, the rest takes a second for each 8 MiB.
    assert world.metrics.bytes <= BLOCK * (world.clock.now + 1) + 1


async def test_a_fetch_stops_it_at_once_and_it_goes_on_where_it_was(world: Any) -> None:
    await until_read(world, 2 * BLOCK)
    read = world.metrics.bytes
    assert 2 * BLOCK <= read <= 3 * BLOCK
    progress = world.store.checks.progress
    assert progress.at != ("", 0)
    began = progress.key
    await until_read(world, 0)
    assert world.metrics.bytes == read
    assert progress.key == began
    await until_read(world, WHOLE - 1)
    # What was read before the fetch is not read again: the first three come to the whole.
    assert WHOLE - 1 <= world.metrics.bytes <= WHOLE + BLOCK
    assert world.store.usage().scrub_pass > 0


async def test_an_end_of_the_daemon_loses_one_look_at_most(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 2 * BLOCK)
    task = asyncio.create_task(world.scrub._round(1e-9))

    def stop() -> None:
        if world.metrics.bytes >= WHOLE - BLOCK:
            task.cancel()

    world.clock.on_sleep = stop
    await asyncio.wait({task})
    assert task.cancelled()
    read = world.metrics.bytes
    checks = Checks(world.store._open.context, world.store.quarantine)
    await checks.load()
    checks.close()
    begun = [m for m in MODELS if m.key == checks.progress.key]
    assert checks.progress.at == ("b", 0)
    done = sum(world.store.get(m.key).checked_at > world.began for m in MODELS)
    assert read - (done * (3 * BLOCK + 5) + 2 * BLOCK) <= 2 * BLOCK
    assert begun


async def test_a_verification_goes_before_it(world: Any) -> None:
    events = world.scrub.verify(None, with_repair=False, rate=0)
    async for event in events:
        if event["event"] != "ready":
            await world.scrub._round(1e-9)
    assert event["ok"]
    assert (event["snapshots"], event["bytes"]) == (3, WHOLE)
    assert world.metrics.bytes == WHOLE


async def test_what_could_not_be_repaired_is_tried_again_less_and_less(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    async def fail(parts: Any, asking: Any, key: str, revision: str) -> str:
        tries.append(world.clock.now)
        return "its source is away"

    monkeypatch.setattr(module, "repair", fail)
    snapshot = world.store.get(MODELS[0].key)
    flip(snapshot.tree / "b", 7)
    async for event in world.scrub.verify(MODELS[0].key, with_repair=True, rate=0):
        last = event
    assert (last["ok"], last["findings"][0]["reason"]) == (False, "its source is away")
    for _ in range(1000):
        world.clock.now += 10
        await world.scrub._retry()
    gaps = [b - a for a, b in pairwise(tries)]
    # It looks every half minute.
    assert all(0 <= gap - wait <= 30 for gap, wait in zip(gaps, (60, 120, 240), strict=False))
    assert 3600 <= max(gaps) <= 3600 + 30
    world.asking.flights["a fetch"] = None
    count = len(tries)
    world.clock.now += 4000
    await world.scrub._retry()
    assert len(tries) == count
