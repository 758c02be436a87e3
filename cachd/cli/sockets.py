"""Which socket to speak to."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cachd.environment import CLIENT_VARIABLES, default_socket, is_service_link

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_FILE = "/var/run/secrets/cachd/token"  # noqa: S105  (a path)
"""A projected service-account token whose audience is cachd."""

SYSTEM_SOCKET = Path("/run/cachd/cachd.sock")


def pod_socket(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``--socket``, else ``CACHD_SOCKET``, else the daemon's default for this user, else the
    system's where that one exists."""
    named = option or environ.get("CACHD_SOCKET")
    if named:
        return Path(named)
    own = default_socket(environ)
    if not is_there(own) and is_there(SYSTEM_SOCKET):
        return SYSTEM_SOCKET
    return own


def token_file(environ: Mapping[str, str] = os.environ) -> Path:
    """``CACHD_TOKEN_FILE``, else where the chart's examples mount it; it needn't be there."""
    return Path(environ.get("CACHD_TOKEN_FILE") or TOKEN_FILE)


def admin_socket(
    option: str | None, pods: Path, environ: Mapping[str, str] = os.environ
) -> tuple[Path, bool]:
    """``--admin-socket``, else ``CACHD_ADMIN_SOCKET``, else ``admin.sock`` beside the pods' socket;
    and whether somebody named it."""
    named = option or environ.get("CACHD_ADMIN_SOCKET")
    return (Path(named), True) if named else (pods.with_name("admin.sock"), False)


def is_there(path: Path) -> bool:
    """Whether this user can see ``path``."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def may_open(path: Path) -> bool:
    """Whether ``path`` exists and this user may connect to it."""
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def suspicious_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """``CACHD_*`` names that look like a slip of the pen, each with the name that was meant.

    The client shares its environment with whatever else runs there, and doesn't know the daemon's
    settings, so that it warns of near misses of its own names only.
    """
    own = {name.removeprefix("CACHD_"): name for name in CLIENT_VARIABLES}
    found = []
    for name in sorted(environ):
        if not name.startswith("CACHD_") or name in CLIENT_VARIABLES or is_service_link(name):
            continue
        near = difflib.get_close_matches(name.removeprefix("CACHD_"), own, n=1, cutoff=0.75)
        if near:
            found.append((name, own[near[0]]))
    return found
