"""Azure Blob Storage and Azure Files."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator

from cachd.settings.values import Section


class AzureSettings(Section):
    """Defaults for Azure Blob Storage and Azure Files. A request may name another endpoint; then it
    is another origin."""

    endpoint: str | None = None
    """URL of the blob service, for all accounts: an account is the beginning of its host's name, or
    the first part of its path. None: the account's own host."""

    files_endpoint: str | None = None
    """The same of the file service."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    anonymous: bool = False
    """Prove nothing when the daemon's own identity is used."""

    @field_validator("endpoint", "files_endpoint")
    @classmethod
    def _endpoint_has_a_scheme(cls, endpoint: str | None) -> str | None:
        if endpoint and not re.match("https?://", endpoint.strip(), re.IGNORECASE):
            raise ValueError("write http:// or https:// before the host")
        return endpoint
