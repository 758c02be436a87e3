"""What goes along for ``oci://``: the pod's login at that very registry. Pure, but for the reading
of files.

KServe projects the pod's first imagePullSecret as a docker config, and names it in
``KSERVE_OCI_DOCKER_CONFIG``; ``KSERVE_OCI_INSECURE_REGISTRY`` is its name for a registry without
TLS (pkg/credentials and python/storage/kserve_storage/kserve_storage.py).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from cachd.cli.forward_values import Forwarded, is_true, parts_of
from cachd.docker_config import gather_logins, registry_of
from cachd.docker_config import host_of as api_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachd.docker_config import Login

_INSECURE = "KSERVE_OCI_INSECURE_REGISTRY"


def gather_oci(environ: Mapping[str, str], uri: str, read: Callable[[str], str]) -> Forwarded:
    """The login, which goes nowhere but to the registry that ``uri`` names."""
    credentials: dict[str, Any] = {}
    options = {"plain_http": True} if is_true(environ.get(_INSECURE)) else {}
    found, warnings = gather_logins(environ, read)
    parts = parts_of(uri)
    registry = registry_of(parts.netloc.rpartition("@")[2])
    repository = parts.path.strip("/").partition("@")[0].partition(":")[0]
    for logins in found:
        login = logins.find(registry, repository)
        if login is not None:
            if login.token:
                credentials = {"headers": {api_of(registry): {"Authorization": _header(login)}}}
            else:
                credentials = {"username": login.username, "password": login.password}
            break
        helper = logins.helper_for(registry)
        if helper:
            warnings.append(
                f"the docker config names the credential helper {helper} for {registry}, which "
                "isn't run: no login is sent"
            )
            break
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def gather_oci_everywhere(environ: Mapping[str, str], read: Callable[[str], str]) -> Forwarded:
    """Every login of the pod's, as a header for its registry: which one a model's registry leads
    to is known only there."""
    found, warnings = gather_logins(environ, read)
    headers: dict[str, dict[str, str]] = {}
    for logins in found:
        for host, login in logins.hosts():
            headers.setdefault(api_of(host), {"Authorization": _header(login)})
    options = {"plain_http": True} if is_true(environ.get(_INSECURE)) else {}
    credentials = {"headers": headers} if headers else {}
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def host_of(uri: str) -> str:
    """The host that is asked for ``uri``: Docker Hub's API is at another than its names say."""
    return api_of((parts_of(uri).hostname or "").lower())


def _header(login: Login) -> str:
    if login.token:
        return f"Bearer {login.token}"
    pair = f"{login.username}:{login.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"
