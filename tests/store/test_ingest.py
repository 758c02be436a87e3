"""begin, record, commit, abort."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachd.errors import InternalError, InUse, PathUnsafe, SizeMismatch
from cachd.model import PlannedFile
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
    sized,
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
    assert (ingest.tree / "model.safetensors").stat().st_size == len(WEIGHTS)
    assert (ingest.tree / "empty").stat().st_size == 0
    assert ingest.done == {}
    assert ingest.linked == frozenset()
    usage = store.usage()
    assert usage.allocated + usage.reserved >= len(WEIGHTS)
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
    (ingest.tree / "model.safetensors").write_bytes(WEIGHTS)
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
