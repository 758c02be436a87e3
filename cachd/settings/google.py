"""`gs://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Endpoint, Section


class GoogleSettings(Section):
    """Defaults for `gs://`. A request may name another endpoint; then it is another origin."""

    endpoint: Endpoint | None = None
    """Endpoint URL. None: `STORAGE_EMULATOR_HOST`, else https://storage.googleapis.com."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    anonymous: bool = False
    """Send no token when the daemon's own identity is used."""
