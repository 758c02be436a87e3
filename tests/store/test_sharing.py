"""Files that are here already are linked, and counted once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cachd.model import Digest
from tests.store.models import (
    MIB,
    Model,
    fill,
    listing,
    missing_parts,
    number,
    publish,
    read_back,
    sized,
)

SIZE = 3 * MIB
WEIGHTS = sized(SIZE, 1)


def old() -> Model:
    return Model("s3://bucket/m", {"w": WEIGHTS, "config": b"1", "gone": b"x" * 5000}, number(1))


def new(**changes: Any) -> Model:
    return Model(
        "s3://bucket/m", {"w": WEIGHTS, "config": b"2", "more": b"y" * 6000}, number(2), **changes
    )


async def begin(store: Any, model: Model) -> Any:
    return await store.begin(model.ref, model.plan, source="s3")


async def test_a_new_revision_links_what_has_not_changed(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, old())
    before = store.usage().allocated
    ingest = await begin(store, new())
    assert ingest.linked == {"w"}
    assert [part.path for part in ingest.done["w"]] == ["w"]
    assert ingest.done["w"][0].blocks == old().blocks("w")
    assert {part.path for part in missing_parts(ingest, new())} == {"config", "more"}
    await fill(ingest, new())
    second = await ingest.commit(new().manifest_files, metadata={})
    assert (first.tree / "w").stat().st_ino == (second.tree / "w").stat().st_ino
    assert read_back(first) == old().content
    assert read_back(second) == new().content
    assert store.usage().allocated < before + 200_000
    assert store._index.sums() == store._index.recount()


async def test_a_linked_file_stays_verified(make_store: Any) -> None:
    store = await make_store()
    digest = Digest(algorithm="md5", value="0" * 32)
    first = await begin(store, old())
    await fill(first, old())
    await first.commit([replace(file, digests=(digest,)) for file in old().manifest_files])
    second = await begin(store, new())
    await fill(second, new())
    snapshot = await second.commit([replace(file, digests=()) for file in new().manifest_files])
    digests = {file.path: file.digests for file in snapshot.manifest.files}
    assert digests == {"w": (digest,), "config": (), "more": ()}


async def test_a_restart_counts_the_same(make_store: Any) -> None:
    store = await make_store()
    await publish(store, old())
    await publish(store, new())
    await store.close()
    store = await make_store()
    assert SIZE < store.usage().allocated < SIZE + 200_000
    assert store._index.sums() == store._index.recount()
    report = await store.collect(dry_run=True)
    assert 0 < report.freed < 200_000  # the old revision alone doesn't free the weights
    assert len(store._index.table) == 1


async def test_blocks_shared_with_a_survivor_free_nothing(make_store: Any) -> None:
    store = await make_store(quota="7MiB")
    await publish(store, old())
    await publish(store, new())
    plan = store.plan_space(4 * MIB)
    assert plan.fits
    assert sum(victim.bytes for victim in plan.victims) >= SIZE
    assert len(plan.victims) == 2  # both revisions: either alone would free next to nothing
    other = Model("s3://bucket/o", {"o": sized(4 * MIB, 9)}, number(3))
    await publish(store, other)
    assert [snapshot.ref.uri for snapshot in store.snapshots()] == ["s3://bucket/o"]
    assert store.usage().allocated < 5 * MIB


async def test_a_weak_etag_shares_nothing(make_store: Any) -> None:
    store = await make_store()
    await publish(store, replace(old(), etag='W/"1"'))
    ingest = await begin(store, new(etag='W/"1"'))
    assert ingest.linked == frozenset()
    await ingest.abort()


async def test_another_origin_shares_nothing_without_a_strong_digest(make_store: Any) -> None:
    store = await make_store()
    await publish(store, old())
    ingest = await begin(store, new(origin="s3+https://evil.example"))
    assert ingest.linked == frozenset()
    await ingest.abort()


async def test_another_uri_shares_nothing_without_a_strong_digest(make_store: Any) -> None:
    store = await make_store()
    await publish(store, replace(old(), etag='"same"'))
    other = replace(new(etag='"same"'), uri="s3://bucket/other")
    ingest = await begin(store, other)
    assert ingest.linked == frozenset()
    await ingest.abort()


async def test_a_sha256_is_shared_across_sources_and_paths(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, old())
    other = Model(
        "https://hub/m",
        {"weights/renamed": WEIGHTS, "copy": WEIGHTS},
        number(9),
        claims_sha256=True,
        origin="https://hub",
    )
    for _ in range(2):
        ingest = await begin(store, other)
        assert ingest.linked == {"weights/renamed", "copy"}
        assert missing_parts(ingest, other) == []
        await ingest.suspend()
    ingest = await begin(store, other)
    assert ingest.linked == {"weights/renamed", "copy"}
    second = await ingest.commit(other.manifest_files, metadata={})
    assert read_back(second) == other.content
    assert (second.tree / "copy").stat().st_ino == (first.tree / "w").stat().st_ino
    assert store.usage().allocated < SIZE + 200_000
    assert store._index.sums() == store._index.recount()


async def test_gated_content_is_not_given_for_its_digest(make_store: Any) -> None:
    """Whoever knows a digest could have his own server claim it."""
    store = await make_store()
    await publish(store, replace(old(), is_credentialed=True))
    thief = Model(
        "https://evil/m", {"w": WEIGHTS}, number(9), claims_sha256=True, origin="https://evil"
    )
    ingest = await begin(store, thief)
    assert ingest.linked == frozenset()
    await ingest.abort()
    # Within the origin, only for who needed a pass as well.
    kin = replace(thief, uri="s3://bucket/kin", origin=old().origin)
    ingest = await begin(store, kin)
    assert ingest.linked == frozenset()
    await ingest.abort()
    ingest = await begin(store, replace(kin, is_credentialed=True))
    assert ingest.linked == {"w"}
    await ingest.abort()


async def test_a_blob_goes_with_its_last_snapshot(make_store: Any) -> None:
    store = await make_store()
    await publish(store, old())
    await publish(store, new())
    blobs = store.root / "blobs" / "sha256"
    assert len(listing(blobs)) == 5
    await store.collect(dry_run=False)
    assert len(listing(blobs)) == 3
    await store.remove(old().key)
    assert listing(blobs) == []
    assert store.usage().allocated == 0


async def test_an_aborted_ingest_leaves_shared_files_alone(make_store: Any) -> None:
    store = await make_store()
    first = await publish(store, old())
    ingest = await begin(store, new())
    await ingest.abort()
    await store._open.trash.wait(list(store._index.trash))
    assert read_back(first) == old().content
    assert store._index.table == {}
    assert store._index.sums() == store._index.recount()


async def test_linked_files_outlive_the_snapshot_they_came_from(make_store: Any) -> None:
    store = await make_store()
    await publish(store, old())
    ingest = await begin(store, new())
    await store.remove(old().key, force=True)
    assert store.usage().allocated > SIZE
    await ingest.suspend()
    await store.close()
    store = await make_store()
    assert store.usage().allocated > SIZE
    ingest = await begin(store, new())
    assert ingest.linked == {"w"}
    await fill(ingest, new())
    assert read_back(await ingest.commit(new().manifest_files, metadata={})) == new().content
    assert store._index.sums() == store._index.recount()


@pytest.mark.parametrize("cut", ["size", "gone"])
async def test_a_damaged_donor_is_not_shared(make_store: Any, cut: str) -> None:
    store = await make_store()
    first = await publish(store, old())
    path = first.tree / "w"
    path.unlink()
    if cut == "size":
        path.write_bytes(b"short")
    ingest = await begin(store, new())
    assert ingest.linked == frozenset()
    await ingest.abort()
