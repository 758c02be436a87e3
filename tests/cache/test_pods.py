"""When what is held for pods ends, and who may speak for one: real store, real provider, over trees
of the test's own in place of the host's cgroups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.cache.pods import Pods
from cachd.cache.types import Ask, Caller, LeaseRequest, ViewRequest
from cachd.errors import Forbidden
from cachd.settings import LeaseSettings, StoreSettings
from cachd.store.store import Store
from cachd.store.viewmaking import ViewSpec
from tests.kube.host import Host
from tests.store.models import Model, number, publish, sized

POD = "0f8b3c2a-1111-4222-8333-944444444444"
OTHER = "1f8b3c2a-1111-4222-8333-944444444444"
MODEL = Model("s3://bucket/m", {"m.bin": sized(1_000_000, 1)}, number(1))
SETTINGS = LeaseSettings(provider="cgroup", pod_grace=5, reboot_grace=600)
SPEC = ViewSpec(pod=POD, name="", mode="link", until="pod", ttl=60)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


MakeStore = Callable[[], Awaitable[Store]]


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[MakeStore]:
    """The same root each time; the last one is closed first."""
    stores: list[Store] = []

    async def make() -> Store:
        for store in stores:
            await store.close()
        store = Store(tmp_path / "root", StoreSettings(quota="1GiB", free_floor="0"), SETTINGS)
        await store.open()
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


async def make_pods(host: Host, store: Store, clock: Clock, **settings: Any) -> Pods:
    provider = host.provider()
    await provider.start()
    return Pods(store, provider, SETTINGS.model_copy(update=settings), clock=clock)


async def test_what_a_pod_holds_ends_when_it_was_gone_for_long_enough(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    cgroup = host.cgroup(f"kubepods/burstable/pod{POD}")
    await publish(store, MODEL)
    await store.views.make(MODEL.ref, MODEL.revision, SPEC)
    await store.lease(MODEL.key, None, "init", None, POD)
    pods = await make_pods(host, store, clock)
    for _ in range(3):
        await pods.round()
        clock.now += 100
    assert len(store.views.all()) == store.lease_count() == 1
    cgroup.rmdir()
    await pods.round()
    clock.now += 4.9
    await pods.round()
    assert len(store.views.all()) == 1
    clock.now += 0.2
    await pods.round()
    assert (store.views.all(), store.lease_count()) == ([], 0)
    assert store._open is not None
    await store._open.trash.wait(list(store._open.context.index.trash))
    assert (await store.collect(dry_run=False, target=0)).freed > 900_000


async def test_a_pod_that_is_back_within_the_grace_keeps_everything(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    await publish(store, MODEL)
    await store.views.make(MODEL.ref, MODEL.revision, SPEC)
    pods = await make_pods(host, store, clock)
    await pods.round()
    clock.now += 4
    cgroup = host.cgroup(f"kubepods/pod{POD}")
    await pods.round()
    cgroup.rmdir()
    clock.now += 4
    await pods.round()
    clock.now += 4
    await pods.round()
    assert len(store.views.all()) == 1


async def test_a_reboot_ends_nothing_until_kubelet_had_time(
    open_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cgroups are gone and the boot id is another: kubelet brings the same pods back."""
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    await publish(store, MODEL)
    await store.views.make(MODEL.ref, MODEL.revision, SPEC)
    await store.lease(MODEL.key, None, "init", None, OTHER)
    monkeypatch.setattr("cachd.store.startup.boot_id", lambda: "the next one")
    store = await open_store()
    pods = await make_pods(host, store, clock)
    for _ in range(59):
        await pods.round()
        clock.now += 10
    assert store.lease_count() == len(store.views.all()) == 1
    host.cgroup(f"kubepods/pod{POD}")
    for _ in range(3):
        clock.now += 10
        await pods.round()
    assert [view.pod for view in store.views.all()] == [POD]
    assert store.lease_count() == 0


