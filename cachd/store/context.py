"""What the parts of an open store share."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.errors import DiskError, StoreError
from cachd.store.fsio import disk_errors, statvfs
from cachd.store.health import Health

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cachd.settings import StoreSettings
    from cachd.store.background import Background
    from cachd.store.capabilities import Capabilities
    from cachd.store.fsio import Volume
    from cachd.store.index import Index
    from cachd.store.layout import Layout
    from cachd.store.manifests import Manifests
    from cachd.store.observe import Clock, OnEvicted, OnStep, StoreMetrics
    from cachd.store.threads import Threads


@dataclass(kw_only=True)
class Context:
    """``names`` is held while a directory is renamed together with its row in the index, so that
    both change as one. It is the only lock; nothing is awaited under it but threads. ``syncing``
    are the threads of commits: a disk that takes its time over a sync holds nobody else up."""

    layout: Layout
    settings: StoreSettings
    capabilities: Capabilities
    clock: Clock
    index: Index
    manifests: Manifests
    threads: Threads
    syncing: Threads
    background: Background
    metrics: StoreMetrics
    on_step: OnStep
    on_evicted: OnEvicted
    boot_id: str
    volume: Volume
    names: asyncio.Lock = field(default_factory=asyncio.Lock)
    health: Health = field(init=False)

    def __post_init__(self) -> None:
        self.health = Health(self)

    async def refresh_volume(self) -> Volume:
        """Look at the volume now. Raises OSError."""
        self.volume = await self.threads.run(statvfs, self.layout.root)
        return self.volume

    @contextmanager
    def disk_errors(self, doing: str) -> Iterator[None]:
        """Turn OSError into an error that says what was being done on which volume, and note it."""
        capabilities, volume = self.capabilities, self.volume
        try:
            with disk_errors(doing, capabilities.mount_point):
                yield
        except (DiskError, StoreError) as error:
            if isinstance(error, DiskError):
                error.detail.setdefault("device", capabilities.device)
                error.detail.setdefault("free", volume.free)
                error.detail.setdefault("free_inodes", volume.inodes_free)
            self.health.note(error)
            raise
