"""`oci://`."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator

from cachd.settings.values import Section


class OciSettings(Section):
    """`oci://`."""

    plain_http: tuple[str, ...] = ()
    """Registries, as host or host:port, that are called without TLS."""

    platform: str = ""
    """os/architecture (maybe /variant) that an index's image is chosen by, such as linux/arm64.
    Empty: this node's."""

    docker_config: Path | None = None
    """The daemon's own logins at registries: a docker `config.json`, lent as `access.*` says.
    Empty: KSERVE_OCI_DOCKER_CONFIG, REGISTRY_AUTH_FILE, DOCKER_CONFIG and ~/.docker of the daemon's
    environment. Credential helpers aren't run."""

    ca_bundle: Path | None = None
    """PEM file trusted besides the system's authorities."""

    @field_validator("platform")
    @classmethod
    def _platform_is_one(cls, text: str) -> str:
        if text and not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?", text):
            raise ValueError("a platform looks like linux/amd64 or linux/arm/v7")
        return text
