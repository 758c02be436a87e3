"""Quota, floor, watermarks: who goes, who stays, and what is said when nobody may."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from typing import Any

import pytest

from cachd.errors import InUse, ModelUnknown, NoSpace, TooLarge
from cachd.store.observe import NoMetrics
from tests.store.models import (
    MIB,
    ManualClock,
    fill,
    listing,
    named,
    names,
    number,
    publish,
    read_back,
)

SIZE = 2 * MIB


class Counter(NoMetrics):
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def evicted(self, reason: str, count: int) -> None:
        self.seen.append((reason, count))


async def test_the_least_recently_used_goes(
    make_store: Any, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    counter = Counter()
    store = await make_store(clock=clock, quota="7MiB", metrics=counter)
    for name in "abc":
        await publish(store, named(name))
        clock.advance(10)
    store.touch(named("a").key, number(1))
    with caplog.at_level(logging.INFO, "cachd.store"):
        await publish(store, named("d"))
    assert names(store) == {"a", "c", "d"}
    assert [reason for reason, _ in counter.seen] == ["quota"]
    assert counter.seen[0][1] >= SIZE
    line = next(r.getMessage() for r in caplog.records if "evicted" in r.getMessage())
    assert named("b").key in line
    assert "reason quota" in line
    assert "idle 20 s" in line


async def test_the_quota_holds_at_every_moment(make_store: Any) -> None:
    store = await make_store(quota="7MiB")
    sizes = []
    for round_ in range(6):
        await publish(store, named(f"m{round_}"))
        sizes.append(store.usage().allocated + store.usage().reserved)
        on_disk = subprocess.run(
            ["du", "-s", "--block-size=1", store.root / "snapshots"],
            capture_output=True,
            check=True,
        )
        assert int(on_disk.stdout.split()[0]) <= 7 * MIB
    assert max(sizes) <= 7 * MIB


async def test_leased_pinned_and_read_models_stay(make_store: Any) -> None:
    store = await make_store(quota="9MiB")
    for name in "abcd":
        await publish(store, named(name))
    await store.lease(named("a").key, None, "pod", 60)
    await store.pin(named("b").key)
    with store.reading(named("c").key, number(1)):
        await publish(store, named("e"))
        assert names(store) == {"a", "b", "c", "e"}
        await store.lease(named("e").key, None, "pod", 60)
        with pytest.raises(NoSpace) as caught:
            await publish(store, named("f"))
    error = caught.value
    assert not isinstance(error, TooLarge)
    assert error.retryable
    assert {holder["what"] for holder in error.detail["held_by"]} == {"lease", "pin", "reader"}
    assert error.detail["needed"] >= SIZE
    assert error.detail["quota"] == 9 * MIB
    assert 0 < error.detail["shortfall"] <= SIZE + 64 * 1024
    assert error.hint
    assert names(store) == {"a", "b", "c", "e"}
    assert listing(store.root / "ingest") == []
    assert store.usage().reserved == 0
    await publish(store, named("f"))
    assert names(store) == {"a", "b", "e", "f"}


async def test_what_can_never_fit_is_said_at_once(make_store: Any) -> None:
    store = await make_store(quota="4MiB")
    await publish(store, named("a"))
    with pytest.raises(TooLarge) as caught:
        await publish(store, named("huge", size=5 * MIB))
    assert not caught.value.retryable
    assert names(store) == {"a"}
    plan = store.plan_space(5 * MIB)
    assert not plan.fits
    assert plan.is_never
    assert plan.ceiling == 4 * MIB


async def test_a_dry_run_says_what_the_real_one_does(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, quota="7MiB")
    for name in "abc":
        await publish(store, named(name))
        clock.advance(1)
    plan = store.plan_space(SIZE, 3)
    assert plan.fits
    assert [victim.uri for victim in plan.victims] == ["s3://bucket/a"]
    assert plan.victims[0].bytes >= SIZE
    assert names(store) == {"a", "b", "c"}
    await publish(store, named("d"))
    assert names(store) == {"b", "c", "d"}


async def test_old_revisions_go_before_current_models(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, quota="9MiB")
    await publish(store, named("a"))
    clock.advance(5)
    for revision in (1, 2):
        await publish(store, named("b", revision))
        clock.advance(5)
    store.touch(named("b").key, number(1))
    await publish(store, named("c", size=3 * MIB))
    assert names(store) == {"a", "b", "c"}
    assert store.get(named("b").key).revision == number(2)
    assert store.get(named("b").key, number(1)) is None


async def test_old_revisions_are_collected_when_idle_and_unleased(
    make_store: Any, clock: ManualClock
) -> None:
    counter = Counter()
    store = await make_store(clock=clock, min_idle=60, metrics=counter)
    await publish(store, named("a", 1))
    lease = await store.lease(named("a").key, number(1), "pod", 10_000)
    await publish(store, named("a", 2))
    clock.advance(1000)
    await store.tidy()
    assert len(store.snapshots()) == 2
    await store.release(lease.id)
    await store.tidy()
    assert len(store.snapshots()) == 2  # it was in use until just now
    clock.advance(61)
    await store.tidy()
    assert [snapshot.revision for snapshot in store.snapshots()] == [number(2)]
    assert [reason for reason, _ in counter.seen] == ["superseded"]


async def test_one_big_cold_model_goes_rather_than_it_and_small_ones(
    make_store: Any, clock: ManualClock
) -> None:
    store = await make_store(clock=clock, quota="10MiB")
    for name, size in (("small1", MIB), ("small2", MIB), ("big", 6 * MIB)):
        await publish(store, named(name, size=size))
        clock.advance(10)
    await publish(store, named("new", size=6 * MIB))
    assert names(store) == {"small1", "small2", "new"}


async def test_watermarks_are_kept_in_the_background(make_store: Any, clock: ManualClock) -> None:
    counter = Counter()
    store = await make_store(
        clock=clock,
        quota="10MiB",
        high_watermark=70.0,
        low_watermark=50.0,
        min_idle=60,
        metrics=counter,
    )
    for name in "abcd":
        await publish(store, named(name))
        clock.advance(1)
    await store.watch()
    assert names(store) == {"a", "b", "c", "d"}  # all used a moment ago
    clock.advance(58)
    await store.watch()
    assert names(store) == {"c", "d"}
    assert {reason for reason, _ in counter.seen} == {"watermark"}
    assert store.usage().allocated <= store.usage().low_watermark
    await store.watch()
    assert names(store) == {"c", "d"}


async def test_an_unfinished_ingest_expires(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, partial_ttl=100)
    ingest = await store.begin(named("a").ref, named("a").plan, source="s3")
    clock.advance(1000)
    await store.tidy()
    assert listing(store.root / "ingest") != []  # it has a writer
    await ingest.suspend()
    clock.advance(99)
    await store.tidy()
    assert listing(store.root / "ingest") != []
    clock.advance(2)
    await store.tidy()
    assert listing(store.root / "ingest") == []
    assert store.usage().allocated == 0


async def test_a_suspended_ingest_makes_way(make_store: Any) -> None:
    store = await make_store(quota="4MiB")
    ingest = await store.begin(named("a").ref, named("a").plan, source="s3")
    await fill(ingest, named("a"))
    await ingest.suspend()
    await publish(store, named("b", size=3 * MIB))
    assert names(store) == {"b"}
    assert listing(store.root / "ingest") == []


async def test_concurrent_begins_never_promise_the_same_bytes(make_store: Any) -> None:
    store = await make_store(quota="7MiB")
    for name in "abc":
        await publish(store, named(name))
    results = await asyncio.gather(
        *(store.begin(named(f"n{i}").ref, named(f"n{i}").plan, source="s3") for i in range(6)),
        return_exceptions=True,
    )
    ingests = [result for result in results if not isinstance(result, BaseException)]
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(ingests) == 3
    assert all(isinstance(error, NoSpace) for error in refused)
    assert store.usage().allocated + store.usage().reserved <= 7 * MIB
    for ingest in ingests:
        await ingest.abort()


async def test_growing_beyond_the_quota_is_refused_and_harms_nothing(make_store: Any) -> None:
    store = await make_store(quota="6MiB")
    await publish(store, named("a"))
    ingest = await store.begin(named("b").ref, named("b").plan, source="s3")
    with pytest.raises(TooLarge):
        await ingest.grow(7 * MIB)
    assert names(store) == {"a"}
    await ingest.grow(3 * MIB)
    assert names(store) == set()
    with pytest.raises(NoSpace):
        await ingest.grow(3 * MIB)
    await fill(ingest, named("b"))
    await ingest.commit(named("b").manifest_files, metadata={})
    assert names(store) == {"b"}


async def test_remove(make_store: Any) -> None:
    store = await make_store()
    for revision in (1, 2):
        await publish(store, named("a", revision))
    key = named("a").key
    lease = await store.lease(key, None, "pod", 60)
    with pytest.raises(InUse, match="lease"):
        await store.remove(key)
    await store.release(lease.id)
    await store.pin(key)
    with pytest.raises(InUse, match="pin"):
        await store.remove(key)
    await store.lease(key, None, "pod", 60)
    freed = await store.remove(key, force=True)
    assert freed >= 2 * SIZE - 65536
    assert store.snapshots() == []
    assert store.leases() == []
    assert not store.is_pinned(key)
    for place in ("snapshots", "current", "trash", "state/leases", "state/pins", "blobs/sha256"):
        assert listing(store.root / place) == [], place
    with pytest.raises(ModelUnknown):
        await store.remove(key)


async def test_remove_leaves_what_is_being_fetched(make_store: Any) -> None:
    store = await make_store()
    await publish(store, named("a", 1))
    ingest = await store.begin(named("a", 2).ref, named("a", 2).plan, source="s3")
    with pytest.raises(InUse, match="ingest"):
        await store.remove(named("a").key)
    await store.remove(named("a").key, force=True)
    await fill(ingest, named("a", 2))
    snapshot = await ingest.commit(named("a", 2).manifest_files, metadata={})
    assert read_back(snapshot) == named("a", 2).content


async def test_collect(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, quota="20MiB", high_watermark=60.0, low_watermark=50.0)
    await publish(store, named("a", 1))
    for name, revision in (("a", 2), ("b", 1), ("c", 1)):
        await publish(store, named(name, revision))
        clock.advance(1)
    await store.pin(named("a").key)
    report = await store.collect(dry_run=True, target=None)
    assert [(v.uri[-1], v.reason) for v in report.evicted] == [("a", "superseded")]
    assert len(store.snapshots()) == 4
    report = await store.collect(dry_run=False, target=0)
    assert [(v.uri[-1], v.reason) for v in report.evicted] == [
        ("a", "superseded"),
        ("b", "requested"),
        ("c", "requested"),
    ]
    assert names(store) == {"a"}
    assert report.freed >= 2 * SIZE
