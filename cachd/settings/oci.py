"""`oci://`."""

from __future__ import annotations

from pathlib import Path

from cachd.settings.values import Section


class OciSettings(Section):
    """`oci://`."""

    plain_http: tuple[str, ...] = ()
    """Registries, as host or host:port, that are called without TLS."""

    platform: str = ""
    """os/architecture that an index's image is chosen by. Empty: this node's."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""
