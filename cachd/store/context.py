"""What the parts of an open store share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.store.fsio import statvfs

if TYPE_CHECKING:
    from cachd.settings import StoreSettings
    from cachd.store.background import Background
    from cachd.store.capabilities import Capabilities
    from cachd.store.fsio import Volume
    from cachd.store.index import Index
    from cachd.store.layout import Layout
    from cachd.store.manifests import Manifests
    from cachd.store.observe import Clock, OnStep, StoreMetrics
    from cachd.store.threads import Threads


@dataclass(kw_only=True)
class Context:
    """``names`` is held while a directory is renamed together with its row in the index, so that
    both change as one. It is the only lock; nothing is awaited under it but threads."""

    layout: Layout
    settings: StoreSettings
    capabilities: Capabilities
    clock: Clock
    index: Index
    manifests: Manifests
    threads: Threads
    background: Background
    metrics: StoreMetrics
    on_step: OnStep
    boot_id: str
    volume: Volume
    names: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh_volume(self) -> Volume:
        """Look at the volume now. Raises OSError."""
        self.volume = await self.threads.run(statvfs, self.layout.root)
        return self.volume
