"""`gs://`."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator

from cachd.settings.values import Section


class GoogleSettings(Section):
    """Defaults for `gs://`. A request may name another endpoint; then it is another origin."""

    endpoint: str | None = None
    """Endpoint URL. None: `STORAGE_EMULATOR_HOST`, else https://storage.googleapis.com."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    anonymous: bool = False
    """Send no token when the daemon's own identity is used."""

    @field_validator("endpoint")
    @classmethod
    def _endpoint_has_a_scheme(cls, endpoint: str | None) -> str | None:
        if endpoint and not re.match("https?://", endpoint.strip(), re.IGNORECASE):
            raise ValueError("write http:// or https:// before the host")
        return endpoint
