"""Ingests that stop half-way, by suspension, restart, crash or cancellation, and go on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from cachd.errors import InternalError
from cachd.model import BLOCK_SIZE, Validator
from tests.disk import flip
from tests.store.models import (
    MIB,
    WEIGHTS,
    Model,
    fill,
    listing,
    missing_parts,
    number,
    publish,
    read_back,
    write_part,
)


async def test_suspended_ingest_goes_on_where_it_stopped(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    first = model.parts("model.safetensors")[0]
    write_part(ingest.tree, model, first)
    await ingest.record([first])
    await ingest.suspend()
    assert store.usage().reserved == 0
    assert store.usage().ingests > 0

    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert ingest.done["model.safetensors"] == [first]
    fetched = await fill(ingest, model)
    assert first not in fetched
    assert len(fetched) == 3
    assert read_back(await ingest.commit(model.manifest_files, metadata={})) == model.content


async def test_resume_after_a_restart(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    first = model.parts("model.safetensors")[1]
    write_part(ingest.tree, model, first)
    await ingest.record([first])
    await store.close()

    store = await make_store()
    assert store.usage().ingests > 0
    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert ingest.done == {"model.safetensors": [first]}
    await ingest.abort()


async def test_another_state_of_the_model_starts_afresh(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    await ingest.suspend()
    changed = replace(
        model.plan,
        files=tuple(replace(f, validator=Validator(etag='"new"')) for f in model.plan.files),
    )
    ingest = await store.begin(model.ref, changed, source="s3")
    assert ingest.done == {}
    assert store._index.recount() == store._index.sums()
    await ingest.abort()
    await store._open.trash.wait(list(store._index.trash))
    assert store.usage().allocated == 0
    assert listing(store.root / "trash") == []


@pytest.mark.parametrize("keep", [1, 20, -1])
async def test_a_torn_journal_costs_only_its_torn_line(
    make_store: Any, model: Model, keep: int
) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    parts = model.parts("model.safetensors")
    for part in parts:
        write_part(ingest.tree, model, part)
        await ingest.record([part])
    await store.close()

    journal = store.root / "ingest" / f"{model.key}-{model.revision}" / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(parts)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:keep])

    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    expected = parts[:-1] if keep != -1 else parts
    assert ingest.done["model.safetensors"] == expected
    await fill(ingest, model)
    await ingest.suspend()
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())


async def test_after_another_boot_only_the_spoilt_part_is_fetched_again(
    make_store: Any, model: Model
) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    await store.close()

    path = store.root / "ingest" / f"{model.key}-{model.revision}"
    journal = path / "journal"
    lines = journal.read_bytes().split(b"\n")
    header = json.loads(lines[0])
    header["boot_id"] = "another"
    journal.write_bytes(b"\n".join([json.dumps(header).encode(), *lines[1:]]))
    flip(path / "tree" / "model.safetensors", BLOCK_SIZE + 100)

    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    left = missing_parts(ingest, model)
    assert [(part.path, part.offset) for part in left] == [("model.safetensors", BLOCK_SIZE)]
    await fill(ingest, model)
    assert read_back(await ingest.commit(model.manifest_files, metadata={})) == model.content


async def test_the_journal_holds_no_url_and_no_secret(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    text = (ingest.path / "journal").read_text()
    assert "model.safetensors" in text
    assert "https://s3.example/" not in text
    assert "Signature" not in text
    await ingest.abort()


async def test_a_cancelled_commit_still_ends(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    task = asyncio.create_task(ingest.commit(model.manifest_files, metadata={}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ingest.suspend()  # waits for the commit, and then has nothing to do
    snapshot = store.current(model.ref)
    assert snapshot is not None
    assert read_back(snapshot) == model.content


@pytest.mark.parametrize("step", ["at once", "journal", "linked", "laid out"])
async def test_a_cancelled_begin_leaves_nothing(make_store: Any, model: Model, step: str) -> None:
    loop, tasks = asyncio.get_running_loop(), []

    def on_step(name: str) -> None:
        if tasks and name == step:
            loop.call_soon_threadsafe(tasks.pop().cancel)

    store = await make_store(on_step=on_step, quota="40MiB")
    kin = Model(model.uri, {"sub/config.json": b"{}"}, number(9))
    await publish(store, kin)
    usage = store.usage()
    task = asyncio.create_task(store.begin(model.ref, model.plan, source="s3"))
    tasks.append(task)
    await asyncio.sleep(0)
    if step == "at once":
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store._open.context.background.stop_works()
    await store._open.trash.wait(list(store._index.trash))
    after = store.usage()
    assert (after.allocated, after.reserved, after.ingests) == (usage.allocated, 0, 0)
    assert store._index.sums() == store._index.recount()
    again = await store.begin(model.ref, model.plan, source="s3")
    assert again.linked == {"sub/config.json"}
    await again.abort()


async def test_a_begin_cancelled_while_it_evicts_promises_nothing(
    make_store: Any, model: Model
) -> None:
    loop, tasks = asyncio.get_running_loop(), []

    def on_step(name: str) -> None:
        if tasks and name == "trashed":
            loop.call_soon_threadsafe(tasks.pop().cancel)

    store = await make_store(on_step=on_step, quota="20MiB")
    await publish(store, Model("s3://bucket/idle", {"m": WEIGHTS}, number(9)))
    task = asyncio.create_task(store.begin(model.ref, model.plan, source="s3"))
    tasks.append(task)
    with pytest.raises(asyncio.CancelledError):
        await task
    await store._open.context.background.stop_works()
    await store._open.trash.wait(list(store._index.trash))
    usage = store.usage()
    assert (usage.allocated, usage.reserved, usage.ingests, usage.snapshots) == (0, 0, 0, 0)
    assert store._index.sums() == store._index.recount()
    assert listing(store.root / "ingest") == listing(store.root / "trash") == []
    await publish(store, model)


async def test_a_cancelled_resume_keeps_what_was_there(make_store: Any, model: Model) -> None:
    loop, tasks = asyncio.get_running_loop(), []

    def on_step(name: str) -> None:
        if tasks and name == "laid out":
            loop.call_soon_threadsafe(tasks.pop().cancel)

    store = await make_store(on_step=on_step)
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    await ingest.suspend()
    task = asyncio.create_task(store.begin(model.ref, model.plan, source="s3"))
    tasks.append(task)
    with pytest.raises(asyncio.CancelledError):
        await task
    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert missing_parts(ingest, model) == []
    await ingest.commit(model.manifest_files, metadata={})


async def test_an_archive_lies_beside_the_tree_and_is_resumed(make_store: Any) -> None:
    archive = Model("https://h/m.tar", {"m.tar": WEIGHTS}, number(5))
    members = Model("https://h/m.tar", {"a/b": b"member", "c": b""}, number(5))
    plan = replace(archive.plan, unpack="tar")
    store = await make_store()
    ingest = await store.begin(archive.ref, plan, source="https")
    place = ingest.path / "archive"
    assert (place / "m.tar").stat().st_size == len(WEIGHTS)
    parts = archive.parts("m.tar")
    for part in parts[:2]:
        write_part(place, archive, part)
    await ingest.record(parts[:2])
    await store.close()

    store = await make_store()
    ingest = await store.begin(archive.ref, plan, source="https")
    assert ingest.done == {"m.tar": parts[:2]}
    await ingest.grow(MIB)
    for path, data in members.content.items():
        (ingest.tree / path).parent.mkdir(exist_ok=True)
        (ingest.tree / path).write_bytes(data)
    snapshot = await ingest.commit(members.manifest_files, metadata={})
    assert read_back(snapshot) == members.content
    assert listing(snapshot.path) == ["manifest.json", "tree"]
    assert store.usage().allocated < MIB


async def test_close_suspends_what_is_open(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    await store.close()
    with pytest.raises(InternalError):
        await ingest.record(model.parts("model.safetensors"))
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert missing_parts(ingest, model) == []
    assert read_back(await ingest.commit(model.manifest_files, metadata={})) == model.content
