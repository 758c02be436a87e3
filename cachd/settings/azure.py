"""Azure Blob Storage and Azure Files."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Endpoint, Section


class AzureSettings(Section):
    """Defaults for Azure Blob Storage and Azure Files. A request may name another endpoint; then it
    is another origin."""

    endpoint: Endpoint | None = None
    """URL of the blob service, for all accounts: an account is the beginning of its host's name, or
    the first part of its path. None: the account's own host."""

    files_endpoint: Endpoint | None = None
    """The same of the file service."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    anonymous: bool = False
    """Prove nothing when the daemon's own identity is used."""
