"""The root is taken or refused: what lies there, who holds its lock, what is mounted on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import (
    LayoutUnsupported,
    RootLocked,
    RootUnusable,
    VolumeUnexpected,
)
from cachd.settings import LeaseSettings, StoreSettings
from cachd.store.mounts import mount_of, parse_mountinfo
from cachd.store.store import Store
from tests.disk import names_below
from tests.store.models import MIB, Model, number, publish, read_back, sized

A = Model("s3://bucket/a", {"m": sized(MIB, 1), "d/e": b"e"}, number(1))


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
    assert names_below(tmp_path / "root") == ["thesis.doc"]


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
    before = names_below(tmp_path / "root")
    with pytest.raises(LayoutUnsupported, match=r"9\.0") as caught:
        await make_store()
    assert "another root" in caught.value.hint
    assert names_below(tmp_path / "root") == before


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
    assert names_below(tmp_path) == ["nvme"]


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
