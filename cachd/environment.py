"""Names in the environment and default paths that the client and the daemon share; imports nothing
heavy, for the client is an init container."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PULL_VARIABLES = frozenset(
    {
        "CACHD_SOCKET",
        "CACHD_ADMIN_SOCKET",
        "CACHD_JSON",
        "CACHD_ALLOW",
        "CACHD_IGNORE",
        "CACHD_ENDPOINT",
        "CACHD_REGION",
        "CACHD_ADDRESSING",
        "CACHD_ANONYMOUS",
        "CACHD_NO_VERIFY_SSL",
        "CACHD_CA_BUNDLE",
        "CACHD_HEADER",
        "CACHD_NO_FORWARD",
        "CACHD_DIGEST",
        "CACHD_METADATA",
        "CACHD_MODEL_DIGEST",
        "CACHD_PRIORITY",
        "CACHD_TIMEOUT",
        "CACHD_NO_WAIT",
        "CACHD_LEASE_TTL",
        "CACHD_HOLDER",
        "CACHD_VIEW",
        "CACHD_VIEW_MOUNT",
        "CACHD_READONLY",
        "CACHD_LAYOUT",
        "CACHD_HARD_LINK",
        "CACHD_VERIFY",
        "CACHD_QUIET",
        "CACHD_HEARTBEAT",
        "CACHD_WAIT_DAEMON",
        "CACHD_FALLBACK",
    }
)
"""One for each option of ``cachd pull`` (``cachd.cli.variables``)."""

CLIENT_VARIABLES = PULL_VARIABLES | {
    "CACHD_CONFIG",
    "CACHD_TOKEN_FILE",
    "CACHD_API",
    "CACHD_API_TOKEN",
    "CACHD_API_CA",
    "CACHD_API_SERVER_NAME",
    "CACHD_TERMINATION_LOG",
}
"""Names that the client or the command line reads; no settings of the daemon."""

_SERVICE_LINK = re.compile(r"^CACHD(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?)$")
_SERVICE_LINK_PORT = re.compile(
    r"^CACHD(_[A-Z0-9]+)*_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$"
)


def is_service_link(name: str) -> bool:
    """Whether Kubernetes injects ``name`` for a Service called ``cachd`` or ``cachd-…``.

    Source: kubelet's pkg/kubelet/envvars (``makeEnvVariableName``, ``makeLinkVariables``).
    """
    return bool(_SERVICE_LINK.match(name) or _SERVICE_LINK_PORT.match(name))


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The XDG cache directory's ``cachd``."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cachd"


def default_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """The pods' socket, where nothing says otherwise; the client's rule and the daemon's."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "cachd" / "cachd.sock"
    if os.getuid() == 0:
        return Path("/run/cachd/cachd.sock")
    return Path(f"/tmp/cachd-{os.getuid()}/cachd.sock")  # noqa: S108  (made 0700, owner checked)
