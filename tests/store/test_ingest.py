"""begin, record, commit, suspend, abort."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import InternalError, InUse, PathUnsafe, SizeMismatch
from cachd.model import BLOCK_SIZE, PlannedFile, Validator
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
    write_part,
)

BIG = sized(2 * BLOCK_SIZE + 12345, 7)


@pytest.fixture
def model() -> Model:
    return Model(
        "s3://bucket/llama",
        {"model.safetensors": BIG, "sub/config.json": b"{}", "empty": b""},
        number(1),
    )


async def test_committed_is_current_and_whole(make_store: Any, model: Model) -> None:
    store = await make_store()
    assert store.current(model.ref) is None
    snapshot = await publish(store, model)
    assert read_back(snapshot) == model.content
    current = store.current(model.ref)
    assert current is not None
    assert (
        current.tree == snapshot.tree == store.root / "snapshots" / model.key / number(1) / "tree"
    )
    assert current.manifest.files == tuple(sorted(model.manifest_files, key=lambda file: file.path))
    assert current.manifest.boot_id
    assert (store.root / "current" / model.key).read_text().strip() == number(1)
    assert listing(store.root / "ingest") == []
    assert not (snapshot.path / "journal").exists()


async def test_snapshots_are_readable_by_others_and_not_writable(
    make_store: Any, model: Model
) -> None:
    store = await make_store()
    snapshot = await publish(store, model)
    path = snapshot.tree / "sub/config.json"
    assert path.stat().st_mode & 0o777 == 0o444
    for directory in [path.parent, *path.parent.parents]:
        assert directory.stat().st_mode & 0o555 == 0o555
        if directory == store.root:
            break
    assert (store.root / "ingest").stat().st_mode & 0o777 == 0o700
    assert (store.root / "state").stat().st_mode & 0o777 == 0o700


async def test_nothing_is_visible_before_commit(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    assert store.current(model.ref) is None
    assert store.snapshots() == []
    await ingest.abort()
    assert store.current(model.ref) is None


async def test_files_are_laid_out_at_begin(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert (ingest.tree / "model.safetensors").stat().st_size == len(BIG)
    assert (ingest.tree / "empty").stat().st_size == 0
    assert ingest.done == {}
    assert ingest.linked == frozenset()
    usage = store.usage()
    assert usage.allocated + usage.reserved >= len(BIG)
    await ingest.abort()


async def test_reservation_is_given_back_by_abort(make_store: Any, model: Model) -> None:
    store = await make_store()
    before = store.usage()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await ingest.abort()
    await store._open.trash.wait(list(store._index.trash))
    after = store.usage()
    assert (after.allocated, after.reserved, after.inodes) == (
        before.allocated,
        before.reserved,
        before.inodes,
    )
    assert listing(store.root / "ingest") == []
    assert listing(store.root / "trash") == []


async def test_a_second_begin_of_the_same_revision_is_refused(
    make_store: Any, model: Model
) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    with pytest.raises(InUse):
        await store.begin(model.ref, model.plan, source="s3")
    await ingest.suspend()
    again = await store.begin(model.ref, model.plan, source="s3")
    await again.abort()


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
    with (path / "tree" / "model.safetensors").open("r+b") as file:
        file.seek(BLOCK_SIZE + 100)
        byte = file.read(1)
        file.seek(BLOCK_SIZE + 100)
        file.write(bytes([byte[0] ^ 1]))

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


async def test_commit_refuses_a_file_that_is_short_and_goes_on(
    make_store: Any, model: Model
) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    os.truncate(ingest.tree / "model.safetensors", 10)
    with pytest.raises(SizeMismatch, match=r"model\.safetensors"):
        await ingest.commit(model.manifest_files, metadata={})
    assert store.current(model.ref) is None
    (ingest.tree / "model.safetensors").write_bytes(BIG)
    assert read_back(await ingest.commit(model.manifest_files, metadata={})) == model.content


async def test_what_no_manifest_lists_is_not_published(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await fill(ingest, model)
    (ingest.tree / "stray").write_text("x")
    (ingest.tree / "link").symlink_to("/etc/passwd")
    (ingest.path / "archive.part").write_text("x")
    snapshot = await ingest.commit(model.manifest_files, metadata={})
    assert read_back(snapshot) == model.content
    assert listing(snapshot.path) == ["manifest.json", "tree"]
    assert not (snapshot.tree / "link").is_symlink()


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
    await publish(store, Model("s3://bucket/idle", {"m": BIG}, number(9)))
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


async def test_an_ended_ingest_is_over(make_store: Any, model: Model) -> None:
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await ingest.abort()
    await ingest.abort()
    await ingest.suspend()
    with pytest.raises(InternalError):
        await ingest.record(model.parts("model.safetensors"))
    with pytest.raises(InternalError):
        await ingest.commit(model.manifest_files, metadata={})


async def test_a_revision_that_is_here_already_is_kept_and_made_current(
    make_store: Any, model: Model
) -> None:
    store = await make_store()
    first = await publish(store, model)
    inode = (first.tree / "model.safetensors").stat().st_ino
    newer = Model(model.uri, {"model.safetensors": b"new"}, number(2))
    await publish(store, newer)
    assert store.current(model.ref).revision == number(2)
    ingest = await store.begin(model.ref, model.plan, source="s3")
    assert missing_parts(ingest, model) == []
    again = await ingest.commit(model.manifest_files, metadata={})
    assert (again.tree / "model.safetensors").stat().st_ino == inode
    assert store.current(model.ref).revision == number(1)
    assert listing(store.root / "ingest") == []


async def test_two_refs_with_one_key_are_never_mixed_up(make_store: Any, model: Model) -> None:
    store = await make_store()
    await publish(store, model)
    twin = replace(model.ref, uri="s3://other/model")
    assert twin.key == model.key
    assert store.current(twin) is None
    ingest = await store.begin(twin, model.plan, source="s3")
    assert missing_parts(ingest, model) != []
    await fill(ingest, model)
    await ingest.commit(model.manifest_files, metadata={})
    assert store.current(twin) is not None
    assert store.current(model.ref) is None


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a//b", "a/./b", "x" * 300, "a\0b", ""])
async def test_unsafe_names_are_refused_before_anything_is_made(
    make_store: Any, model: Model, path: str
) -> None:
    store = await make_store()
    plan = replace(model.plan, files=(PlannedFile(path=path, url="", size=1),))
    with pytest.raises(PathUnsafe):
        await store.begin(model.ref, plan, source="s3")
    assert listing(store.root / "ingest") == []


async def test_a_name_that_fits_alone_but_not_below_the_root(make_store: Any, model: Model) -> None:
    store = await make_store()
    name = "/".join(["d" * 250] * 16)
    plan = replace(model.plan, files=(PlannedFile(path=name, url="", size=1),))
    with pytest.raises(PathUnsafe, match="too long below"):
        await store.begin(model.ref, plan, source="s3")


async def test_odd_names_are_kept_as_they_are(make_store: Any) -> None:
    names = ["é", "e\u0301", "A", "a", "a b\n", "-rf", "back\\slash", "…" * 80, "\udcff"]
    model = Model(
        "s3://bucket/odd",
        {name: name.encode("utf-8", "surrogateescape") for name in names},
        number(3),
    )
    store = await make_store()
    snapshot = await publish(store, model)
    assert read_back(snapshot) == model.content
    await store.close()
    store = await make_store()
    assert read_back(store.current(model.ref)) == model.content
    assert {file.path for file in store.current(model.ref).manifest.files} == set(names)


async def test_unknown_sizes_grow(make_store: Any) -> None:
    model = Model("https://h/m", {"m": sized(MIB)}, number(4), unsized=("m",))
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="https")
    before = store.usage()
    await ingest.grow(4 * MIB)
    assert store.usage().reserved >= before.reserved + 4 * MIB
    (ingest.tree / "m").write_bytes(model.content["m"])
    await ingest.record(model.parts("m"))
    assert store.usage().allocated >= before.allocated + MIB
    snapshot = await ingest.commit(model.manifest_files, metadata={"a": "b"})
    assert store.usage().reserved == 0
    assert snapshot.manifest.metadata == {"a": "b"}


async def test_an_archive_lies_beside_the_tree_and_is_resumed(make_store: Any) -> None:
    archive = Model("https://h/m.tar", {"m.tar": BIG}, number(5))
    members = Model("https://h/m.tar", {"a/b": b"member", "c": b""}, number(5))
    plan = replace(archive.plan, unpack="tar")
    store = await make_store()
    ingest = await store.begin(archive.ref, plan, source="https")
    place = ingest.path / "archive"
    assert (place / "m.tar").stat().st_size == len(BIG)
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


async def test_a_symlink_planted_in_the_tree_is_not_followed(
    make_store: Any, model: Model, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = await make_store()
    ingest = await store.begin(model.ref, model.plan, source="s3")
    await ingest.suspend()
    (ingest.tree / "sub" / "config.json").unlink()
    (ingest.tree / "sub").rmdir()
    (ingest.tree / "sub").symlink_to(outside)
    with pytest.raises(PathUnsafe):
        await store.begin(model.ref, model.plan, source="s3")
    assert listing(outside) == []
