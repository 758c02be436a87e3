"""Whatever is wrong with a file below the root, the store opens, and what it shows is whole."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachd.model import Manifest
from cachd.store.damage import FileDamage, write_marker
from cachd.store.decode import decode_manifest
from cachd.store.journal import parse
from cachd.store.leases import read_lease
from cachd.store.manifests import encode_manifest
from tests.crash.damage import DAMAGES, KINDS
from tests.store.models import Model, fill, number, publish, read_back, sized, write_part

A = Model("s3://bucket/a", {"w": sized(100_000, 1), "config": b"{}"}, number(1))
B = Model("s3://bucket/b", {"w": sized(300_000, 2), "d/x": b"x" * 5000}, number(2))
C = Model("s3://bucket/c", {"w": sized(50_000, 3)}, number(3))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["caller", "sha256", "..", "w", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture
async def template(make_store: Any, tmp_path: Path) -> Path:
    """A root with one of everything, as a kill leaves it."""
    store = await make_store(tmp_path / "template")
    for model in (A, C):
        await publish(store, model)
    await store.pin(A.key)
    await store.lease(A.key, None, "pod", 100.0)
    ingest = await store.begin(B.ref, B.plan, source="s3")
    first = B.parts("w")[0]
    write_part(ingest.tree, B, first)
    await ingest.record([first])
    await ingest.suspend()
    story = store.root / "quarantine" / "00000000000000000001-ab"
    story.mkdir()
    (story / "story.json").write_text(json.dumps({"key": "ab", "files": []}))
    (store.root / "state" / "scrub.json").write_text('{"key": "a", "block": 1, "pass_began": 1}')
    marked = store.root / "snapshots" / C.key / C.revision
    damage = FileDamage(path="w", problem="blocks", blocks=(0,))
    await asyncio.to_thread(write_marker, marked, {"w": damage})
    await store.close()
    going = store.root / "trash" / "ab-cd-00"
    shutil.copytree(store.root / "snapshots" / A.key / A.revision, going)
    return store.root


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_opens_whatever_is_damaged(
    make_store: Any, template: Path, tmp_path: Path, kind: str
) -> None:
    for name, damage in DAMAGES.items():
        if kind == "layout" and name in ("directory", "removed", "version", "numbers for all"):
            continue  # a layout that says what we can't read is refused; see test_root
        if kind == "layout" and name.endswith("for all"):
            continue
        if kind == "lock" and name == "directory":
            continue
        root = tmp_path / f"{kind}-{name.replace(' ', '-')}"
        subprocess.run(["cp", "-a", template, root], check=True)  # keeps hard links
        found = sorted(root.glob(KINDS[kind]))
        assert found, kind
        for path in found:
            if path.is_file():
                damage(path)
        store = await make_store(root)
        kept: set[str] = set()
        for snapshot in store.snapshots():
            if snapshot.damage:
                # Kept to be repaired, and given to nobody; its blobs go when it does.
                kept |= {d.value for file in snapshot.manifest.files for d in file.digests}
                continue
            model = A if snapshot.key == A.key else C
            assert set(read_back(snapshot)) == set(model.content), name
            json.dumps(snapshot.info.ref.to_json())
        for lease in store.leases():
            assert 0 < lease.expires_in <= 7 * 86400, name
        await store._open.trash.wait(list(store._index.trash))
        assert not list((root / "trash").iterdir()), name
        blobs = [path for path in root.glob("blobs/sha256/*") if path.is_file()]
        lonely = [path.name for path in blobs if path.stat().st_nlink == 1]
        assert set(lonely) <= kept, name
        assert store._index.sums() == store._index.recount(), name
        await store.quarantine.entries()
        ingest = await store.begin(B.ref, B.plan, source="s3")
        await fill(ingest, B)
        assert read_back(await ingest.commit(B.manifest_files)) == B.content, name
        if kind != "content" and kind != "blob":
            assert read_back(await publish(store, A)) == A.content, name
        await store.close()
        shutil.rmtree(root)


def swapped(data: Any, place: list[int], value: Any) -> Any:
    """``data`` with one thing in it replaced, which ``place`` leads to."""
    if not place:
        return value
    head, rest = place[0], place[1:]
    if isinstance(data, dict) and data:
        key = sorted(data)[head % len(data)]
        return {**data, key: swapped(data[key], rest, value)}
    if isinstance(data, list) and data:
        at = head % len(data)
        return [*data[:at], swapped(data[at], rest, value), *data[at + 1 :]]
    return value


PLACE = st.lists(st.integers(0, 20), max_size=5)
MANIFEST = json.loads(
    encode_manifest(
        Manifest(
            ref=A.ref,
            revision=A.revision,
            files=tuple(A.manifest_files),
            created="2026-01-01T00:00:00+00:00",
            source="s3",
            is_credentialed=False,
            is_validated=True,
            is_immutable=False,
        )
    )
)


@settings(max_examples=400, deadline=None)
@given(PLACE, JSON)
def test_a_manifest_is_right_or_refused(place: list[int], value: Any) -> None:
    try:
        manifest = decode_manifest(json.dumps(swapped(MANIFEST, place, value)).encode())
    except ValueError:
        return
    assert decode_manifest(encode_manifest(manifest)) == manifest
    hash((manifest.ref.origin, manifest.ref.uri))
    assert manifest.size >= 0


@pytest.mark.parametrize("metadata", [[[None, None]], {"a": None}, [], None])
def test_metadata_is_an_object_of_texts(metadata: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_manifest(json.dumps({**MANIFEST, "metadata": metadata}).encode())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_are_a_manifest_by_chance(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the message is whoever's who noticed)
        decode_manifest(data)


@pytest.fixture(scope="module")
def lines() -> list[Any]:
    from cachd.store.journal import encode_part, make_header

    header = make_header(B.ref, B.plan, "s3", "boot")
    parts = [encode_part(part) for part in B.parts("w")]
    return [json.loads(line) for line in (header.encode(), *parts, b'{"credentialed_by":"caller"}')]


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=PLACE, value=JSON, torn=st.integers(0, 50))
def test_a_journal_is_right_or_passed_over(
    lines: list[Any], place: list[int], value: Any, torn: int
) -> None:
    data = (
        b"\n".join(json.dumps(line).encode() for line in swapped(lines, place, value))
        if isinstance(swapped(lines, place, value), list)
        else json.dumps(value).encode()
    )
    content = parse(data[: len(data) - torn] if torn else data)
    if content is None:
        return
    assert content.credentialed_by in (None, "caller", "daemon", "anonymous")
    content.header.encode()
    assert all(isinstance(digest, str) for digest in content.header.sha256)
    for path, parts in content.parts.items():
        assert path in {file[0] for file in content.header.files}
        assert all(type(part.offset) is int and type(part.length) is int for part in parts)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_lease_is_right_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ab"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no lease"):
        read_lease(path)
