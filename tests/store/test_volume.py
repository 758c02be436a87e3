"""Room on a volume that others use too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cachd.errors import DiskFull, NoSpace
from tests.store.models import (
    MIB,
    ManualClock,
    named,
    names,
    publish,
    read_back,
)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 MiB."""
    path = tmp_path / "volume"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", path], capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


BIG = 10 * MIB


async def test_the_floor_is_kept_for_others(make_store: Any, volume: Path) -> None:
    store = await make_store(volume / "root", quota="100%", free_floor="20MiB", min_idle=0)
    for name in "abcd":
        await publish(store, named(name, size=BIG))
    assert names(store) == {"a", "b", "c", "d"}
    await publish(store, named("e", size=BIG))
    assert names(store) == {"b", "c", "d", "e"}
    (volume / "neighbour").write_bytes(b"x" * BIG)
    await store.watch()
    assert names(store) == {"c", "d", "e"}
    assert store.usage().degraded == ()


async def test_an_eviction_that_frees_nothing_ends_the_round(
    make_store: Any, volume: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = await make_store(volume / "root", quota="100%", free_floor="20MiB", min_idle=0)
    for name in "abcd":
        await publish(store, named(name, size=BIG))
    held = [(snapshot.tree / "m").open("rb") for snapshot in store.snapshots()]
    try:
        (volume / "neighbour").write_bytes(b"x" * BIG)
        await store.watch()
        assert names(store) == {"b", "c", "d"}
        assert any("didn't" in record.getMessage() for record in caplog.records)
        assert any("paused" in sentence for sentence in store.usage().degraded)
        await store.watch()
        assert names(store) == {"b", "c", "d"}  # remembered
        with pytest.raises(NoSpace) as caught:
            await publish(store, named("new", size=BIG))
        assert "open-files" in {holder["what"] for holder in caught.value.detail["held_by"]}
        assert "lsof" in caught.value.hint
        assert names(store) == {"b", "c", "d"}
        assert store.usage().reserved == 0
    finally:
        for file in held:
            file.close()


async def test_a_request_stops_as_well_when_nothing_becomes_free(
    make_store: Any, volume: Path
) -> None:
    store = await make_store(volume / "root", quota="100%", free_floor="20MiB")
    for name in "abcd":
        await publish(store, named(name, size=BIG))
    held = [(snapshot.tree / "m").open("rb") for snapshot in store.snapshots()]
    try:
        with pytest.raises(NoSpace):
            await publish(store, named("new", size=BIG))
        assert len(store.snapshots()) == 3
    finally:
        for file in held:
            file.close()


def fill_up(file: BinaryIO) -> None:
    while True:
        file.write(b"x" * MIB)
        file.flush()


async def test_a_full_volume_fails_the_ingest_and_nothing_else(
    make_store: Any, volume: Path
) -> None:
    store = await make_store(volume / "root", quota="100%", free_floor="0")
    await publish(store, named("a", size=BIG))
    ingest = await store.begin(named("b").ref, named("b", size=BIG).plan, source="s3")
    with (volume / "neighbour").open("wb") as file:
        with pytest.raises(OSError, match="No space"):
            fill_up(file)
        parts = named("b", size=BIG).parts("m") * 10_000
        with pytest.raises(DiskFull, match=str(volume)):
            await ingest.record(parts)
    await ingest.suspend()
    assert read_back(store.current(named("a").ref)) == named("a", size=BIG).content
    (volume / "neighbour").unlink()
    ingest = await store.begin(named("b").ref, named("b", size=BIG).plan, source="s3")
    await ingest.abort()
