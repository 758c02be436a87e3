"""Azure: a token for Azure Storage, for an application that the pod's service account stands for
(workload identity), or for one whose secret or token KServe put into the environment.

The order is that of azure-identity's ``DefaultAzureCredential``: a client secret before a federated
token. KServe's own ``AZURE_ACCESS_TOKEN`` (pkg/credentials/azure) comes first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from cachd.cli.ambient_google import bearer
from cachd.cli.token_calls import call, parse_object, read_token
from cachd.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.cli.identity import Identity, Obtained

_SERVICE = "Microsoft's token service"
_AUTHORITY = "https://login.microsoftonline.com"
_SCOPE = "https://storage.azure.com/.default"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_VERSION = "2023-11-03"
"""``x-ms-version``: Azure Storage takes tokens only with one."""


def choose(environ: Mapping[str, str], host: str) -> Identity | None:
    if environ.get("AZURE_ACCESS_TOKEN"):
        return Given(host=host, token=environ["AZURE_ACCESS_TOKEN"])
    client, tenant = environ.get("AZURE_CLIENT_ID"), environ.get("AZURE_TENANT_ID")
    secret = environ.get("AZURE_CLIENT_SECRET", "")
    token_file = environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if not (client and tenant and (secret or token_file)):
        return None
    authority = environ.get("AZURE_AUTHORITY_HOST") or _AUTHORITY
    if "://" not in authority:
        authority = f"https://{authority}"
    if not authority.startswith("https://"):
        raise InvalidError(
            "AZURE_AUTHORITY_HOST must be https",
            field="AZURE_AUTHORITY_HOST",
            hint="write https://…; a token would be sent there in the clear",
        )
    return Application(
        host=host,
        url=f"{authority.rstrip('/')}/{quote(tenant, safe='')}/oauth2/v2.0/token",
        client=client,
        secret=secret,
        token_file="" if secret else token_file,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A token that somebody else got."""

    host: str
    token: str = field(repr=False)

    def obtain(self) -> Obtained:
        found = {"access_token": self.token}
        return bearer(self.host, found, "AZURE_ACCESS_TOKEN", **_headers(self.host))


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An application's token, for its secret or for this pod's service-account token."""

    host: str
    url: str
    client: str
    secret: str = field(default="", repr=False)
    token_file: str = ""

    def obtain(self) -> Obtained:
        form = {"client_id": self.client, "scope": _SCOPE, "grant_type": "client_credentials"}
        if self.secret:
            form["client_secret"] = self.secret
        else:
            form["client_assertion_type"] = _ASSERTION
            form["client_assertion"] = read_token(self.token_file, "AZURE_FEDERATED_TOKEN_FILE")
        found = parse_object(call(self.url, _SERVICE, form=form), _SERVICE)
        return bearer(self.host, found, _SERVICE, **_headers(self.host))


def _headers(host: str) -> dict[str, str]:
    """Azure Files gives rights to roles alone, and wants to be told that they are meant."""
    intent = {"x-ms-file-request-intent": "backup"} if ".file." in host else {}
    return {"x-ms-version": _VERSION, **intent}
