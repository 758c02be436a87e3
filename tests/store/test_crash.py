"""kill -9 at each named step: what is found afterwards is the old state or the new one, whole, and
an ingest that can be gone on with."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.disk import FLIPPED
from tests.store.dying import NEW, OLD, SHARED, at_once
from tests.store.models import fill, listing, missing_parts, publish, read_back

BEGIN = ["journal", "laid out"]
COMMIT = ["manifest", "synced", "renamed", "parents", "current", "shared"]
REPOSITORY = Path(__file__).parents[2]


def die(root: Path, scenario: str, step: str, count: int = 1) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.dying", root, scenario, step, str(count)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr.decode())


async def check(store: Any, ref: Any) -> int:
    """Whatever can be found is whole; the number of the current revision, 0 if there is none."""
    by_revision = {OLD.revision: OLD, NEW.revision: NEW}
    for snapshot in store.snapshots():
        model = by_revision[snapshot.revision]
        assert read_back(snapshot) == model.content
        assert snapshot.manifest.files == tuple(
            sorted(model.manifest_files, key=lambda file: file.path)
        )
    assert store._index.sums() == store._index.recount()
    await store._open.trash.wait(list(store._index.trash))
    assert listing(store.root / "trash") == []
    for place in ("current", "state"):
        assert not [name for name in listing(store.root / place) if name.endswith(".tmp")]
    current = store.current(ref)
    return 0 if current is None else int(current.revision, 16)


@pytest.mark.parametrize("step", [*BEGIN, *COMMIT])
async def test_killed_in_a_first_fetch(make_store: Any, tmp_path: Path, step: str) -> None:
    die(tmp_path / "root", "first", step)
    store = await make_store()
    is_published = step in COMMIT[2:]
    assert await check(store, OLD.ref) == (1 if is_published else 0)
    ingest = await store.begin(OLD.ref, OLD.plan, source="s3")
    left = await fill(ingest, OLD)
    if step in COMMIT:
        assert left == []  # nothing that was journalled is fetched again
    assert read_back(await ingest.commit(OLD.manifest_files, metadata={})) == OLD.content
    assert listing(store.root / "ingest") == []


@pytest.mark.parametrize("step", [*BEGIN, "linked", *COMMIT])
async def test_killed_in_an_update(make_store: Any, tmp_path: Path, step: str) -> None:
    die(tmp_path / "root", "update", step)
    store = await make_store()
    assert await check(store, OLD.ref) == (2 if step in COMMIT[4:] else 1)
    ingest = await store.begin(NEW.ref, NEW.plan, source="s3")
    assert "w" not in {part.path for part in missing_parts(ingest, NEW)}
    await fill(ingest, NEW)
    await ingest.commit(NEW.manifest_files, metadata={})
    assert await check(store, OLD.ref) == 2
    size = store.usage().allocated
    assert size < 9_000_000 + 3_000_000 + 200_000  # the shared file once
    await store.collect(dry_run=False)
    assert [snapshot.revision for snapshot in store.snapshots()] == [NEW.revision]
    assert len(listing(store.root / "blobs" / "sha256")) == 3


@pytest.mark.parametrize(("step", "count"), [("trashed", 1), ("trashed", 2), ("unlinked", 1)])
async def test_killed_in_a_removal(make_store: Any, tmp_path: Path, step: str, count: int) -> None:
    die(tmp_path / "root", "remove", step, count)
    store = await make_store()
    await check(store, OLD.ref)
    for snapshot in store.snapshots():
        await store.remove(snapshot.key)
    assert store.usage().allocated == 0
    for place in ("snapshots", "current", "trash", "blobs/sha256"):
        assert listing(store.root / place) == [], place
    assert read_back(await publish(store, OLD)) == OLD.content


REPAIR = ["repair marked", "journal", "linked", "laid out", "repair copied", "manifest", "synced"]
MEND = ["repair renamed", "repair relinked", "repair unmarked", "current"]


@pytest.mark.parametrize(
    ("step", "count"),
    [*((step, 1) for step in [*REPAIR, *MEND]), ("repair marked", 2), ("repair relinked", 2)],
)
async def test_killed_in_a_repair(make_store: Any, tmp_path: Path, step: str, count: int) -> None:
    """Each file is the old one or the new one, whole; nothing damaged is given meanwhile."""
    die(tmp_path / "root", "repair", step, count)
    bad = bytearray(SHARED)
    bad[8_500_000] ^= FLIPPED
    store = await make_store()
    assert store._index.sums() == store._index.recount()
    for snapshot in store.snapshots():
        content = read_back(snapshot)["w"]
        assert content in (SHARED, bytes(bad))
    for revision in (OLD.revision, NEW.revision):
        await store.checks.inspect(OLD.key, revision, pace=at_once)
    for model in (OLD, NEW):
        snapshot = store.get(model.key, model.revision)
        assert bool(snapshot.damage) == (read_back(snapshot)["w"] != SHARED)
        if not snapshot.damage:
            continue
        ingest = await store.begin(model.ref, model.plan, source="s3")
        left = await fill(ingest, model)
        assert [part.offset for part in left] in ([8 << 20], [])
        await ingest.commit(model.manifest_files, metadata={})
    for model in (OLD, NEW):
        snapshot = store.get(model.key, model.revision)
        assert (snapshot.damage, read_back(snapshot)) == ((), model.content)
        assert not (snapshot.path / "corrupt.json").exists()
    for ingest in list(store._index.ingests.values()):
        await store._open.trash.discard([ingest])
    await store._open.trash.wait(list(store._index.trash))
    assert store._index.sums() == store._index.recount()
    blobs = store.root / "blobs" / "sha256"
    for blob in blobs.iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


async def test_whose_pass_was_needed_is_known_after_two_boots(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private bytes that were resumed after a reboot, and again after a kill, stay private."""
    store = await make_store()
    ingest = await store.begin(OLD.ref, OLD.plan, source="s3")
    await ingest.mark_credentialed("caller")
    await fill(ingest, OLD)
    await ingest.suspend()
    await store.close()
    for boot in ("second", "third"):
        monkeypatch.setattr("cachd.store.startup.boot_id", lambda boot=boot: boot)
        store = await make_store()
        ingest = await store.begin(OLD.ref, OLD.plan, source="s3")
        await ingest.suspend()
        await store.close()
    store = await make_store()
    ingest = await store.begin(OLD.ref, OLD.plan, source="s3")
    snapshot = await ingest.commit(OLD.manifest_files)
    assert snapshot.info.is_credentialed
    assert snapshot.info.identity == "caller"


async def test_a_blob_goes_with_the_ingest_that_took_it_over_by_etag(make_store: Any) -> None:
    """No source claimed a digest, so only the inode leads from the ingest to the blob."""
    store = await make_store()
    await publish(store, OLD)
    ingest = await store.begin(NEW.ref, NEW.plan, source="s3")
    assert "w" in ingest.linked
    await ingest.suspend()
    row = store._index.snapshots[OLD.key, OLD.revision]
    await store._open.room.evict(((row, "requested", 0),))
    assert len(listing(store.root / "blobs" / "sha256")) == 1
    await store.remove(NEW.key)
    assert listing(store.root / "blobs" / "sha256") == []
    assert store.usage().allocated == 0


async def test_what_is_held_is_right_without_the_journal(make_store: Any) -> None:
    """The journal goes with the commit; what it took isn't counted any more."""
    store = await make_store()
    await publish(store, OLD)
    said = store.usage().allocated
    await store.close()
    assert (await make_store()).usage().allocated == said
