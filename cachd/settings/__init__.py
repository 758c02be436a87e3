"""The settings tree: defaults, units and reasons. ``docs/settings.md`` is generated from it.

A value comes from the configuration file (YAML, of which JSON is a part) and, over it, from
environment variables: ``store.quota`` is ``CACHD_STORE_QUOTA``. Unknown names in either are errors.
"""

from cachd.settings.access import AccessRule, AccessSettings, Verb, read_rules
from cachd.settings.fetch import FetchSettings
from cachd.settings.kubernetes import KubernetesSettings, NodeLabelRule
from cachd.settings.listen import ApiTcpSettings, ListenSettings
from cachd.settings.loading import load_settings, suggest, unknown_variables
from cachd.settings.registries import RegistryRule
from cachd.settings.sources import (
    ArchiveSettings,
    EgressSettings,
    FileSettings,
    FreshnessSettings,
    HttpSettings,
    MirrorRule,
    RefreshRule,
    S3Settings,
    SourcesSettings,
)
from cachd.settings.store import KubeletSettings, LeaseSettings, ScrubSettings, StoreSettings
from cachd.settings.tree import LogSettings, Settings, variable_name, walk_fields
from cachd.settings.upstream import PrefetchRule, UpstreamSettings
from cachd.settings.values import Share, show_bytes

__all__ = [
    "AccessRule",
    "AccessSettings",
    "ApiTcpSettings",
    "ArchiveSettings",
    "EgressSettings",
    "FetchSettings",
    "FileSettings",
    "FreshnessSettings",
    "HttpSettings",
    "KubeletSettings",
    "KubernetesSettings",
    "LeaseSettings",
    "ListenSettings",
    "LogSettings",
    "MirrorRule",
    "NodeLabelRule",
    "PrefetchRule",
    "RefreshRule",
    "RegistryRule",
    "S3Settings",
    "ScrubSettings",
    "Settings",
    "Share",
    "SourcesSettings",
    "StoreSettings",
    "UpstreamSettings",
    "Verb",
    "load_settings",
    "read_rules",
    "show_bytes",
    "suggest",
    "unknown_variables",
    "variable_name",
    "walk_fields",
]
