"""What an opening store finds in its root: what is repaired, what goes, what is measured."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import (
    DiskError,
    DiskFull,
    StoreError,
)
from cachd.store.capabilities import Capabilities
from cachd.store.fsio import Below, measure, to_disk_error
from cachd.store.manifests import Manifests, encode_manifest
from tests.store.models import MIB, Model, fill, listing, number, publish, read_back, sized

A = Model("s3://bucket/a", {"m": sized(MIB, 1), "d/e": b"e"}, number(1))


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
        # A small file may have no block yet.
        while store.usage().allocated or listing(store.root / "trash"):
            await asyncio.sleep(0.01)
    for place in ("trash", "blobs/sha256", "current"):
        assert listing(store.root / place) == [], place


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_models_open(make_store: Any, count: int) -> None:
    store = await make_store()
    snapshot = await publish(store, Model("s3://bucket/m", {"m": b"x"}, number(1)))
    ref = replace(snapshot.ref, uri="s3://bucket/URI", key="KEY")
    text = encode_manifest(replace(snapshot.manifest, ref=ref, files=())).decode()
    await store.close()
    for index in range(count):
        key = f"{index:016x}"
        path = f"{store.root}/snapshots/{key}"
        for directory in (path, f"{path}/{number(1)}", f"{path}/{number(1)}/tree"):
            Path(directory).mkdir()
        with open(f"{path}/{number(1)}/manifest.json", "w") as file:
            file.write(text.replace("URI", str(index)).replace("KEY", key))
    started = time.monotonic()
    store = await make_store()
    print(f"opened {count} models in {time.monotonic() - started:.2f} s")
    assert len(store.snapshots()) == count + 1
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
    assert listing(store.root / "state") == ["leases", "pins", "updates", "views"]
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
