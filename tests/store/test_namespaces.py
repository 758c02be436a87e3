"""Who pays for what, and whose models go when a namespace is at its quota."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import NoSpace, TooLarge
from cachd.settings import Share
from cachd.store.index import Index
from cachd.store.namespaces import make_room, quota_of, rows_of, spared_by, usage, used_by
from cachd.store.rows import Row
from cachd.store.types import SnapshotInfo
from tests.store.models import MIB, Model, fill

# --- pure -----------------------------------------------------------------------------------------


def info(name: str, namespace: str | None, age: int) -> SnapshotInfo:
    return SnapshotInfo(
        ref=Model(f"s3://b/{name}", {}, "r").ref,
        files=1,
        bytes=0,
        created=f"2026-01-01T00:00:{age:02}+00:00",
        source="s3",
        is_credentialed=False,
        is_validated=True,
        is_immutable=False,
        identity="anonymous",
        namespace=namespace,
    )


class World:
    def __init__(self) -> None:
        self.index = Index()
        self.count = 0

    def add(self, name: str, namespace: str | None, size: int, **linked: int) -> Row:
        """A snapshot of ``size`` bytes; ``linked``: the sizes of shared inodes, as ``i7=3``."""
        self.count += 1
        inodes = {int(inode[1:]): count for inode, count in linked.items()}
        row = Row(
            key=name,
            revision="r",
            info=info(name, namespace, self.count),
            state="snapshot",
            allocated=size + sum(inodes.values()),
            inodes=1 + len(inodes),
            last_used=self.count,
        )
        self.index.add(row, inodes)
        self.index.set_current(row)
        for inode, count in inodes.items():
            holders = [r for r in self.index.snapshots.values() if inode in r.linkable]
            self.index.share(row, inode, count, [r for r in holders if r is not row])
        return row

    def used(self, namespace: str) -> int:
        return used_by(self.index, rows_of(self.index, namespace))


def test_the_oldest_pays_for_what_is_shared_until_it_goes() -> None:
    world = World()
    first = world.add("a", "one", 10, i1=100)
    world.add("b", "two", 20, i1=100)
    world.add("c", "two", 30, i1=100)
    assert (world.used("one"), world.used("two")) == (110, 50)
    world.index.condemn(first, "trash-1")
    assert (world.used("one"), world.used("two")) == (0, 150)
    world.index.discard(first)
    assert (world.used("one"), world.used("two")) == (0, 150)


def test_a_view_pays_for_what_only_it_has() -> None:
    world = World()
    snapshot = world.add("a", "one", 10, i1=100)
    nobody = replace(info("", "two", 0), created="")
    view = Row(key="", revision="", info=nobody, state="view", place="pod", allocated=107)
    world.index.add(view, {1: 100})
    world.index.share(view, 1, 100, (snapshot,))
    assert (world.used("one"), world.used("two")) == (110, 7)
    world.index.discard(snapshot)
    assert (world.used("one"), world.used("two")) == (0, 107)


def test_the_namespaces_own_go_by_last_use_and_no_more_than_needed() -> None:
    world = World()
    for name, size in (("a", 30), ("b", 5), ("c", 30)):
        world.add(name, "one", size)
    world.add("x", "two", 500)
    world.add("y", None, 500)
    room = make_room(world.index, "one", 100, 60)
    assert [row.key for row, _, _ in room.rows] == ["a"]
    room = make_room(world.index, "one", 100, 80)
    assert [row.key for row, _, _ in room.rows] == ["a", "c"]
    assert {reason for _, reason, _ in room.rows} == {"namespace"}
    assert make_room(world.index, "one", 100, 35).rows == ()


def test_what_is_in_use_stays() -> None:
    world = World()
    world.add("a", "one", 60).leases = 1
    world.add("b", "one", 30)
    room = make_room(world.index, "one", 100, 50)
    assert (room.fits, room.rows, room.shortfall) == (False, (), 10)


def test_shared_files_free_nothing_for_a_namespace_that_holds_them_twice() -> None:
    world = World()
    world.add("a", "one", 10, i1=50)
    world.add("b", "one", 10, i1=50)
    room = make_room(world.index, "one", 70, 15)
    assert [row.key for row, _, _ in room.rows] == ["a", "b"]
    other = World()
    other.add("a", "one", 10, i1=50)
    other.add("b", "two", 10, i1=50)
    room = make_room(other.index, "one", 60, 5)
    # It no longer pays for it, though the disk has no more free than the ten.
    assert [(row.key, size) for row, _, size in room.rows] == [("a", 10)]


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [("team-a", 10), ("team-b", 20), ("other", 5), ("", 5), (None, None)],
)
def test_the_first_pattern_counts(namespace: str | None, expected: int | None) -> None:
    quotas = {"team-a": Share("10"), "team-*": Share("20"), "*": Share("50%")}
    assert quota_of(namespace, quotas, 10) == expected
    assert quota_of("x", {"team-*": Share("20")}, 10) is None
    # A bracket is a bracket, as in the patterns of access rules.
    assert quota_of("team-a", {"team-[a]": Share("20")}, 10) is None


_SNAPSHOTS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", None]),
        st.integers(0, 50),
        st.sets(st.sampled_from([1, 2, 3]), max_size=2),
        st.booleans(),
    ),
    max_size=8,
)


@given(_SNAPSHOTS, st.integers(0, 200), st.integers(0, 100))
def test_whatever_is_there(snapshots: list, quota: int, needed: int) -> None:
    world = World()
    for number, (namespace, size, inodes, is_leased) in enumerate(snapshots):
        row = world.add(f"m{number}", namespace, size, **{f"i{i}": 10 * i for i in inodes})
        row.leases = int(is_leased)
    index = world.index
    # Everybody together pays for what is there, once.
    parts = [row for name in ("one", "two") for row in rows_of(index, name)]
    nobodys = [row for row in index.snapshots.values() if row.info.namespace is None]
    assert used_by(index, parts) + used_by(index, nobodys) == index.allocated
    room = make_room(index, "one", quota, needed)
    for row, _, _ in room.rows:
        assert row.info.namespace == "one"
        assert not row.leases
    gone = {row for row, _, _ in room.rows}
    assert room.fits == (room.shortfall == 0)
    if room.fits:
        assert used_without(index, gone) + needed <= quota
        for row in gone:
            assert used_without(index, gone - {row}) + needed > quota
    else:
        idle = {row for row in rows_of(index, "one") if not row.leases}
        assert used_without(index, idle) + needed - quota == room.shortfall
    before: set[Row] = set()
    for row in rows_of(index, "one"):
        spared = used_without(index, before) - used_without(index, {*before, row})
        assert spared_by(index, row, before) == spared
        before.add(row)


def used_without(index: Index, gone: set[Row]) -> int:
    """What namespace one pays for once ``gone`` are, counted inode by inode."""
    total = 0
    left = [row for row in index.snapshots.values() if row not in gone]
    paid: set[int] = set()
    for row in sorted(left, key=lambda row: row.info.created):
        size = row.allocated
        for inode in row.shared:
            if inode in paid:
                size -= index.table[inode].bytes
            paid.add(inode)
        total += size if row.info.namespace == "one" else 0
    return total


def test_usage_tells_of_a_hundred() -> None:
    world = World()
    for number in range(150):
        world.add(f"m{number}", f"ns{number}", number)
    told = usage(world.index, {"*": Share("1000")}, 10)
    assert len(told) == 101
    assert told["ns149"] == {"bytes": 149, "quota": 1000}
    assert told["other"] == {"bytes": sum(range(50)), "quota": 50_000}
    assert usage(world.index, {}, 10) == {}


# --- the store ------------------------------------------------------------------------------------


async def publish(store: Any, model: Model, *, namespace: str | None) -> Any:
    plan = replace(model.plan, namespace=namespace)
    ingest = await store.begin(model.ref, plan, source="s3")
    await fill(ingest, model)
    return await ingest.commit(model.manifest_files, metadata={})


async def test_a_namespace_at_its_quota(make_store: Any, clock: Any) -> None:
    store = await make_store(clock=clock, namespace_quotas={"one": "5MiB"})
    models = [Model(f"s3://b/{n}", {"w": bytes([n]) * 2 * MIB}, "ab") for n in range(6)]
    for number, namespace in enumerate(["one", "two", None, "one"]):
        await publish(store, models[number], namespace=namespace)
        clock.advance(1)
    plan = store.plan_space(2 * MIB, 3, "one")
    assert [victim.key for victim in plan.victims] == [models[0].key]
    assert store.plan_space(2 * MIB, 3, "two").victims == ()
    await publish(store, models[4], namespace="one")
    assert {s.key for s in store.snapshots()} == {models[n].key for n in (1, 2, 3, 4)}
    assert store.usage().namespaces["one"]["bytes"] <= 5 * MIB
    for number in (3, 4):
        await store.lease(models[number].key, None, "pod", 60)
    with pytest.raises(NoSpace, match="namespace 'one' has") as caught:
        await publish(store, models[5], namespace="one")
    assert not isinstance(caught.value, TooLarge)
    assert caught.value.detail["namespace_quota"] == 5 * MIB
    assert [h["what"] for h in caught.value.detail["held_by"]] == ["lease", "lease"]
    with pytest.raises(TooLarge, match="may hold no more than"):
        await publish(store, Model("s3://b/big", {"w": bytes(6 * MIB)}, "ab"), namespace="one")
    await publish(store, models[5], namespace="two")


async def test_a_restart_keeps_who_pays(make_store: Any) -> None:
    store = await make_store(namespace_quotas={"*": "64MiB"})
    await publish(store, Model("s3://b/a", {"w": bytes(MIB)}, "ab"), namespace="one")
    await publish(store, Model("s3://b/b", {"w": bytes(MIB)}, "ab"), namespace="")
    await publish(store, Model("s3://b/c", {"w": bytes(MIB)}, "ab"), namespace=None)
    before = store.usage().namespaces
    assert set(before) == {"one", ""}
    await store.close()
    again = await make_store(namespace_quotas={"*": "64MiB"})
    assert again.usage().namespaces == before
    assert {s.info.namespace for s in again.snapshots()} == {"one", "", None}
