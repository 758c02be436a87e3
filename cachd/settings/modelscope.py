"""`modelscope://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class ModelScopeSettings(Section):
    """`modelscope://`."""

    endpoint: str | None = None
    """The hub's URL. None: `MODELSCOPE_DOMAIN`, else https://modelscope.cn."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
