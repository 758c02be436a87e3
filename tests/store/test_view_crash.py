"""kill -9 at each step of a view's life: it is whole, or nothing but its directory."""

from __future__ import annotations

from typing import Any

import pytest

from cachd.settings import LeaseSettings
from cachd.store.viewmaking import ViewSpec
from tests.disk import tree_of
from tests.store.dying import OLD, POD, at_once, flip
from tests.store.models import Model, fill, listing, number, publish
from tests.store.test_crash import check, die
from tests.store.test_views import check_sums, emptied, spec

COMPLETE = "view complete"
LINK = ["view directory", "view noted", "view linked", "view filled", COMPLETE]
COPY = [
    *(("view copy", step, 1) for step in ("view noted", "view copied", "view filled", COMPLETE)),
    ("view copy", "view file copied", 1),
    ("view copy", "view file copied", 3),
]
KUBERNETES = LeaseSettings(provider="cgroup")


@pytest.mark.parametrize(
    ("scenario", "step", "count"), [*(("view", step, 1) for step in LINK), *COPY]
)
async def test_killed_while_a_view_is_made(
    make_store: Any, scenario: str, step: str, count: int, tmp_path: Any
) -> None:
    die(tmp_path / "root", scenario, step, count)
    views = tmp_path / "root" / "views"
    inode = (views / POD).stat().st_ino
    store = await make_store(leases=KUBERNETES)
    assert await check(store, OLD.ref) == 1
    view = store.views.find(POD, "")
    assert (view is not None) == (step == COMPLETE)
    assert tree_of(views / POD) == (OLD.content if view is not None else {})
    assert len(listing(store.root / "state" / "views")) == (view is not None)
    check_sums(store)
    mode = "copy" if scenario == "view copy" else "link"
    spec = ViewSpec(pod=POD, name="", mode=mode, until="pod", ttl=60)  # type: ignore[arg-type]
    made = await store.views.make(OLD.ref, OLD.revision, spec)
    assert tree_of(made.path) == OLD.content
    # The pod may have it mounted by now, so it is the very directory still.
    assert made.inode == inode
    check_sums(store)


@pytest.mark.parametrize("step", ["condemned", "trashed", "view removed", "emptied", "unlinked"])
async def test_killed_while_a_view_goes(make_store: Any, step: str, tmp_path: Any) -> None:
    die(tmp_path / "root", "view removal", step)
    store = await make_store(leases=KUBERNETES)
    assert await check(store, OLD.ref) == 1
    if store.views.find(POD, "") is not None:
        assert tree_of(store.root / "views" / POD) == OLD.content
        await store.views.remove(POD)
        await emptied(store)
    assert listing(store.root / "views") == []
    assert listing(store.root / "state" / "views") == []
    check_sums(store)
    assert (await store.collect(dry_run=False, target=0)).freed > 9_000_000


async def test_a_damaged_file_is_replaced_in_views_too(make_store: Any) -> None:
    """A pod has what is right when it opens the file anew; a copy of its own is its own affair."""
    store = await make_store(leases=KUBERNETES)
    snapshot = await publish(store, OLD)
    spec = ViewSpec(pod=POD, name="deep/er", mode="link", until="pod", ttl=60)
    view = await store.views.make(OLD.ref, OLD.revision, spec)
    flip(snapshot.tree / "w", 8_500_000)
    assert tree_of(view.path) != OLD.content
    await store.checks.inspect(OLD.key, OLD.revision, pace=at_once)
    assert store.current(OLD.ref) is None
    ingest = await store.begin(OLD.ref, OLD.plan, source="s3")
    await fill(ingest, OLD)
    await ingest.commit(OLD.manifest_files)
    assert tree_of(view.path) == tree_of(snapshot.tree) == OLD.content
    assert (view.path / "w").stat().st_ino == (snapshot.tree / "w").stat().st_ino
    await emptied(store)
    check_sums(store)


async def test_a_pod_that_spoiled_its_directory_keeps_nobody_from_a_repair(make_store: Any) -> None:
    store = await make_store(leases=KUBERNETES)
    model = Model("s3://bucket/deep", {"a/w": OLD.content["w"]}, number(7))
    snapshot = await publish(store, model)
    spec = ViewSpec(pod=POD, name="", mode="link", until="pod", ttl=60)
    view = await store.views.make(model.ref, model.revision, spec)
    flip(snapshot.tree / "a" / "w", 5)
    (view.path / "a" / "w").rename(view.path / "w")
    (view.path / "a").rmdir()
    (view.path / "a").symlink_to(store.root)
    await store.checks.inspect(model.key, model.revision, pace=at_once)
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    await ingest.commit(model.manifest_files)
    assert tree_of(snapshot.tree) == model.content
    await emptied(store)
    check_sums(store)


async def test_killed_while_a_view_went_and_kubelet_made_its_directory_anew(
    make_store: Any,
) -> None:
    store = await make_store(leases=KUBERNETES)
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    (record,) = (store.root / "state" / "views").iterdir()
    said = record.read_bytes()
    await store.views.remove(POD)
    await store.close()
    record.write_bytes(said)  # as if killed between the rename and the record's removal
    view.path.mkdir()
    store = await make_store(leases=KUBERNETES)
    assert store.views.find(POD, "") is None
    again = await store.views.make(OLD.ref, OLD.revision, spec())
    assert tree_of(again.path) == OLD.content
