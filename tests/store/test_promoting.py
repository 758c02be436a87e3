"""A person says which revision is given: what a disk that fails, and a caller that goes, leave."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import suppress
from typing import Any

import pytest

from cachd.cache.events import EventBus
from cachd.cache.updating import Updates
from cachd.errors import CachdError, DiskFull, ModelUnknown
from cachd.metrics import Metrics
from cachd.settings import RefreshRule
from cachd.store import updates as records
from cachd.store.updates import UpdateRecord
from tests.store.dying import NEW, OLD
from tests.store.models import number, publish

KEY = OLD.key
MANUAL = RefreshRule.model_validate({"match": "*", "every": 60, "move": "manual"})
WAITS = UpdateRecord(waiting=NEW.revision, seen=1.5, was_here=True, promoted=OLD.revision, by="ann")


def updates_of(store: Any) -> Updates:
    return Updates(store, (), Metrics(), EventBus())


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["replace_file", "set_current"])
async def test_a_promotion_that_fails_refuses_nothing(
    make_store: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = await make_store()
    await publish(store, OLD)
    await publish(store, NEW)
    before = UpdateRecord(waiting=number(9), seen=1.5)
    await store.updates.put(KEY, before)
    with monkeypatch.context() as patch:
        patch.setattr(records, name, full)
        with pytest.raises(DiskFull):
            await updates_of(store).promote(KEY, OLD.revision, "ann")
    assert store.updates.get(KEY) == before
    assert store.current(OLD.ref).revision == NEW.revision
    await store.close()
    store = await make_store()
    assert store.updates.get(KEY) == before
    assert store.current(OLD.ref).revision == NEW.revision


async def test_an_approval_that_fails_approves_nothing(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make_store()
    await publish(store, OLD)
    await store.updates.put(KEY, WAITS)
    monkeypatch.setattr(records, "replace_file", full)
    with pytest.raises(DiskFull):
        await updates_of(store).promote(KEY, None, "ben")
    assert store.updates.get(KEY) == WAITS


@pytest.mark.parametrize("is_taken", [False, True], ids=["promoted", "taken"])
async def test_a_caller_that_goes_cuts_no_promotion_short(
    make_store: Any, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    store = await make_store()
    await publish(store, OLD)
    await publish(store, NEW, is_held=True)
    await store.updates.put(KEY, UpdateRecord(waiting=NEW.revision, seen=1.5, was_here=True))
    updates, began, go_on = updates_of(store), threading.Event(), threading.Event()
    set_current = records.set_current

    def held_up(*arguments: Any) -> None:
        began.set()
        go_on.wait(30)
        set_current(*arguments)

    monkeypatch.setattr(records, "set_current", held_up)
    if is_taken:
        work: Any = updates.take(store.current(OLD.ref), NEW.revision)
    else:
        work = updates.promote(KEY, NEW.revision, "ann")
    task = asyncio.create_task(work)
    await asyncio.to_thread(began.wait, 30)
    task.cancel()
    go_on.set()
    with suppress(asyncio.CancelledError):
        await task
    said = (store.root / "current" / KEY).read_text().strip()
    assert store.current(OLD.ref).revision == said == NEW.revision
    assert store.updates.get(KEY).waiting == ""


async def test_who_approves_one_has_not_promoted_the_other(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    await store.updates.put(KEY, WAITS)
    updates = updates_of(store)
    assert await updates.promote(KEY, None, "ben") == (NEW.revision, OLD.revision, "approved")
    assert updates.promoted(store.current(OLD.ref)).by == "ann"
    before = store.current(OLD.ref)
    await updates.landed(before, await publish(store, NEW))
    assert updates.promoted(store.current(OLD.ref)).by == "ben"


async def test_what_was_refused_and_has_made_room_can_be_approved(make_store: Any) -> None:
    store = await make_store()
    await publish(store, OLD)
    updates = updates_of(store)
    await store.updates.put(KEY, UpdateRecord(refused=(NEW.revision, number(7)), waiting=number(8)))
    with pytest.raises(ModelUnknown):
        # Its source has something newer.
        await updates.promote(KEY, NEW.revision, "ann")
    await store.updates.put(KEY, UpdateRecord(refused=(NEW.revision, number(7))))
    assert await updates.promote(KEY, NEW.revision, "ann") == (
        NEW.revision,
        OLD.revision,
        "approved",
    )
    assert store.updates.get(KEY).refused == (number(7),)
    # The next look finds it there still.
    await updates.note(store.current(OLD.ref), NEW.revision)
    assert updates.is_approved(OLD.ref, NEW.revision)
    assert not updates.holds(store.current(OLD.ref), NEW.plan)
    with pytest.raises(CachdError):
        await updates.promote(KEY, number(99), "ann")


async def test_what_is_given_is_kept_and_not_used_while_a_held_one_is_fetched(
    make_store: Any,
) -> None:
    store = await make_store()
    current = await publish(store, OLD)
    updates = Updates(store, (MANUAL,), Metrics(), EventBus())
    used = store.current(OLD.ref).last_used

    async def would_go() -> list[str]:
        return [v.revision for v in (await store.collect(dry_run=True, target=0)).evicted]

    with updates.keeping(OLD.ref, NEW.plan):
        assert await would_go() == []
    assert await would_go() == [OLD.revision]
    assert store.current(OLD.ref).last_used == used
    await store.updates.put(KEY, UpdateRecord(waiting=NEW.revision, approved=NEW.revision))
    with updates.keeping(OLD.ref, NEW.plan), updates.keeping(OLD.ref, OLD.plan):
        assert await would_go() == [current.revision]
