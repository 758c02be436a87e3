"""Pods' views: real directories of one revision, which keep it, and go with their pod."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import InUse, NoSpace, StoreError, ViewUnavailable
from cachd.settings import LeaseSettings
from cachd.store.viewmaking import ViewSpec
from tests.disk import tree_of
from tests.store.models import MIB, ManualClock, Model, fill, listing, number, publish, sized

POD = "0f8b3c2a-1111-4222-8333-944444444444"
OTHER = "1f8b3c2a-1111-4222-8333-944444444444"
CONTENT = {"model.bin": sized(3 * MIB, 1), "conf/a/tokenizer.json": b"{}", "manifest.json": b"x"}
OLD = Model("s3://bucket/m", CONTENT, number(1))
NEW = Model("s3://bucket/m", {**CONTENT, "new": sized(MIB, 2)}, number(2))
LORA = Model("s3://bucket/lora", {"adapter": sized(MIB, 3)}, number(1))
KUBERNETES = LeaseSettings(provider="cgroup")


def spec(pod: str = POD, name: str = "", mode: str = "link", **more: Any) -> ViewSpec:
    return ViewSpec(pod=pod, name=name, mode=mode, **{"until": "pod", "ttl": 60.0, **more})  # type: ignore[arg-type]


def inodes(path: Path) -> dict[str, int]:
    return {str(e.relative_to(path)): e.stat().st_ino for e in path.rglob("*") if e.is_file()}


PLACES = ("snapshots", "ingest", "views", "trash", "quarantine")


def held_on_disk(root: Path) -> int:
    """Bytes of every inode that holds something of models, each once."""
    seen = {}
    for place in PLACES:
        for path in [root / place, *(root / place).rglob("*")]:
            status = path.lstat()
            seen[status.st_ino] = status.st_blocks * 512
    for place in PLACES:
        seen.pop((root / place).lstat().st_ino)
    for key in (root / "snapshots").iterdir():
        seen.pop(key.lstat().st_ino)
    return sum(seen.values())


async def emptied(store: Any) -> None:
    await store._open.trash.wait(list(store._index.trash))


def check_sums(store: Any) -> None:
    assert store._index.sums() == store._index.recount()
    assert store.usage().allocated == held_on_disk(store.root)


async def test_a_view_is_the_revision_by_hard_links(make_store: Any) -> None:
    store = await make_store()
    snapshot = await publish(store, OLD)
    before = store.usage().allocated
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    assert view.path == store.root / "views" / POD
    assert tree_of(view.path) == CONTENT
    assert inodes(view.path) == inodes(snapshot.tree)
    assert (view.files, view.bytes, view.mode) == (3, 3 * MIB + 3, "link")
    status = view.path.stat()
    assert (view.device, view.inode) == (status.st_dev, status.st_ino)
    for path in view.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == (0o755 if path.is_dir() else 0o444)
    assert store.usage().allocated - before < 64 * 1024  # directories, and no byte twice
    check_sums(store)


async def test_the_same_pod_keeps_its_revision_and_a_new_one_gets_the_next(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    first = await store.views.make(OLD.ref, OLD.revision, spec())
    await publish(store, NEW)
    again = await store.views.make(NEW.ref, NEW.revision, spec())
    assert (again.revision, again.inode) == (OLD.revision, first.inode)
    assert tree_of(again.path) == OLD.content
    other = await store.views.make(NEW.ref, NEW.revision, spec(OTHER))
    assert (other.revision, tree_of(other.path)) == (NEW.revision, NEW.content)
    check_sums(store)


async def test_the_bytes_under_a_view_are_not_evicted(make_store: Any) -> None:
    """Under pressure with a live pod zero bytes of its model go; without it all of them can."""
    store = await make_store(quota="8MiB", leases=KUBERNETES)
    snapshot = await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    held = inodes(snapshot.tree)
    big = Model("s3://bucket/big", {"b": sized(6 * MIB, 4)}, number(1))
    with pytest.raises(NoSpace) as caught:
        await store.begin(big.ref, big.plan, source="s3")
    (holder,) = [h for h in caught.value.detail["held_by"] if h["key"] == OLD.key]
    assert (holder["what"], holder["views"]) == ("view", (f"{POD}/",))
    assert inodes(snapshot.tree) == held
    assert (await store.collect(dry_run=False, target=0)).evicted == ()
    assert tree_of(view.path) == CONTENT
    with pytest.raises(InUse) as refused:
        await store.remove(OLD.key)
    assert refused.value.detail["held_by"] == ["view"]
    await store.end_pod(POD)
    await emptied(store)
    assert listing(store.root / "views") == []
    assert listing(store.root / "state" / "views") == []
    assert tree_of(snapshot.tree) == CONTENT
    await publish(store, big)
    assert store.get(OLD.key) is None
    check_sums(store)


async def test_what_is_removed_by_force_stays_counted_while_a_view_has_it(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    assert await store.remove(OLD.key, force=True) < MIB
    await emptied(store)
    assert tree_of(view.path) == CONTENT
    assert store.usage().allocated > 3 * MIB
    assert store.usage().view_bytes > 3 * MIB
    check_sums(store)
    await store.close()
    store = await make_store()
    assert store.views.find(POD, "") is not None
    check_sums(store)
    assert await store.views.remove(POD) == 1
    await emptied(store)
    assert store.usage().allocated == 0
    assert listing(store.root / "blobs" / "sha256") == []


async def test_a_file_that_a_newer_revision_shares_is_counted_once(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    await store.views.make(OLD.ref, OLD.revision, spec())
    ingest = await store.begin(NEW.ref, NEW.plan, source="s3")
    assert "model.bin" in ingest.linked
    await fill(ingest, NEW)
    await ingest.commit(NEW.manifest_files)
    await store.views.make(NEW.ref, NEW.revision, spec(OTHER))
    check_sums(store)
    await store.views.remove(POD)
    await store.collect(dry_run=False)
    await emptied(store)
    assert [s.revision for s in store.snapshots()] == [NEW.revision]
    check_sums(store)


@pytest.mark.parametrize("is_cold", [True, False])
async def test_a_directory_that_is_there_before_the_model_is_filled(
    make_store: Any, is_cold: bool
) -> None:
    """kubelet makes it before the init container runs, and pods may have it mounted by then."""
    store = await make_store()
    path = store.root / "views" / POD
    if is_cold:
        path.mkdir()
        inode = path.stat().st_ino
        await store.views.sweep()
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    assert tree_of(path) == CONTENT
    if is_cold:
        assert path.stat().st_ino == view.inode == inode
    check_sums(store)


async def test_names_give_each_model_of_a_pod_its_place(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    await publish(store, LORA)
    base = await store.views.make(OLD.ref, OLD.revision, spec(name="base/m"))
    lora = await store.views.make(LORA.ref, LORA.revision, spec(name="lora"))
    assert tree_of(base.path) == CONTENT
    assert tree_of(lora.path) == LORA.content
    for name in ("", "base", "base/m/conf", "lora"):
        with pytest.raises(InUse):
            await store.views.make(OLD.ref, OLD.revision, spec(name=name))
    check_sums(store)
    assert await store.views.remove(POD) == 2
    await emptied(store)
    assert listing(store.root / "views") == []
    check_sums(store)


async def test_a_copy_is_private_writable_and_charged(make_store: Any) -> None:
    store = await make_store()
    snapshot = await publish(store, OLD)
    before = store.usage().allocated
    view = await store.views.make(OLD.ref, OLD.revision, spec(mode="copy"))
    assert tree_of(view.path) == CONTENT
    assert not set(inodes(view.path).values()) & set(inodes(snapshot.tree).values())
    assert view.is_writable
    for path in view.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o777 == (0o777 if path.is_dir() else 0o666)
    assert store.usage().allocated - before > 3 * MIB
    check_sums(store)
    (view.path / "model.bin").write_bytes(b"mine")
    assert tree_of(snapshot.tree) == CONTENT
    # A copy takes no lasting hold of what it was made of.
    await store.remove(OLD.key)
    assert store.views.find(POD, "").mode == "copy"


async def test_a_copy_that_does_not_fit_is_refused_before_a_byte_is_written(
    make_store: Any,
) -> None:
    store = await make_store(quota="5MiB")
    await publish(store, OLD)
    with pytest.raises(NoSpace):
        await store.views.make(OLD.ref, OLD.revision, spec(mode="copy"))
    assert listing(store.root / "state" / "views") == []
    assert tree_of(store.root / "views" / POD) == {}
    assert store.usage().reserved == 0
    check_sums(store)


async def test_a_caller_that_goes_away_ends_the_copy(make_store: Any) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    store = await make_store()
    await publish(store, OLD)
    inner = store._open.context.threads
    run = store.views._threads.run

    async def slow(call: Any, *args: Any) -> Any:
        if getattr(call, "__name__", "") == "copy":
            begun.set()
            await go_on.wait()
        return await run(call, *args)

    store.views._threads.run = slow
    task = loop.create_task(store.views.make(OLD.ref, OLD.revision, spec(mode="copy")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await store._open.context.background.stop_works()
    assert inner is store._open.context.threads
    assert tree_of(store.root / "views" / POD) == {}
    assert listing(store.root / "state" / "views") == []
    check_sums(store)
    store.views._threads.run = run
    assert tree_of((await store.views.make(OLD.ref, OLD.revision, spec())).path) == CONTENT


async def test_without_hard_links_the_view_is_a_read_only_copy(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make_store()
    await publish(store, OLD)
    monkeypatch.setattr("cachd.store.fsio.Below.link", lambda *_: False)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    assert view.mode == "copy"
    assert "no hard link" in view.notes[0]
    assert tree_of(view.path) == CONTENT
    assert {stat.S_IMODE(p.stat().st_mode) for p in view.path.rglob("*") if p.is_file()} == {0o444}
    assert not view.is_writable
    check_sums(store)


async def test_what_somebody_else_put_there_is_left_alone(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    path = store.root / "views" / POD
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(ViewUnavailable):
        await store.views.make(OLD.ref, OLD.revision, spec())
    assert (path / "mine").read_text() == "mine"
    assert listing(store.root / "state" / "views") == []


async def test_no_link_is_followed(make_store: Any, tmp_path: Path) -> None:
    """A pod that is root may plant symbolic links in its own directory."""
    store = await make_store()
    await publish(store, OLD)
    outside = tmp_path / "outside"
    outside.mkdir()
    path = store.root / "views" / POD
    path.mkdir()
    (path / "m").symlink_to(outside)
    with pytest.raises((ViewUnavailable, StoreError)):
        await store.views.make(OLD.ref, OLD.revision, spec(name="m/x"))
    assert listing(outside) == []
    await store.views.sweep()
    await store.views.remove(POD)
    await emptied(store)
    assert outside.is_dir()
    assert listing(store.root / "views") == []


async def test_views_survive_a_restart(make_store: Any) -> None:
    store = await make_store(leases=KUBERNETES)
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec())
    await store.close()
    store = await make_store(leases=KUBERNETES)
    assert view.is_new
    assert store.views.find(POD, "") == replace(view, is_new=False)
    assert store.pods() == {POD: store.boot_id}
    with pytest.raises(InUse):
        await store.remove(OLD.key)
    check_sums(store)


async def test_without_a_provider_a_view_ends_unless_it_is_asked_for_again(
    make_store: Any, clock: ManualClock
) -> None:
    store = await make_store(clock=clock)
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec(until="ttl", ttl=100.0))
    assert view.expires_in == 100
    clock.advance(90)
    await store.views.make(OLD.ref, OLD.revision, spec(until="ttl", ttl=100.0))
    clock.advance(90)
    await store.expire_leases()
    assert store.views.find(POD, "") is not None
    clock.advance(11)
    await store.expire_leases()
    await emptied(store)
    assert store.views.find(POD, "") is None
    assert listing(store.root / "views") == []


async def test_views_of_an_older_root_get_the_mode_that_kubelet_must_find(make_store: Any) -> None:
    store = await make_store()
    views = store.root / "views"
    assert stat.S_IMODE(views.stat().st_mode) == 0o2775
    assert views.stat().st_gid == os.getegid()
    await store.close()
    views.chmod(0o755)
    store = await make_store()
    assert stat.S_IMODE(views.stat().st_mode) == 0o2775
    assert store.views.complaint == ""


async def test_the_namespace_of_a_pod_pays_for_its_copy(make_store: Any) -> None:
    """Links are paid for by whoever pays for the snapshot, while that is there."""

    def used() -> int:
        return int(store.usage().namespaces.get("team", {"bytes": 0})["bytes"])

    quotas = {"team": "5MiB"}
    store = await make_store(namespace_quotas=quotas)
    await publish(store, OLD)
    await store.views.make(OLD.ref, OLD.revision, spec(namespace="team"))
    assert used() < 64 * 1024
    await store.views.make(OLD.ref, OLD.revision, spec(OTHER, mode="copy", namespace="team"))
    assert used() > 3 * MIB
    third = spec(POD.replace("0f", "2f"), mode="copy", namespace="team")
    with pytest.raises(NoSpace):
        await store.views.make(OLD.ref, OLD.revision, third)
    await store.close()
    store = await make_store(namespace_quotas=quotas)
    assert used() > 3 * MIB
    await store.views.remove(OTHER)
    assert used() < 64 * 1024
    await store.remove(OLD.key, force=True)
    assert used() > 3 * MIB
    check_sums(store)


async def test_what_a_pod_nests_keeps_nobody_from_starting_and_goes(make_store: Any) -> None:
    """Deeper than a path can name, and than a function may call itself."""
    store = await make_store(leases=KUBERNETES)
    await publish(store, OLD)
    view = await store.views.make(OLD.ref, OLD.revision, spec(mode="copy"))
    other = await store.views.make(OLD.ref, OLD.revision, spec(OTHER))
    here = os.open(view.path, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    await store.tidy()
    await store.close()
    store = await make_store(leases=KUBERNETES)
    assert {each.path for each in store.views.all()} == {view.path, other.path}
    await store.end_pod(POD)
    await store.end_pod(OTHER)
    await emptied(store)
    assert listing(store.root / "trash") == listing(store.root / "views") == []
    check_sums(store)
