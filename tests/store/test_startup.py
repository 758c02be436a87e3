"""From a directory to an open store: what is taken, what is refused, what is repaired."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import (
    DiskError,
    DiskFull,
    LayoutUnsupported,
    RootLocked,
    RootUnusable,
    StoreError,
    VolumeUnexpected,
)
from cachd.settings import LeaseSettings, StoreSettings
from cachd.store.capabilities import Capabilities
from cachd.store.fsio import Below, measure, to_disk_error
from cachd.store.manifests import Manifests, encode_manifest
from cachd.store.mounts import mount_of, parse_mountinfo
from cachd.store.store import Store
from tests.store.models import MIB, Model, fill, listing, number, publish, read_back, sized

A = Model("s3://bucket/a", {"m": sized(MIB, 1), "d/e": b"e"}, number(1))


def tree_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# --- the root -------------------------------------------------------------------------------------


async def test_a_missing_root_is_made_whatever_the_umask(make_store: Any, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        store = await make_store(tmp_path / "deep" / "er" / "root")
    finally:
        os.umask(old)
    for path in (store.root, store.root / "snapshots", tmp_path / "deep"):
        assert path.stat().st_mode & 0o777 == 0o755
    for name in ("ingest", "state", "trash"):
        assert (store.root / name).stat().st_mode & 0o777 == 0o700
    assert json.loads((store.root / "layout.json").read_text())["version"] == 1


async def test_a_root_that_holds_something_else_is_left_alone(
    make_store: Any, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "thesis.doc").write_text("years of work")
    with pytest.raises(RootUnusable, match=r"thesis\.doc"):
        await make_store()
    assert tree_of(tmp_path / "root") == ["thesis.doc"]


async def test_a_fresh_file_system_is_fine(make_store: Any, tmp_path: Path) -> None:
    (tmp_path / "root" / "lost+found").mkdir(parents=True)
    await make_store()


async def test_a_root_that_is_a_file_is_refused(make_store: Any, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(RootUnusable):
        await make_store()


async def test_an_unwritable_root_is_refused(make_store: Any) -> None:
    with pytest.raises(RootUnusable) as caught:
        await make_store(Path("/proc/cachd"))
    assert "store.root" in caught.value.hint


async def test_a_newer_layout_is_refused_with_the_way_out(make_store: Any, tmp_path: Path) -> None:
    store = await make_store()
    await store.close()
    path = tmp_path / "root" / "layout.json"
    path.write_text(json.dumps({"version": 2, "readable_by": 2, "by": "9.0"}))
    before = tree_of(tmp_path / "root")
    with pytest.raises(LayoutUnsupported, match=r"9\.0") as caught:
        await make_store()
    assert "another root" in caught.value.hint
    assert tree_of(tmp_path / "root") == before


async def test_a_newer_layout_that_we_can_read_is_taken(make_store: Any, tmp_path: Path) -> None:
    store = await make_store()
    await publish(store, A)
    await store.close()
    path = tmp_path / "root" / "layout.json"
    path.write_text(json.dumps({"version": 2, "readable_by": 1, "by": "9.0"}))
    store = await make_store()
    assert store.current(A.ref) is not None


async def test_a_layout_that_cannot_be_read_is_refused(make_store: Any, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "layout.json").write_text("{")
    with pytest.raises(RootUnusable):
        await make_store()


@pytest.mark.parametrize("damaged", [b"", b"\0" * 80, b"{", b"[1]", b"[" * 100_000])
async def test_a_damaged_layout_among_what_is_ours_is_written_again(
    make_store: Any, tmp_path: Path, damaged: bytes
) -> None:
    store = await make_store()
    await publish(store, A)
    await store.close()
    path = tmp_path / "root" / "layout.json"
    path.write_bytes(damaged)
    (tmp_path / "root" / "thesis.txt").touch()
    with pytest.raises(RootUnusable):
        await make_store()
    assert path.read_bytes() == damaged
    (tmp_path / "root" / "thesis.txt").unlink()
    store = await make_store()
    assert store.current(A.ref) is not None
    assert json.loads(path.read_text())["version"] == 1


# --- the lock -------------------------------------------------------------------------------------


async def test_a_second_daemon_is_refused(make_store: Any) -> None:
    await make_store()
    with pytest.raises(RootLocked, match=f"process {os.getpid()}") as caught:
        await make_store()
    assert "standby" in caught.value.hint


async def test_a_standby_takes_over(make_store: Any, tmp_path: Path) -> None:
    first = await make_store()
    await publish(first, A)
    second = Store(tmp_path / "root", StoreSettings(standby=True, free_floor="0"), LeaseSettings())
    opening = asyncio.create_task(second.open())
    async with asyncio.timeout(10):
        while not any("standing by" in reason for reason in second.unready()):
            await asyncio.sleep(0.01)
    assert not opening.done()
    await first.close()
    await asyncio.wait_for(opening, 10)
    assert second.unready() == []
    assert second.current(A.ref) is not None
    await second.close()


async def test_a_standby_can_be_cancelled(make_store: Any, tmp_path: Path) -> None:
    first = await make_store()
    second = Store(tmp_path / "root", StoreSettings(standby=True), LeaseSettings())
    opening = asyncio.create_task(second.open())
    async with asyncio.timeout(10):
        while not any("standing by" in reason for reason in second.unready()):
            await asyncio.sleep(0.01)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await first.close()
    await make_store()


@pytest.mark.parametrize("turns", range(0, 30, 5))
async def test_a_cancelled_open_lets_go_of_everything(
    make_store: Any, tmp_path: Path, turns: int
) -> None:
    store = Store(tmp_path / "root", StoreSettings(), LeaseSettings())
    task = asyncio.create_task(store.open())
    for _ in range(turns):
        await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await store.close()
    await make_store()


# --- the guard ------------------------------------------------------------------------------------


async def test_an_unmounted_disk_is_noticed_before_anything_is_written(
    make_store: Any, tmp_path: Path
) -> None:
    mount = tmp_path / "nvme"
    mount.mkdir()
    with pytest.raises(VolumeUnexpected, match="no mount point"):
        await make_store(mount / "root", expected_mount=mount)
    with pytest.raises(VolumeUnexpected, match="not below"):
        await make_store(tmp_path / "root", expected_mount=Path("/proc"))
    with pytest.raises(VolumeUnexpected, match="is not right-id"):
        await make_store(mount / "root", expected_volume_id="right-id")
    assert tree_of(tmp_path) == ["nvme"]


async def test_a_mounted_disk_is_recognised(make_store: Any, tmp_path: Path) -> None:
    mount = tmp_path / "nvme"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        (mount / ".volume-id").write_text("nvme-7\n")
        store = await make_store(mount / "root", expected_mount=mount, expected_volume_id="nvme-7")
        assert store.capabilities.filesystem == "tmpfs"
        assert store.capabilities.fallocate is False
        assert store.capabilities.sync == "none"
        assert read_back(await publish(store, A)) == A.content
        await store.close()
        with pytest.raises(VolumeUnexpected, match="nvme-7"):
            await make_store(mount / "root", expected_volume_id="nvme-8")
        (mount / "bound").mkdir()
        with pytest.raises(VolumeUnexpected, match="not below"):
            await make_store(tmp_path / "root", expected_mount=mount)
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_mountinfo() -> None:
    text = (
        "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 24 0:30 / /mnt/my\\040disk rw - tmpfs tmpfs rw\n"
        "31 24 0:31 /sub /mnt rw master:2 shared:3 - btrfs /dev/vdb rw\n"
        "nonsense\n"
    )
    mounts = parse_mountinfo(text)
    assert [mount.kind for mount in mounts] == ["ext4", "tmpfs", "btrfs"]
    found = mount_of(Path("/mnt/my disk/root"), mounts)
    assert found is not None
    assert found.kind == "tmpfs"
    assert mount_of(Path("/mnt/my"), mounts) == mounts[2]
    assert mount_of(Path("/mnt2"), mounts) == mounts[0]


# --- the scan -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", ["file gone", "file cut", "manifest gone", "manifest torn", "manifest of another"]
)
async def test_a_damaged_snapshot_goes_and_the_others_stay(
    make_store: Any, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    b = Model("s3://bucket/b", {"m": b"b" * 9999}, number(2))
    store = await make_store()
    path = (await publish(store, A)).path
    await publish(store, b)
    await store.close()
    if damage == "file gone":
        (path / "tree" / "d" / "e").unlink()
    elif damage == "file cut":
        os.truncate(path / "tree" / "m", 5)
    elif damage == "manifest gone":
        (path / "manifest.json").unlink()
    elif damage == "manifest torn":
        os.truncate(path / "manifest.json", 50)
    else:
        data = json.loads((path / "manifest.json").read_text())
        data["revision"] = number(9)
        (path / "manifest.json").unlink()
        (path / "manifest.json").write_text(json.dumps(data))
    store = await make_store()
    assert [s.ref.uri for s in store.snapshots()] == [b.uri]
    assert any(r.levelname == "ERROR" and "not whole" in r.getMessage() for r in caplog.records)
    await store._open.trash.wait(list(store._index.trash))
    assert listing(store.root / "trash") == []
    assert listing(store.root / "current") == [b.key]
    assert read_back(await publish(store, A)) == A.content


@pytest.mark.parametrize("damage", ["missing", "dangling", "garbage"])
async def test_a_lost_current_is_the_newest_revision(make_store: Any, damage: str) -> None:
    store = await make_store()
    for revision in (1, 3, 2):
        await publish(store, Model(A.uri, {"m": b"x" * revision}, number(revision)))
    await store.close()
    path = store.root / "current" / A.key
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(number(8).encode() if damage == "dangling" else b"\xff\x00")
    store = await make_store()
    assert store.current(A.ref).revision == number(2)
    assert path.read_text().strip() == number(2)


async def test_an_older_revision_that_is_current_stays_current(make_store: Any) -> None:
    store = await make_store()
    for revision in (1, 2, 1):
        await publish(store, Model(A.uri, {"m": b"x" * revision}, number(revision)))
    store.touch(A.key, number(2))
    await store.close()
    store = await make_store()
    assert store.current(A.ref).revision == number(1)


async def test_old_partials_go_and_young_ones_stay(make_store: Any) -> None:
    store = await make_store()
    for number_ in (1, 2):
        model = Model(f"s3://bucket/{number_}", {"m": sized(MIB)}, number(number_))
        ingest = await store.begin(model.ref, model.plan, source="s3")
        await fill(ingest, model)
    await store.close()
    old = store.root / "ingest" / f"{Model('s3://bucket/1', {}, '').key}-{number(1)}" / "journal"
    os.utime(old, (time.time() - 5000, time.time() - 5000))
    (store.root / "ingest" / "rubbish").mkdir()
    store = await make_store(partial_ttl=4000)
    assert len(listing(store.root / "ingest")) == 1
    assert MIB < store.usage().ingests < 2 * MIB
    await store._open.trash.wait(list(store._index.trash))
    assert MIB < store.usage().allocated < 2 * MIB


async def test_trash_is_emptied_and_counted_until_it_is(make_store: Any) -> None:
    store = await make_store()
    snapshot = await publish(store, A)
    await store.close()
    snapshot.path.rename(store.root / "trash" / "left")
    (store.root / "trash" / "file").write_text("x")
    store = await make_store()
    async with asyncio.timeout(10):
        while store.usage().allocated:
            await asyncio.sleep(0.01)
    for place in ("trash", "blobs/sha256", "current"):
        assert listing(store.root / place) == [], place


async def test_ten_thousand_models_open(make_store: Any) -> None:
    store = await make_store()
    snapshot = await publish(store, Model("s3://bucket/m", {"m": b"x"}, number(1)))
    ref = replace(snapshot.ref, uri="s3://bucket/URI", key="KEY")
    text = encode_manifest(replace(snapshot.manifest, ref=ref, files=())).decode()
    await store.close()
    for index in range(10_000):
        key = f"{index:016x}"
        path = f"{store.root}/snapshots/{key}"
        for directory in (path, f"{path}/{number(1)}", f"{path}/{number(1)}/tree"):
            Path(directory).mkdir()
        with open(f"{path}/{number(1)}/manifest.json", "w") as file:
            file.write(text.replace("URI", str(index)).replace("KEY", key))
    started = time.monotonic()
    store = await make_store()
    print(f"opened 10,000 models in {time.monotonic() - started:.2f} s")
    assert len(store.snapshots()) == 10_001
    assert store.get(f"{77:016x}").manifest.ref.uri == "s3://bucket/77"
    store._open.context.manifests.forget(f"{78:016x}", number(1))
    assert (await store.load_manifest(store.get(f"{78:016x}"))).ref.uri == "s3://bucket/78"


async def test_manifests_in_memory_are_bounded(make_store: Any) -> None:
    store = await make_store()
    snapshots = [
        await publish(store, Model(f"s3://b/{i}", {"m": b"x" * (i + 1)}, number(i)))
        for i in range(5)
    ]
    manifests = Manifests(store.layout, budget=20)
    for snapshot in snapshots:
        manifests.put(snapshot.manifest)
    assert [manifests.has(s.key, s.revision) for s in snapshots] == [
        False,
        False,
        False,
        True,
        True,
    ]
    first = snapshots[0]
    assert await asyncio.to_thread(manifests.get, first.key, first.revision) == first.manifest
    await store.remove(first.key)
    with pytest.raises(StoreError, match="can't be read"):
        await asyncio.to_thread(first.load)


# --- pieces ---------------------------------------------------------------------------------------


async def test_capabilities_are_tried(make_store: Any) -> None:
    store = await make_store()
    capabilities = store.capabilities
    assert isinstance(capabilities, Capabilities)
    assert capabilities.flock
    assert capabilities.hard_link
    assert capabilities.case_sensitive
    assert capabilities.lacks() == ()
    assert listing(store.root / "state") == ["leases", "pins", "views"]
    lacking = replace(capabilities, hard_link=False, flock=False)
    assert len(lacking.lacks()) == 2


@pytest.mark.parametrize(
    ("number_", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, DiskError),
        (errno.EROFS, DiskError),
        (errno.EACCES, StoreError),
    ],
)
def test_a_failing_disk_is_named(number_: int, kind: type) -> None:
    error = to_disk_error(OSError(number_, os.strerror(number_)), "writing", "/mnt/nvme")
    assert type(error) is kind
    assert "writing" in error.message
    if kind is not StoreError:
        assert "/mnt/nvme" in error.message
        assert error.hint


def test_measuring_counts_an_inode_once_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"x" * 10_000)
    os.link(tmp_path / "d" / "a", tmp_path / "b")
    (tmp_path / "etc").symlink_to("/etc")
    found = measure(tmp_path)
    blocks = sum(
        path.lstat().st_blocks * 512
        for path in (tmp_path, tmp_path / "d", tmp_path / "b", tmp_path / "etc")
    )
    assert found.allocated == blocks
    assert found.inodes == 4
    assert found.others == ["etc"]
    assert set(found.files) == {"d/a", "b"}
    assert list(found.linked.values()) == [(tmp_path / "b").stat().st_blocks * 512]


def test_a_sparse_file_counts_its_blocks(tmp_path: Path) -> None:
    with Below(tmp_path) as below:
        assert below.preallocate("a/b/sparse", 10 * MIB, use_fallocate=False) is False
        assert below.preallocate("a/empty", 0, use_fallocate=False) is True
    assert (tmp_path / "a/b/sparse").stat().st_size == 10 * MIB
    assert measure(tmp_path).allocated < MIB
