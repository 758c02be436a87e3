"""`gs://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class GoogleSettings(Section):
    """`gs://`."""

    endpoint: str | None = None
    """Endpoint URL. None: `STORAGE_EMULATOR_HOST`, else https://storage.googleapis.com."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
