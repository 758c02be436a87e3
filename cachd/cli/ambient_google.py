"""Google Cloud: the token of a pod's service account, from the node's metadata server.

As google-auth has it (``google.auth.compute_engine._metadata``): only where this is a machine of
Google's, or ``GCE_METADATA_HOST`` names the server; ``NO_GCE_CHECK`` says it isn't one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.cli.forward_google import HOST
from cachd.cli.identity import Identity, Obtained
from cachd.cli.token_calls import call, parse_object
from cachd.errors import AccessError

if TYPE_CHECKING:
    from collections.abc import Mapping

PRODUCT = Path("/sys/class/dmi/id/product_name")

_SERVICE = "the metadata server of this node"
_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


def choose(
    environ: Mapping[str, str], product: Path = PRODUCT, *, host: str = HOST
) -> Identity | None:
    """``host``: where the token is to be sent."""
    if environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return None  # A key file is somebody's choice of another identity.
    named = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT")
    if not named:
        if environ.get("NO_GCE_CHECK", "").lower() == "true" or not _is_google(product):
            return None
        named = "metadata.google.internal"
    return Metadata(url=f"http://{named}{_PATH}?scopes={_SCOPE}", host=host)


def _is_google(product: Path) -> bool:
    try:
        return product.read_text(errors="replace").startswith("Google")
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Workload Identity, or the node's own account where the cluster has none."""

    url: str
    host: str = HOST

    def obtain(self) -> Obtained:
        headers = {"Metadata-Flavor": "Google"}
        found = parse_object(call(self.url, _SERVICE, headers=headers, is_local=True), _SERVICE)
        return bearer(self.host, found, _SERVICE)


def bearer(host: str, found: Mapping[str, object], service: str, **headers: str) -> Obtained:
    """An OAuth answer (``access_token``, ``expires_in``) as headers for ``host``."""
    token = found.get("access_token")
    if not isinstance(token, str) or not token or not token.isprintable():
        raise AccessError(f"{service} answered without a token")
    try:
        seconds = float(str(found.get("expires_in") or 0))
    except ValueError:
        seconds = 0.0
    return Obtained(
        credentials={"headers": {host: {"Authorization": f"Bearer {token}", **headers}}},
        expires=time.time() + seconds if seconds > 0 else None,
    )
