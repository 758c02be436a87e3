"""What the cache is made of, handed round as one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachd.cache.digest_checks import Pinning
from cachd.cache.named_by import NamedBy
from cachd.cache.pods import Pods
from cachd.cache.slots import Slots, Turns
from cachd.cache.updating import Updates
from cachd.fetch.upstream import Upstreams
from cachd.kube.pods import NoProvider

if TYPE_CHECKING:
    from cachd.cache.access import Proofs
    from cachd.cache.events import EventBus
    from cachd.cache.freshness import Freshness
    from cachd.cache.policy import Policy
    from cachd.fetch.mover import Mover
    from cachd.kube.pods import PodProvider
    from cachd.metrics import Metrics
    from cachd.settings import Settings
    from cachd.sources.resolver import Resolver
    from cachd.store.store import Store


@dataclass(kw_only=True)
class Parts:
    """``slots`` bounds the models that are fetched at the same time, ``listings`` those that are
    listed. ``upstreams`` are other cachds."""

    settings: Settings
    store: Store
    resolver: Resolver
    mover: Mover
    metrics: Metrics
    policy: Policy
    proofs: Proofs
    freshness: Freshness
    events: EventBus
    provider: PodProvider = field(default_factory=NoProvider)
    pods: Pods = field(init=False)
    slots: Slots = field(init=False)
    listings: Turns = field(init=False)
    pinning: Pinning = field(init=False)
    updates: Updates = field(init=False)
    upstreams: Upstreams = field(init=False)
    named_by: NamedBy = field(default_factory=NamedBy)

    def __post_init__(self) -> None:
        self.pinning = Pinning(self.store, self.mover)
        self.pods = Pods(self.store, self.provider, self.settings.leases)
        rules = self.settings.freshness.refresh
        self.updates = Updates(self.store, rules, self.metrics, self.events)
        self.slots = Slots(self.settings.fetch.max_concurrent_models)
        self.listings = Turns(self.settings.sources.max_concurrent_listings)
        patience = 2 * self.settings.fetch.stall_window
        self.upstreams = Upstreams(self.settings.upstream, self.mover.gates, os.environ, patience)
