"""The whole tree of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from cachd.settings.access import AccessSettings
from cachd.settings.fetch import FetchSettings
from cachd.settings.kubernetes import KubernetesSettings
from cachd.settings.listen import ListenSettings
from cachd.settings.sources import FreshnessSettings, SourcesSettings
from cachd.settings.store import LeaseSettings, ScrubSettings, StoreSettings
from cachd.settings.upstream import PrefetchRule, UpstreamSettings
from cachd.settings.values import (
    Seconds,
    Section,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import (
        BaseModel,
    )


class LogSettings(Section):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Section):
    """The whole tree."""

    offline: bool = False
    """Never call out: serve what is cached or imported."""

    drain_timeout: Seconds = 20.0
    """Seconds that SIGTERM leaves to running answers; fetches stop at once and keep journals."""

    prefetch: tuple[PrefetchRule, ...] = ()
    """Models that this node has without being asked: a list of `uri`, `allow`, `ignore`, `pin` and
    `every` ("6h"). Fetched after the start and by schedule, with the daemon's own identity, behind
    what somebody waits for. In the environment: JSON."""

    store: StoreSettings = StoreSettings()
    listen: ListenSettings = ListenSettings()
    fetch: FetchSettings = FetchSettings()
    sources: SourcesSettings = SourcesSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    access: AccessSettings = AccessSettings()
    freshness: FreshnessSettings = FreshnessSettings()
    leases: LeaseSettings = LeaseSettings()
    scrub: ScrubSettings = ScrubSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _provider_can_be_asked(self) -> Settings:
        if self.leases.provider == "kubernetes" and not self.kubernetes.enabled:
            raise ValueError("leases.provider kubernetes needs kubernetes.enabled")
        return self


def walk_fields(
    section: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[BaseModel], str]]:
    """Every leaf as (path, section class, field name), in the order of declaration."""
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from walk_fields(info.annotation, (*path, name))
        else:
            yield (*path, name), section, name


def variable_name(path: tuple[str, ...]) -> str:
    """``("store", "quota")`` → ``CACHD_STORE_QUOTA``. ``listen.socket`` keeps the client's name."""
    if path == ("listen", "socket"):
        return "CACHD_SOCKET"
    if path == ("listen", "admin_socket"):
        return "CACHD_ADMIN_SOCKET"
    return "CACHD_" + "_".join(path).upper()
