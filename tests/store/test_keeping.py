"""Pins, leases and last uses, also over a restart."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest

from cachd.errors import InvalidError, LeaseUnknown, ModelUnknown, NotReady, TooManyLeases
from cachd.settings import LeaseSettings
from tests.store.models import MIB, ManualClock, Model, listing, number, publish, sized


def model(name: str, revision: int = 1) -> Model:
    return Model(f"s3://bucket/{name}", {"m": sized(MIB, revision)}, number(revision))


A = model("a")


async def test_a_lease_is_found_by_its_id_alone(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock)
    await publish(store, A)
    lease = await store.lease(A.key, None, "default/pod-1", 60)
    assert (lease.key, lease.revision, lease.holder) == (A.key, A.revision, "default/pod-1")
    assert lease.ttl == lease.expires_in == 60
    assert len(lease.id) >= 32
    clock.advance(20)
    found = store.find_lease(lease.id)
    assert found is not None
    assert found.expires_in == 40
    assert store.find_lease(lease.handle) is None
    assert store.find_lease("") is None
    assert [(each.id, each.handle) for each in store.leases()] == [("", lease.handle)]
    assert store.leases("0" * 16) == []
    assert lease.id not in repr(lease)


async def test_the_id_is_never_on_disk(make_store: Any) -> None:
    store = await make_store()
    await publish(store, A)
    lease = await store.lease(A.key, None, "pod", 60)
    (path,) = (store.root / "state" / "leases").iterdir()
    assert path.name == hashlib.sha256(lease.id.encode()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert lease.id not in path.read_text()
    assert json.loads(path.read_text())["holder"] == "pod"


async def test_a_lease_expires_unless_renewed(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock)
    await publish(store, A)
    short = await store.lease(A.key, None, "short", 10)
    long = await store.lease(A.key, None, "long", 10)
    clock.advance(9)
    renewed = await store.renew(long.id, 100)
    assert (renewed.ttl, renewed.expires_in) == (100, 100)
    clock.advance(1)
    assert store.find_lease(short.id) is None
    await store.expire_leases()
    assert [lease.holder for lease in store.leases()] == ["long"]
    assert len(listing(store.root / "state" / "leases")) == 1
    with pytest.raises(LeaseUnknown):
        await store.renew(short.id)
    clock.advance(50)
    await store.renew(long.id)
    clock.advance(99)
    await store.expire_leases()
    assert store.find_lease(long.id) is not None
    clock.advance(1)
    await store.expire_leases()
    assert store.leases() == []
    assert listing(store.root / "state" / "leases") == []


async def test_leases_expire_by_themselves(make_store: Any) -> None:
    store = await make_store()
    await publish(store, A)
    await store.lease(A.key, None, "pod", 0.05)
    async with asyncio.timeout(10):
        while store.leases():
            await asyncio.sleep(0.05)


async def test_a_wall_clock_that_jumps_ends_no_lease(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock)
    await publish(store, A)
    lease = await store.lease(A.key, None, "pod", 60)
    clock.wall += 1e7
    await store.expire_leases()
    assert store.find_lease(lease.id) is not None


async def test_released_by_id_or_by_handle(make_store: Any) -> None:
    store = await make_store()
    await publish(store, A)
    first = await store.lease(A.key, None, "pod", 60)
    second = await store.lease(A.key, A.revision, "pod", 60)
    await store.release(first.id)
    await store.release(second.handle)
    assert store.leases() == []
    with pytest.raises(LeaseUnknown):
        await store.release(first.id)


@pytest.mark.parametrize("ttl", [0, -1, 101, float("nan"), float("inf")])
async def test_a_ttl_out_of_bounds_is_refused(make_store: Any, ttl: float) -> None:
    store = await make_store(leases=LeaseSettings(ttl=50, max_ttl=100))
    await publish(store, A)
    with pytest.raises(InvalidError) as caught:
        await store.lease(A.key, None, "pod", ttl)
    assert caught.value.field == "ttl"
    assert store.leases() == []
    assert (await store.lease(A.key, None, "pod", None)).ttl == 50


async def test_what_is_not_here_can_be_neither_leased_nor_pinned(make_store: Any) -> None:
    store = await make_store()
    with pytest.raises(ModelUnknown):
        await store.lease("0" * 16, None, "pod", 60)
    with pytest.raises(ModelUnknown):
        await store.pin("0" * 16)
    with pytest.raises(ModelUnknown):
        await store.pin("../../etc")
    with pytest.raises(ModelUnknown), store.reading("0" * 16, "1"):
        pass
    await store.unpin("0" * 16)


async def test_pins_and_leases_survive_a_restart(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock)
    await publish(store, A)
    await publish(store, model("b"))
    await store.pin(A.key)
    lease = await store.lease(model("b").key, None, "pod", 60)
    clock.advance(50)
    await store.close()

    store = await make_store(clock=clock)
    assert store.pins() == [A.key]
    found = store.find_lease(lease.id)
    assert found is not None
    assert found.expires_in == 60  # anew: nobody could renew it meanwhile
    usage = store.usage()
    assert usage.pinned >= MIB
    assert usage.leased >= MIB
    report = await store.collect(dry_run=True, target=0)
    assert report.evicted == ()
    await store.unpin(A.key)
    await store.release(lease.id)
    await store.close()

    store = await make_store(clock=clock)
    assert store.pins() == []
    assert store.leases() == []


async def test_a_lease_whose_snapshot_is_gone_is_forgotten(make_store: Any) -> None:
    store = await make_store()
    await publish(store, A)
    snapshot = store.current(A.ref)
    lease = await store.lease(A.key, None, "pod", 60)
    await store.close()
    (snapshot.tree / "m").unlink()
    (store.root / "state" / "leases" / "torn").write_text("{")
    (store.root / "state" / "leases" / ("ab" * 32)).write_text("{")
    store = await make_store()
    assert store.snapshots() == []
    assert store.find_lease(lease.id) is None
    assert listing(store.root / "state" / "leases") == []


async def test_last_use_survives_a_restart(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock)
    for name in "abc":
        await publish(store, model(name))
        clock.advance(1)
    store.touch(A.key, A.revision)
    before = {s.key: s.last_used for s in store.snapshots()}
    await store.close()
    store = await make_store(clock=clock)
    after = {s.key: s.last_used for s in store.snapshots()}
    assert sorted(before, key=before.__getitem__) == sorted(after, key=after.__getitem__)
    assert after == pytest.approx(before, abs=1e-3)
    report = await store.collect(dry_run=True, target=0)
    assert [victim.uri[-1] for victim in report.evicted] == ["b", "c", "a"]


async def test_the_order_of_use_survives_a_clock_set_back(
    make_store: Any, clock: ManualClock
) -> None:
    store = await make_store(clock=clock)
    for name in "ab":
        await publish(store, model(name))
    await store.close()
    clock.wall -= 1e6
    store = await make_store(clock=clock)
    await publish(store, model("c"))
    store.touch(A.key, A.revision)
    await store.close()
    clock.wall -= 1e6
    store = await make_store(clock=clock)
    report = await store.collect(dry_run=True, target=0)
    assert [victim.uri[-1] for victim in report.evicted] == ["b", "c", "a"]


async def test_uses_are_written_once_a_minute_not_at_each(
    make_store: Any, clock: ManualClock
) -> None:
    store = await make_store(clock=clock)
    await publish(store, A)
    path = store.current(A.ref).path
    await store._open.recency.flush()
    before = path.stat().st_mtime_ns
    clock.advance(30)
    store.touch(A.key, A.revision)
    assert path.stat().st_mtime_ns == before
    await store._open.recency.flush()
    assert path.stat().st_mtime_ns == store._index.snapshots[A.key, A.revision].last_used > before


async def test_a_closed_store_says_so(make_store: Any) -> None:
    store = await make_store()
    assert store.unready() == []
    await store.close()
    await store.close()
    assert store.unready() == ["the store is closed"]
    with pytest.raises(NotReady, match="closed"):
        store.current(A.ref)


async def test_leases_have_limits(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, leases=LeaseSettings(max_per_key=3, max_total=4))
    other = model("other")
    await publish(store, A)
    await publish(store, model("a", 2))
    await publish(store, other)
    # Revisions of a model count together.
    held = [await store.lease(A.key, number(1), "old", 10) for _ in range(2)]
    held.append(await store.lease(A.key, None, "new", 10))
    with pytest.raises(TooManyLeases, match="has 3 leases, and may have 3") as refused:
        await store.lease(A.key, None, "one more", 10)
    assert "leases.max_per_key" in refused.value.hint
    await store.lease(other.key, None, "other", 10)
    with pytest.raises(TooManyLeases) as refused:
        await store.lease(other.key, None, "one more", 10)
    assert "leases.max_total" in refused.value.hint
    assert (store.lease_count(), store.lease_count(A.key)) == (4, 3)
    assert len(listing(store.root / "state" / "leases")) == 4
    # Renewing needs no room; letting go makes some, and so does the end of their time.
    await store.renew(held[0].id, 100)
    await store.release(held[1].id)
    held.append(await store.lease(A.key, None, "another", 10))
    clock.advance(10)
    await store.expire_leases()
    assert (store.lease_count(), store.lease_count(A.key)) == (1, 1)
    assert store.lease_count("0" * 16) == 0


async def test_revisions_are_told_current_first(make_store: Any) -> None:
    store = await make_store()
    await publish(store, A)
    await publish(store, model("a", 2))
    store.touch(A.key, number(1))
    assert [s.revision for s in store.revisions(A.key)] == [number(2), number(1)]
    assert store.revisions("0" * 16) == []
