"""What goes along for Azure's blobs and files. Pure.

KServe's injector sets these variables from secrets (pkg/credentials/azure), also from those with
its older names (``AZ_*``). An application's secret isn't sent: the client changes it for a token
itself (``ambient_azure``), unless a registry has yet to say whose store it will be.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cachd.cli.forward_values import Forwarded, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.cli.forward_values import Overrides

_OWN = re.compile(
    r"\.(?:blob|dfs|file)\.(?:core\.windows\.net|storage\.azure\.net"
    r"|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net)$"
)
_PRINCIPAL = (
    ("azure_tenant_id", "AZURE_TENANT_ID"),
    ("azure_client_id", "AZURE_CLIENT_ID"),
    ("azure_client_secret", "AZURE_CLIENT_SECRET"),
)


def gather_azure(
    environ: Mapping[str, str], uri: str, overrides: Overrides, *, strict: bool
) -> Forwarded:
    """``strict`` False, where it isn't known yet which account it will be."""
    credentials: dict[str, Any] = {}
    options: dict[str, Any] = {}
    account = environ.get("AZURE_STORAGE_ACCOUNT") or environ.get("AZURE_ACCOUNT_NAME")
    is_its_account = not strict or not account or account == account_of(uri)
    if is_its_account and not is_signed(uri):
        for name, variable in (
            ("azure_sas", "AZURE_STORAGE_SAS_TOKEN"),
            ("azure_account_key", "AZURE_STORAGE_ACCESS_KEY"),
        ):
            if environ.get(variable):
                credentials[name] = environ[variable]
    if not strict and all(environ.get(variable) for _, variable in _PRINCIPAL):
        credentials.update({name: environ[variable] for name, variable in _PRINCIPAL})
        if environ.get("AZURE_AUTHORITY_HOST"):
            options["authority"] = environ["AZURE_AUTHORITY_HOST"]
    warnings = []
    if not strict and environ.get("AZURE_ACCESS_TOKEN"):
        warnings.append(
            "AZURE_ACCESS_TOKEN isn't sent: whose account a registry will name isn't known yet; "
            "set AZURE_CLIENT_SECRET, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_ACCESS_KEY"
        )
    url = environ.get("AZURE_SERVICE_URL")
    if url and strict and not overrides.endpoint and not _is_own(url):
        options["endpoint"] = url
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _is_own(url: str) -> bool:
    """An account's own host at Azure is what its URIs name anyway, and another account's is another
    store."""
    parts = parts_of(url if "://" in url else f"https://{url}")
    return _OWN.search((parts.hostname or "").lower()) is not None


def is_signed(uri: str) -> bool:
    """Whether a shared access signature is in the URI."""
    query = parts_of(uri).query
    return query.startswith("sig=") or "&sig=" in query


def account_of(uri: str) -> str:
    return host_of(uri, None).partition(".")[0].removesuffix("-secondary")


def host_of(uri: str, endpoint: str | None) -> str:
    """The host that a pass is for; "" where it would go in the clear."""
    if endpoint:
        parts = parts_of(endpoint if "://" in endpoint else f"https://{endpoint}")
        return parts.netloc.lower() if parts.scheme.lower() == "https" else ""
    return (parts_of(uri).hostname or "").lower().replace(".dfs.", ".blob.")
