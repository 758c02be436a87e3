"""The API server of the cluster that the node is in."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator

from cachd.settings.values import Seconds, Section

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubernetesSettings(Section):
    """The API server. Off, cachd works without one."""

    enabled: bool = False
    """Talk to the API server: identities by service account, leases that live as long as pods."""

    server: str | None = None
    """URL of the API server. None: `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`."""

    token_file: Path = _ACCOUNT / "token"
    """The daemon's own token, read again for every call."""

    ca_file: Path = _ACCOUNT / "ca.crt"
    """PEM file with the API server's authority."""

    node_name: str | None = None
    """This node. None: the environment's `NODE_NAME`."""

    audience: str = "cachd"
    """What the tokens of callers must be meant for (`audience` of a projected token)."""

    identity_ttl: Seconds = 60.0
    """Seconds that the API server's yes to a caller's token is remembered, never beyond the token's
    own end. A pod that is deleted keeps its identity for so long."""

    identity_grace: Seconds = 600.0
    """Seconds more, while the API server can't be asked."""

    @field_validator("server")
    @classmethod
    def _server_is_a_url(cls, server: str | None) -> str | None:
        if server and not re.fullmatch(r"https?://[^/?#@\s]+/?", server):
            raise ValueError("the API server looks like https://10.0.0.1:443")
        return server
