"""Digest pins against bytes: before publication for everybody who takes part, and at every answer.

Nobody's pin decides for others. Bytes that contradict one caller's pin are kept from that caller;
they are published all the same if somebody takes part whose pins they fulfil, or who pins nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from cachd.cache.digest_pins import Sums, judge, known, needed
from cachd.cache.singleflight import SingleFlight
from cachd.errors import ModelCorrupt
from cachd.fetch import crc
from cachd.fetch.readings import Reading
from cachd.model import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cachd.cache.digest_pins import DigestPins
    from cachd.fetch.mover import Mover
    from cachd.model import Manifest, ManifestFile
    from cachd.store.store import Store
    from cachd.store.types import StoredSnapshot

REMEMBERED = 200_000
"""Digests of published files that are kept in memory: a manifest is never changed afterwards."""

ARCHIVE = "archive"
ARCHIVE_SHA256 = "archive_sha256"
"""A manifest's notes on the archive that its files were unpacked from."""

_BLOCKS = "crc64nvme"


class Pinning:
    """Reads a file once for a digest that wasn't known. For one event loop."""

    def __init__(self, store: Store, mover: Mover) -> None:
        self._store = store
        self._mover = mover
        self._reading: SingleFlight[Sums] = SingleFlight()
        self._read: OrderedDict[tuple[str, str, str], Sums] = OrderedDict()
        self._count = 0

    async def sums(
        self, tree: Path, files: Sequence[ManifestFile], pins: Iterable[DigestPins], known: Sums
    ) -> Sums:
        """All that ``pins`` ask of ``files``, which lie in ``tree`` and aren't published yet; some
        is ``known`` already. Raises DiskError."""
        sums, readings = await asyncio.to_thread(_look, files, tuple(pins), known)
        _merge(sums, await self._mover.read_digests(tree, readings))
        return sums

    async def check(self, pins: DigestPins, snapshot: StoredSnapshot) -> None:
        """Raises DigestMismatch if the published bytes are not what ``pins`` say; ModelCorrupt if
        they are no longer what was published."""
        if not pins:
            return
        with self._store.reading(snapshot.key, snapshot.revision):
            manifest = await self._store.load_manifest(snapshot)
            place = (snapshot.key, snapshot.revision, manifest.created)
            sums, readings = await asyncio.to_thread(
                _look, manifest.files, (pins,), self._read.get(place, {})
            )
            if readings:
                found = await self._reading.run(
                    (place, tuple(readings)),
                    lambda: self._read_published(snapshot.tree, manifest, readings),
                )
                self._remember(place, found)
                _merge(sums, found)
        archive = manifest.metadata.get(ARCHIVE)
        if archive is not None and ARCHIVE_SHA256 in manifest.metadata:
            sums.setdefault(archive, {"sha256": manifest.metadata[ARCHIVE_SHA256]})
        paths = [file.path for file in manifest.files]
        error = await asyncio.to_thread(judge, pins, sums, paths)
        if error is not None:
            raise error

    async def _read_published(
        self, tree: Path, manifest: Manifest, readings: Sequence[Reading]
    ) -> Sums:
        """The same pass sums the blocks: a disk that rots must not look like a wrong pin."""
        both = [replace(reading, algorithms=(*reading.algorithms, _BLOCKS)) for reading in readings]
        found = await self._mover.read_digests(tree, both)
        for path, values in found.items():
            file = manifest.find(path)
            seen = values.pop(_BLOCKS)
            if file is None or seen != crc.combine(file.blocks, file.size):
                # Mark what is bad, so that the next ask has it repaired.
                await self._store.checks.inspect(
                    manifest.ref.key, manifest.revision, pace=_without_pause
                )
                raise ModelCorrupt(f"{path} of {manifest.ref.key} is no longer what was stored")
        return found

    def _remember(self, place: tuple[str, str, str], found: Sums) -> None:
        kept = self._read.setdefault(place, {})
        for path, values in found.items():
            self._count += len(values.keys() - kept.get(path, {}).keys())
        _merge(kept, found)
        self._read.move_to_end(place)
        while self._count > REMEMBERED and len(self._read) > 1:
            _, gone = self._read.popitem(last=False)
            self._count -= sum(len(values) for values in gone.values())


async def _without_pause(count: int) -> bool:
    return True


def with_digests(files: Sequence[ManifestFile], sums: Sums) -> tuple[ManifestFile, ...]:
    """``files`` with what they were verified with besides."""
    return tuple(
        replace(file, digests=file.digests + _more(file, sums[file.path]))
        if file.path in sums
        else file
        for file in files
    )


def _more(file: ManifestFile, values: dict[str, str]) -> tuple[Digest, ...]:
    had = {digest.algorithm for digest in file.digests}
    return tuple(
        Digest(algorithm=algorithm, value=value)
        for algorithm, value in sorted(values.items())
        if algorithm not in had
    )


def _look(
    files: Sequence[ManifestFile], pins: Sequence[DigestPins], read: Sums
) -> tuple[Sums, list[Reading]]:
    """What is known of what ``pins`` ask for, and what must be read."""
    wanted = needed(pins, files)
    sums: Sums = {}
    readings = []
    for file in files:
        algorithms = wanted.get(file.path)
        if not algorithms:
            continue
        found = sums[file.path] = {
            **{name: v for name, v in read.get(file.path, {}).items() if name in algorithms},
            **known(file, algorithms),
        }
        missing = tuple(sorted(algorithms - found.keys()))
        if missing:
            readings.append(Reading(file.path, file.size, missing))
    return sums, readings


def _merge(sums: Sums, more: Sums) -> None:
    for path, values in more.items():
        sums.setdefault(path, {}).update(values)
