"""`modelscope://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class ModelScopeSettings(Section):
    """`modelscope://`. A request may name another endpoint; then it is another origin."""

    endpoint: str | None = None
    """The hub's URL. None: `MODELSCOPE_ENDPOINT`, `MODELSCOPE_DOMAIN`, else
    https://www.modelscope.cn."""

    token_file: Path | None = None
    """File with the daemon's own token, read anew for each call. None: `MODELSCOPE_API_TOKEN`. It
    serves whom the daemon's identity may be lent to (`access.*`)."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
