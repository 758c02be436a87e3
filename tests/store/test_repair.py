"""Damage is found, remembered, and mended file by file; the sums stay those of the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachd.errors import DigestMismatch, OriginChanged
from cachd.model import BLOCK_SIZE
from cachd.store.damage import FileDamage, block_ranges, merge, merge_blocks
from tests.store.dying import at_once, flip
from tests.store.models import (
    ManualClock,
    Model,
    fill,
    number,
    publish,
    read_back,
    sized,
    write_part,
)

W = sized(2 * BLOCK_SIZE + 5, 1)
FIRST = Model("s3://bucket/m", {"w": W, "c": b"one"}, number(1))
SECOND = Model("s3://bucket/m", {"w": W, "c": b"two"}, number(2))
TWIN = Model("s3://other/m", {"deep/er/w": W}, number(3), claims_sha256=True)


@given(st.integers(0, 20 * BLOCK_SIZE))
def test_blocks_cover_a_file_once(size: int) -> None:
    at = 0
    for count, (index, offset, length) in enumerate(block_ranges(size)):
        assert (index, offset) == (count, at)
        assert 0 < length <= BLOCK_SIZE
        assert length == BLOCK_SIZE or offset + length == size
        at += length
    assert at == size


@given(st.integers(1, 20 * BLOCK_SIZE), st.data())
def test_runs_are_just_the_bad_blocks(size: int, data: st.DataObject) -> None:
    blocks = list(block_ranges(size))
    bad = data.draw(st.sets(st.sampled_from([index for index, _, _ in blocks])))
    runs = merge_blocks(bad, size)
    assert sum(length for _, length in runs) == sum(n for i, _, n in blocks if i in bad)
    for (offset, length), (following, _) in pairwise(runs):
        assert offset + length < following
    covered = {i for i, at, n in blocks for o, le in runs if o <= at and at + n <= o + le}
    assert covered == bad


damages = st.dictionaries(
    st.sampled_from("abcd"), st.sets(st.integers(0, 5), min_size=1).map(lambda s: tuple(sorted(s)))
).map(
    lambda found: {
        path: FileDamage(path=path, problem="blocks", blocks=blocks)
        for path, blocks in found.items()
    }
)


@given(damages, damages, st.sampled_from("abcd"), st.integers(0, 5))
def test_a_resumed_look_keeps_what_lies_before_it(
    old: dict[str, FileDamage], found: dict[str, FileDamage], path: str, block: int
) -> None:
    """Block by block: before the start what was known, from there on what was found."""
    found = {
        name: FileDamage(path=name, problem="blocks", blocks=tuple(b for b in d.blocks if b >= low))
        for name, d in found.items()
        if (low := block if name == path else 0) <= max(d.blocks) and name >= path
    }
    merged = merge(old, found, (path, block))
    blocks = {(name, b) for name, d in merged.items() for b in d.blocks}
    before = {(n, b) for n, d in old.items() for b in d.blocks if (n, b) < (path, block)}
    after = {(n, b) for n, d in found.items() for b in d.blocks}
    assert blocks == before | after


def held_on_disk(root: Path) -> int:
    seen = {}
    for place in ("snapshots", "quarantine"):
        for path in (root / place).rglob("*"):
            if path.parent != root / "snapshots":
                seen[path.lstat().st_ino] = path.lstat().st_blocks * 512
    return sum(seen.values())


async def settled(store: Any) -> None:
    await store._open.trash.wait(list(store._index.trash))
    assert store._index.sums() == store._index.recount()
    assert store.usage().allocated == held_on_disk(store.root)


async def test_all_names_of_a_bad_file_are_mended_but_a_users(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, FIRST)
    second = await publish(store, SECOND)
    twin = await publish(store, TWIN)
    paths = [first.tree / "w", second.tree / "w", twin.tree / "deep/er/w"]
    assert len({path.stat().st_ino for path in paths}) == 1
    mine = store.root.parent / "mine"
    os.link(paths[0], mine)
    flip(paths[1], BLOCK_SIZE + 1)
    found = await store.checks.inspect(SECOND.key, SECOND.revision, pace=at_once)
    assert found.damage["w"].blocks == (1,)
    # Who shares the inode shares the damage.
    for model in (FIRST, SECOND, TWIN):
        assert store.get(model.key, model.revision).damage
        assert store.current(model.ref) is None
    assert store.usage().corrupt == 3
    await settled(store)
    ingest = await store.begin(SECOND.ref, SECOND.plan, source="s3")
    assert "w" not in ingest.linked
    left = await fill(ingest, SECOND)
    assert [(part.path, part.offset) for part in left] == [("w", BLOCK_SIZE)]
    mended = await ingest.commit(SECOND.manifest_files, metadata={})
    assert mended.path == second.path
    for path in paths:
        assert path.read_bytes() == W
    assert len({path.stat().st_ino for path in paths}) == 1
    assert mine.read_bytes() != W
    assert store.usage().corrupt == 0
    [blob] = [p for p in (store.root / "blobs/sha256").iterdir() if p.stat().st_size == len(W)]
    assert blob.stat().st_ino == paths[0].stat().st_ino
    await settled(store)
    await store.close()
    again = await make_store()
    assert again.usage().corrupt == 0
    assert again._index.sums() == again._index.recount()


async def test_a_new_revision_does_not_link_what_is_damaged(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, FIRST)
    flip(first.tree / "w", 0)
    await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once)
    ingest = await store.begin(SECOND.ref, SECOND.plan, source="s3")
    assert ingest.linked == frozenset()
    await fill(ingest, SECOND)
    assert read_back(await ingest.commit(SECOND.manifest_files, metadata={})) == SECOND.content
    twin = await store.begin(TWIN.ref, TWIN.plan, source="s3")
    await fill(twin, TWIN)
    assert read_back(await twin.commit(TWIN.manifest_files, metadata={})) == TWIN.content
    await settled(store)


async def test_what_was_linked_before_the_damage_was_found_is_not_published(
    make_store: Any,
) -> None:
    store = await make_store()
    first = await publish(store, FIRST)
    ingest = await store.begin(SECOND.ref, SECOND.plan, source="s3")
    assert "w" in ingest.linked
    await fill(ingest, SECOND)
    flip(first.tree / "w", 0)
    await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once)
    with pytest.raises(DigestMismatch):
        await ingest.commit(SECOND.manifest_files, metadata={})
    await ingest.abort()
    assert read_back(await publish(store, SECOND)) == SECOND.content
    await settled(store)


@pytest.mark.parametrize("is_validated", [True, False])
async def test_other_bytes_are_no_repair(make_store: Any, is_validated: bool) -> None:
    """Under a validator they are refused; without one they take the damaged copy's place, unless
    somebody holds that."""
    plan = replace(FIRST.plan, is_validated=is_validated)
    store = await make_store()
    ingest = await store.begin(FIRST.ref, plan, source="s3")
    await fill(ingest, FIRST)
    snapshot = await ingest.commit(FIRST.manifest_files, metadata={})
    lease = await store.lease(FIRST.key, None, "pod", 60)
    flip(snapshot.tree / "w", 0)
    await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once)
    other = Model(FIRST.uri, {**FIRST.content, "w": sized(len(W), 9)}, FIRST.revision)
    ingest = await store.begin(FIRST.ref, plan, source="s3")
    for part in other.parts("w"):
        write_part(ingest.tree, other, part)
    with pytest.raises(DigestMismatch if is_validated else OriginChanged):
        await ingest.commit(other.manifest_files, metadata={})
    await store.release(lease.id)
    if is_validated:
        await ingest.abort()
        assert store.current(FIRST.ref) is None
    else:
        assert read_back(await ingest.commit(other.manifest_files, metadata={})) == other.content
    await settled(store)


async def test_it_goes_on_where_it_was_interrupted(make_store: Any) -> None:
    clock = ManualClock()
    store = await make_store(clock=clock)
    await publish(store, FIRST)
    clock.advance(10)
    await publish(store, TWIN)
    checks = store.checks
    assert checks.next_due(100) is None
    clock.advance(95)
    assert checks.next_due(100) == (FIRST.key, FIRST.revision)
    left = 2

    async def pace(_count: int) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    found = await checks.inspect(FIRST.key, FIRST.revision, pace=pace)
    assert (found.stopped_at, found.blocks) == (("w", 1), 2)
    checks.progress.key, checks.progress.revision = FIRST.key, FIRST.revision
    checks.progress.at = found.stopped_at
    await checks.save()
    await store.close()
    store = await make_store(clock=clock)
    checks = store.checks
    assert checks.progress.at == ("w", 1)
    assert checks.next_due(1e9) == (FIRST.key, FIRST.revision)
    found = await checks.inspect(FIRST.key, FIRST.revision, pace=at_once, start=checks.progress.at)
    assert (found.blocks, found.bytes) == (2, BLOCK_SIZE + 5)
    checks.progress.at = ("", 0)
    assert store.get(FIRST.key).checked_at == clock.wall
    clock.advance(6)
    assert checks.next_due(100) == (TWIN.key, TWIN.revision)


async def test_what_is_removed_meanwhile_tells_nothing(make_store: Any) -> None:
    store = await make_store()
    await publish(store, FIRST)

    async def remove(_count: int) -> bool:
        if store.get(FIRST.key):
            await store.remove(FIRST.key)
        return True

    assert await store.checks.inspect(FIRST.key, FIRST.revision, pace=remove) is None
    assert await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once) is None


async def test_a_marked_snapshot_that_lacks_files_survives_a_restart(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, FIRST)
    os.truncate(_writable(first.tree / "w"), 5)
    await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once)
    await store.close()
    store = await make_store()
    assert store.current(FIRST.ref) is None
    [damage] = store.get(FIRST.key).damage
    assert (damage.problem, damage.blocks) == ("size", (0, 1, 2))
    assert read_back(await publish(store, FIRST)) == FIRST.content
    (first.path / "corrupt.json").write_text("{no json")
    await store.close()
    store = await make_store()
    assert len(store.get(FIRST.key).damage) == 2
    await store.checks.inspect(FIRST.key, FIRST.revision, pace=at_once)
    assert store.current(FIRST.ref) is not None
    await settled(store)


def _writable(path: Path) -> Path:
    path.chmod(0o644)
    return path
