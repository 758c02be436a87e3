"""Leases that live as long as a pod."""

from __future__ import annotations

from typing import Any

from cachd.settings import LeaseSettings
from tests.store.models import MIB, ManualClock, Model, listing, number, publish, sized

POD = "0f8b3c2a-1111-4222-8333-944444444444"
OTHER = "1f8b3c2a-1111-4222-8333-944444444444"
OLD = Model("s3://bucket/m", {"m": sized(MIB, 1)}, number(1))
KUBERNETES = LeaseSettings(provider="kubernetes")


async def test_leases_of_a_pod_live_as_long_as_it(make_store: Any, clock: ManualClock) -> None:
    store = await make_store(clock=clock, leases=KUBERNETES)
    await publish(store, OLD)
    lease = await store.lease(OLD.key, None, "init", 60, POD)
    assert (lease.pod, lease.expires_in) == (POD, None)
    clock.advance(1e6)
    await store.expire_leases()
    assert store.find_lease(lease.id) is not None
    await store.close()
    store = await make_store(clock=clock, leases=KUBERNETES)
    assert list(store.pods()) == [POD]
    await store.end_pod(OTHER)
    assert store.lease_count() == 1
    await store.end_pod(POD)
    assert store.lease_count() == 0
    assert listing(store.root / "state" / "leases") == []


async def test_a_pod_that_restarts_for_ever_takes_no_more_leases_than_a_few(
    make_store: Any,
) -> None:
    store = await make_store(leases=LeaseSettings(provider="cgroup", max_per_key=20))
    await publish(store, OLD)
    leases = [await store.lease(OLD.key, None, "init", 60, POD) for _ in range(40)]
    assert store.lease_count() == 16
    assert store.find_lease(leases[-1].id) is not None
    # Another pod that gives its uid, and lets go of what it got, ends nothing that it had before.
    assert all(store.find_lease(lease.id) is not None for lease in leases[:15])
    assert len(listing(store.root / "state" / "leases")) == 16


async def test_without_a_provider_they_have_a_time_again(
    make_store: Any, clock: ManualClock
) -> None:
    """Nobody tells any more when the pod is gone: what was promised ends when nobody renews it."""
    store = await make_store(clock=clock, leases=KUBERNETES)
    await publish(store, OLD)
    lease = await store.lease(OLD.key, None, "init", 60, POD)
    await store.close()
    store = await make_store(clock=clock)
    assert store.find_lease(lease.id).expires_in == 60
    clock.advance(61)
    await store.expire_leases()
    assert store.lease_count() == 0
