"""Wrong bytes are kept with their story, inside the quota, and not for ever."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cachd.store.quarantine import Story

if TYPE_CHECKING:
    from pathlib import Path

STORY = Story(
    key="ab",
    revision="01",
    uri="s3://b/m",
    path="w",
    offset=0,
    length=5,
    reason="digest",
    expected="sha256:aa",
    seen="sha256:bb",
)


def allocated(store: Any) -> int:
    assert store._index.sums() == store._index.recount()
    return int(store.usage().allocated)


async def test_a_block_and_a_file_are_kept_and_counted(make_store: Any, tmp_path: Path) -> None:
    store = await make_store()
    before = allocated(store)
    name = await store.quarantine.keep(b"wrong", STORY)
    place = store.root / "quarantine" / name
    assert (place / "data").read_bytes() == b"wrong"
    assert json.loads((place / "story.json").read_bytes())["seen"] == "sha256:bb"
    assert allocated(store) > before
    source = store.root / "ingest" / "x"
    source.write_bytes(bytes(100_000))
    await store.quarantine.take(source, replace(STORY, path="x"))
    assert not source.exists()
    assert [story["path"] for story in await store.quarantine.entries()] == ["w", "x"]
    assert allocated(store) >= before + 100_000
    size = allocated(store)
    await store.close()
    store = await make_store()
    assert allocated(store) == size


async def test_the_oldest_go_when_it_is_too_much(make_store: Any) -> None:
    store = await make_store(quarantine_quota="100KiB")
    for number in range(5):
        await store.quarantine.keep(bytes(30_000), replace(STORY, path=str(number)))
    kept = await store.quarantine.entries()
    assert kept[-1]["path"] == "4"
    assert kept[-1]["has_data"]
    assert sum(story["has_data"] for story in kept) == 2
    await store.quarantine.keep(bytes(200_000), replace(STORY, path="huge"))
    kept = await store.quarantine.entries()
    assert kept[-1]["path"] == "huge"
    assert not kept[-1]["has_data"]


async def test_what_is_old_goes(make_store: Any, clock: Any) -> None:
    store = await make_store(quarantine_ttl=100, clock=clock)
    await store.quarantine.keep(b"wrong", STORY)
    clock.advance(50)
    await store.tidy()
    assert len(await store.quarantine.entries()) == 1
    clock.advance(60)
    before = allocated(store)
    await store.tidy()
    assert await store.quarantine.entries() == []
    assert allocated(store) < before


async def test_what_cannot_be_kept_hurts_nobody(make_store: Any) -> None:
    store = await make_store()
    assert await store.quarantine.take(store.root / "ingest" / "nothing", STORY) is None
    (store.root / "quarantine" / "stray").write_bytes(b"x")
    await store.quarantine.trim()
    assert not (store.root / "quarantine" / "stray").exists()
