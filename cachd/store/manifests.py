"""Manifests on disk, and those lately used in memory: a node may hold more than a daemon should
keep (100,000 models take hundreds of MiB)."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from cachd.errors import StoreError
from cachd.store.decode import decode_manifest
from cachd.store.types import SnapshotInfo

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.model import Manifest
    from cachd.store.layout import Layout

MANIFEST_NAME = "manifest.json"
BUDGET = 150_000
"""Weight kept in memory: about 15 MiB."""
_FILE_WEIGHT = 8


def encode_manifest(manifest: Manifest) -> bytes:
    """JSON in ASCII, so that file names that are no UTF-8 come back as they were."""
    return json.dumps(manifest.to_json(), separators=(",", ":")).encode("ascii") + b"\n"


def read_manifest(directory: Path) -> Manifest:
    """Blocking. Raises OSError, or ValueError if it is no manifest."""
    data = (directory / MANIFEST_NAME).read_bytes()
    try:
        return decode_manifest(data)
    except ValueError as error:
        raise ValueError(f"{directory / MANIFEST_NAME} is no manifest: {error}") from None


def weigh(manifest: Manifest) -> int:
    """Roughly hundreds of bytes in memory."""
    return sum(_FILE_WEIGHT + len(file.blocks) for file in manifest.files)


def info_of(manifest: Manifest) -> SnapshotInfo:
    return SnapshotInfo(
        ref=manifest.ref,
        files=len(manifest.files),
        bytes=manifest.size,
        created=manifest.created,
        source=manifest.source,
        is_credentialed=manifest.is_credentialed,
        is_validated=manifest.is_validated,
        is_immutable=manifest.is_immutable,
        identity=manifest.identity,
        namespace=manifest.namespace,
        named=manifest.named,
    )


class Manifests:
    """Least recently used ones leave. May be used by several threads."""

    def __init__(self, layout: Layout, budget: int = BUDGET) -> None:
        self._layout = layout
        self._budget = budget
        self._weight = 0
        self._kept: OrderedDict[tuple[str, str], tuple[Manifest, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, manifest: Manifest) -> None:
        identity = manifest.ref.key, manifest.revision
        weight = weigh(manifest)
        with self._lock:
            self._drop(identity)
            self._kept[identity] = manifest, weight
            self._weight += weight
            while self._weight > self._budget and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def offer(self, manifest: Manifest) -> None:
        """Keep it if there is still room."""
        if self._weight + weigh(manifest) <= self._budget:
            self.put(manifest)

    def _drop(self, identity: tuple[str, str]) -> None:
        _, weight = self._kept.pop(identity, (None, 0))
        self._weight -= weight

    def forget(self, key: str, revision: str) -> None:
        with self._lock:
            self._drop((key, revision))

    def has(self, key: str, revision: str) -> bool:
        return (key, revision) in self._kept

    def get(self, key: str, revision: str) -> Manifest:
        """From memory, else from disk (blocking). Raises StoreError."""
        with self._lock:
            found = self._kept.get((key, revision))
            if found is not None:
                self._kept.move_to_end((key, revision))
                return found[0]
        try:
            manifest = read_manifest(self._layout.snapshot(key, revision))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the manifest of {key} revision {revision} can't be read: {error}",
                hint="it may just have been removed; ask for the model again",
            ) from error
        self.put(manifest)
        return manifest
