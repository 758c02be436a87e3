"""`hf://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class HubSettings(Section):
    """`hf://`."""

    endpoint: str | None = None
    """The hub's URL. None: `HF_ENDPOINT`, else https://huggingface.co."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