async def test_after_a_mere_restart_there_is_no_such_grace(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    await publish(store, MODEL)
    await store.views.make(MODEL.ref, MODEL.revision, SPEC)
    store = await open_store()
    pods = await make_pods(host, store, clock)
    await pods.round()
    clock.now += 6
    await pods.round()
    assert store.views.all() == []


async def test_what_can_not_be_seen_is_not_gone(open_store: MakeStore, tmp_path: Path) -> None:
    host, clock, store = Host(tmp_path, is_host=False), Clock(), await open_store()
    await publish(store, MODEL)
    await store.views.make(MODEL.ref, MODEL.revision, SPEC)
    pods = await make_pods(host, store, clock)
    for _ in range(10):
        await pods.round()
        clock.now += 1000
    assert len(store.views.all()) == 1
    assert pods.usage()["pods_visible"] == 0


async def test_directories_of_pods_that_never_asked_go_as_well(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    (store.root / "views" / POD).mkdir()
    (store.root / "views" / OTHER / "half").mkdir(parents=True)
    (store.root / "views" / "No Pod").mkdir()
    host.cgroup(f"kubepods/pod{POD}")
    await store.tidy()
    pods = await make_pods(host, store, clock)
    await pods.round()
    clock.now += 6
    await pods.round()
    left = {path.name for path in (store.root / "views").iterdir()}
    assert left == {POD, "No Pod"}


def pod_caller(pid: int | None = None, uid: str = "") -> Caller:
    return Caller(role="pod", uid=1000, gid=1000, pid=pid, pod_uid=uid)


async def test_who_may_speak_for_a_pod(open_store: MakeStore, tmp_path: Path) -> None:
    host, store = Host(tmp_path), await open_store()
    for uid in (POD, OTHER):
        host.cgroup(f"kubepods/pod{uid}")
    host.process(77, f"/kubepods/pod{POD}/container")
    pods = await make_pods(host, store, Clock())
    assert await pods.check(POD, pod_caller(77))
    assert await pods.check(OTHER, pod_caller(uid=OTHER))
    assert await pods.check(OTHER, Caller(role="admin", uid=0))
    assert not await pods.check(POD, pod_caller(99))  # nobody knows whose process that is
    for caller in (pod_caller(77), pod_caller(99, POD), pod_caller(77, POD)):
        with pytest.raises(Forbidden):
            await pods.check(OTHER, caller)
    with pytest.raises(Forbidden):
        await pods.check("2f8b3c2a-1111-4222-8333-944444444444", pod_caller(99))
    strict = await make_pods(host, store, Clock(), require_pod_proof=True)
    assert await strict.check(POD, pod_caller(77))
    with pytest.raises(Forbidden):
        await strict.check(POD, pod_caller(99))


async def test_lease_and_view_of_one_ask_are_of_one_pod(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, store = Host(tmp_path), await open_store()
    for uid in (POD, OTHER):
        host.cgroup(f"kubepods/pod{uid}")
    pods = await make_pods(host, store, Clock())
    ask = Ask(uri="s3://b/m", lease=LeaseRequest(pod=POD), view=ViewRequest(pod=POD))
    assert not await pods.check_ask(ask, pod_caller())
    assert await pods.check_ask(ask, pod_caller(uid=POD))
    assert not await pods.check_ask(Ask(uri="s3://b/m"), pod_caller(uid=POD))
    with pytest.raises(Forbidden):
        await pods.check_ask(
            Ask(uri="s3://b/m", lease=LeaseRequest(pod=OTHER), view=ViewRequest(pod=POD)),
            pod_caller(),
        )


async def test_what_can_not_be_ended_for_one_pod_keeps_the_others_waiting_for_nothing(
    open_store: MakeStore, tmp_path: Path
) -> None:
    host, clock, store = Host(tmp_path), Clock(), await open_store()
    await publish(store, MODEL)
    for number_ in range(3):
        pod = f"{number_}f8b3c2a-1111-4222-8333-944444444444"
        lease = await store.lease(MODEL.key, None, "init", None, pod)
        await store.views.make(MODEL.ref, MODEL.revision, replace(SPEC, pod=pod))
        file = store.layout.leases / lease.handle
        file.unlink()
        file.mkdir()  # can't be removed as a file
    pods = await make_pods(host, store, clock)
    await pods.round()
    clock.now += 6
    await pods.round()
    assert store.lease_count() == 0
    await pods.round()
    assert store.views.all() == []
