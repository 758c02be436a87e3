"""Revisions that lie beside the current one, and how they take its place."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import ModelUnknown
from cachd.store import updates as records
from cachd.store.updates import NOTHING, UpdateRecord
from tests.store.dying import NEW, OLD
from tests.store.models import Model, listing, number, publish, read_back
from tests.store.test_crash import COMMIT, check, die

HELD = [step for step in COMMIT if step != "current"]
MOVE = ["update written", "parents", "current"]


@pytest.mark.parametrize("step", HELD)
async def test_killed_while_a_held_revision_is_published(
    make_store: Any, tmp_path: Path, step: str
) -> None:
    die(tmp_path / "root", "held", step)
    store = await make_store()
    assert await check(store, OLD.ref) == 1
    assert read_back(await publish(store, NEW, is_held=True)) == NEW.content
    assert await check(store, OLD.ref) == 1
    await publish(store, NEW)
    assert await check(store, OLD.ref) == 2


@pytest.mark.parametrize("step", MOVE)
async def test_killed_in_a_promotion(make_store: Any, tmp_path: Path, step: str) -> None:
    die(tmp_path / "root", "promotion", step)
    store = await make_store()
    is_moved = step == "current"
    assert await check(store, OLD.ref) == (2 if is_moved else 1)
    record = store.updates.get(OLD.key)
    assert (record.waiting, record.refused) == ("", ())
    await store.updates.promote(OLD.key, NEW.revision)
    assert await check(store, OLD.ref) == 2


@pytest.mark.parametrize("step", MOVE)
async def test_killed_while_going_back(make_store: Any, tmp_path: Path, step: str) -> None:
    """Either it didn't happen, or what is refused is known."""
    die(tmp_path / "root", "going back", step)
    store = await make_store()
    is_moved = step == "current"
    assert await check(store, OLD.ref) == (1 if is_moved else 2)
    assert store.updates.get(OLD.key).refused == ((NEW.revision,) if is_moved else ())


async def test_nothing_holds_back_a_first_fetch_or_what_replaces_a_corrupt_one(
    make_store: Any,
) -> None:
    store = await make_store()
    first = await publish(store, OLD, is_held=True)
    assert first.is_current
    file = first.tree / "w"
    file.chmod(0o644)
    with file.open("r+b") as writer:
        writer.write(b"?")

    async def at_once(_: int) -> bool:
        return True

    await store.checks.inspect(OLD.key, OLD.revision, pace=at_once)
    # All of NEW's files are its own: a damaged one is nothing to share.
    assert (await publish(store, NEW, is_held=True)).is_current


async def test_a_record_is_kept_as_long_as_its_model(make_store: Any, tmp_path: Path) -> None:
    record = UpdateRecord(waiting=NEW.revision, seen=1.5, refused=(number(7),), by="a person")
    store = await make_store()
    await publish(store, OLD)
    await store.updates.put(OLD.key, record)
    await store.close()
    # Files of nobody's, and a torn one, keep nobody from starting.
    place = tmp_path / "root" / "state" / "updates"
    (place / "ab12").write_bytes(b'{"waiting": 3')
    (place / "cd34.tmp").write_bytes(b"")
    store = await make_store()
    assert store.updates.get(OLD.key) == record
    assert store.updates.waiting() == {OLD.key: NEW.revision}
    assert [path.name for path in place.iterdir()] == [OLD.key]
    await store.remove(OLD.key)
    await store.tidy()
    assert store.updates.get(OLD.key) == NOTHING
    assert list(place.iterdir()) == []


async def test_a_daemon_that_knows_no_records_has_moved_on(make_store: Any) -> None:
    """What it left behind is forgotten for good."""
    store = await make_store()
    await publish(store, OLD)
    await publish(store, NEW, is_held=True)
    await store.updates.put(OLD.key, UpdateRecord(waiting=NEW.revision, was_here=True))
    await store.close()
    (store.root / "current" / OLD.key).write_text(NEW.revision + "\n")
    store = await make_store()
    assert store.current(OLD.ref).revision == NEW.revision
    assert store.updates.get(OLD.key) == NOTHING
    assert listing(store.root / "state" / "updates") == []


async def test_what_is_not_here_is_not_made_current(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    with pytest.raises(ModelUnknown):
        await store.updates.promote(OLD.key, NEW.revision)
    assert store.current(OLD.ref).revision == OLD.revision


async def test_the_old_one_goes_first_and_what_waits_like_a_current_one(make_store: Any) -> None:
    store = await make_store(min_idle=0.0)
    for count in (1, 2, 3):
        model = Model(OLD.uri, {"w": bytes([count]) * 1_000_000}, number(count))
        await publish(store, model, is_held=count == 3)
    await store.updates.put(OLD.key, UpdateRecord(waiting=number(3)))
    report = await store.collect(dry_run=True)
    assert [(v.revision, v.reason) for v in report.evicted] == [(number(1), "superseded")]
    report = await store.collect(dry_run=True, target=0)
    assert {v.revision: v.reason for v in report.evicted} == {
        number(1): "superseded",
        number(2): "requested",
        number(3): "requested",
    }
    await store.pin(OLD.key)
    report = await store.collect(dry_run=True, target=0)
    assert [v.revision for v in report.evicted] == [number(1)]


async def test_what_waits_goes_before_what_is_given_in_its_place(make_store: Any) -> None:
    """Though that was used longer ago; else the update would be given for want of room."""
    store = await make_store(min_idle=0.0)
    for count, size in ((1, 3_000_000), (2, 1_000_000)):
        model = Model(OLD.uri, {"w": bytes([count]) * size}, number(count))
        await publish(store, model, is_held=count == 2)
    await store.updates.put(OLD.key, UpdateRecord(waiting=number(2)))

    async def gone(target: int) -> list[str]:
        report = await store.collect(dry_run=True, target=target)
        return [victim.revision for victim in report.evicted]

    charged = store.usage().allocated
    assert await gone(charged - 500_000) == [number(2)]
    # Nor is it spared because the other one alone would do.
    assert await gone(charged - 2_000_000) == [number(2), number(1)]


async def test_a_pin_counts_what_waits_as_well(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    await store.pin(OLD.key)
    pinned = store.usage().pinned
    await publish(store, NEW, is_held=True)
    assert store.usage().pinned == pinned
    await store.updates.put(OLD.key, UpdateRecord(waiting=NEW.revision))
    assert store.usage().pinned > pinned


async def test_a_full_disk_at_the_start_forgets_no_refusal(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make_store()
    await publish(store, OLD)
    await publish(store, NEW)
    record = UpdateRecord(waiting=NEW.revision, refused=(number(7),))
    await store.updates.put(OLD.key, record)
    await store.close()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records, "replace_file", full)
    store = await make_store()
    assert store.updates.get(OLD.key) == UpdateRecord(refused=(number(7),))
