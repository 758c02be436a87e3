"""Azure Blob Storage and Azure Files."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class AzureSettings(Section):
    """Azure Blob Storage and Azure Files."""

    endpoint: str | None = None
    """URL of the blob service, for all accounts. None: the account's own host."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
