"""`hf://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class HubSettings(Section):
    """`hf://`. A request may name another endpoint; then it is another origin."""

    endpoint: str | None = None
    """The hub's URL. None: `HF_ENDPOINT`, else https://huggingface.co."""

    token_file: Path | None = None
    """File with the daemon's own token, read anew for each call. None: `HF_TOKEN`. It serves whom
    the daemon's identity may be lent to (`access.*`)."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
