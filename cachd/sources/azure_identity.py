"""Who calls Azure Storage: a caller, the daemon, nobody.

What comes first: an Authorization header for the host; a shared access signature (in the URI, or
beside it); the account's key, of which a signature is made that reads and lists this one container
for an hour; a service principal's secret, or a federated token, changed for a bearer token.
"Create a service SAS", "OAuth 2.0 client credentials flow": Microsoft's public documentation.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode

from cachd.errors import ConfigInvalid, InvalidError, UriInvalid
from cachd.model import Auth
from cachd.sources.http_client import headers_for
from cachd.sources.http_rules import authority, split_url
from cachd.sources.tokens import Token, Tokens, exchange

if TYPE_CHECKING:
    from cachd.credentials import Credentials
    from cachd.model import Connect
    from cachd.sources.azure_location import AzureAddress
    from cachd.sources.base import SourceContext, SourceRequest

VERSION = "2023-11-03"
"""``x-ms-version`` of every request."""

SAS_LIFE = 3600
SCOPE = "https://storage.azure.com/.default"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """``who``: whose it is and where it came from, "" for nobody."""

    who: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: str = field(default="", repr=False)
    expires: float | None = None
    is_sent_by_client: bool = False

    @property
    def is_signed(self) -> bool:
        return bool(self.who)

    @property
    def own_headers(self) -> dict[str, str]:
        """What a call must be given."""
        given = {} if self.is_sent_by_client else dict(self.headers)
        return {"x-ms-version": VERSION, **given}

    def auth(self, base: str) -> Auth:
        # Planned files have the version themselves.
        headers = tuple((n, v) for n, v in self.headers if n.strip().lower() != "x-ms-version")
        if not headers and not self.query:
            return Auth()
        return Auth(
            kind="headers",
            headers=headers,
            query=self.query,
            host=authority(split_url(base)),
            expires=self.expires,
        )


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a pass is made of and with."""

    context: SourceContext
    connect: Connect
    tokens: Tokens
    address: AzureAddress
    base: str
    fresh: bool


async def pass_of(request: SourceRequest, means: Means) -> Pass:
    """Raises InvalidError for credentials that can't be meant, ConfigInvalid where they are the
    daemon's, and what the token server says."""
    if request.identity == "caller":
        return await _callers(request.credentials, request.location.options.authority, means)
    if request.identity == "daemon" and not means.context.settings.azure.anonymous:
        try:
            return await _daemons(means)
        except InvalidError as error:
            raise ConfigInvalid(error.message, hint=error.hint, field=error.field) from None
    return Pass()


async def _callers(given: Credentials, authority_url: str | None, means: Means) -> Pass:
    headers = headers_for(given, means.base)
    if any(name.strip().lower() == "authorization" for name, _ in headers):
        return Pass(
            who="the Authorization header that was sent", headers=headers, is_sent_by_client=True
        )
    sas, where = given.query, "the URI's query"
    if not sas:
        sas, where = given.azure_sas, "credentials.azure_sas"
    if sas:
        return Pass(who=f"the shared access signature of {where}", query=_query_of(sas, where))
    if given.azure_account_key:
        return _sign(given.azure_account_key, "credentials.azure_account_key", means)
    named = (given.azure_tenant_id, given.azure_client_id, given.azure_client_secret)
    if all(named):
        return await _principal(*named, "", authority_url or "", "credentials", means)
    if any(named):
        raise InvalidError(
            "a service principal takes azure_tenant_id, azure_client_id and azure_client_secret",
            field="credentials",
            hint="send all three, or none of them",
        )
    if given.token:
        return _bearer(Token(value=given.token), "the token that was sent", means)
    # Some gateway before the store may let in by any header.
    who = "the headers that were sent" if headers else ""
    return Pass(who=who, headers=headers, is_sent_by_client=True)


async def _daemons(means: Means) -> Pass:
    """From its environment, for the account that this names, if it names one. Who gives tokens is
    the environment's to say: no caller's."""
    environ = means.context.environ
    account = environ.get("AZURE_STORAGE_ACCOUNT") or environ.get("AZURE_ACCOUNT_NAME")
    is_its_account = not account or account == means.address.account
    sas = environ.get("AZURE_STORAGE_SAS_TOKEN", "")
    key = environ.get("AZURE_STORAGE_ACCESS_KEY") or environ.get("AZURE_STORAGE_KEY", "")
    if sas and is_its_account:
        return Pass(
            who="the daemon's AZURE_STORAGE_SAS_TOKEN",
            query=_query_of(sas, "AZURE_STORAGE_SAS_TOKEN"),
        )
    if key and is_its_account:
        return _sign(key, "the daemon's AZURE_STORAGE_ACCESS_KEY", means)
    tenant, client = environ.get("AZURE_TENANT_ID", ""), environ.get("AZURE_CLIENT_ID", "")
    secret = environ.get("AZURE_CLIENT_SECRET", "")
    token_file = "" if secret else environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if environ.get("AZURE_ACCESS_TOKEN"):
        token = Token(value=environ["AZURE_ACCESS_TOKEN"])
        return _bearer(token, "the daemon's AZURE_ACCESS_TOKEN", means)
    if tenant and client and (secret or token_file):
        host = environ.get("AZURE_AUTHORITY_HOST", "")
        return await _principal(tenant, client, secret, token_file, host, "the daemon's", means)
    return Pass()


def _query_of(sas: str, where: str) -> str:
    text = sas.strip().lstrip("?")
    if "sig=" not in text or any(c.isspace() or c in '#<>"\\' for c in text):
        raise InvalidError(
            f"{where} holds no shared access signature",
            field=where,
            hint="it looks like sv=…&sr=c&sp=rl&se=…&sig=…",
        )
    return text


# --- an account's key ----------------------------------------------------------------------------


def _sign(key: str, where: str, means: Means) -> Pass:
    expires = int(time.time()) + SAS_LIFE
    query = service_sas(means.address, key, where, expires, is_tls=means.base.startswith("https:"))
    return Pass(who=f"a signature by the account's key ({where})", query=query, expires=expires)


def service_sas(address: AzureAddress, key: str, where: str, expires: int, *, is_tls: bool) -> str:
    """The query that reads and lists the container, or the share; where one state of a blob is
    named, that reads just this."""
    try:
        raw = base64.b64decode(key.strip(), validate=True)
    except ValueError:
        raw = b""
    if not raw:
        raise InvalidError(
            f"the account's key ({where}) is no base64",
            field=where,
            hint="it is one of the two keys that the account's page at Azure shows",
        )
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
    resource = f"/{address.service}/{address.account}/{address.container}"
    what, rights, moment = "c" if address.service == "blob" else "s", "rl", ""
    if address.pinned:
        name, _, value = address.pinned.partition("=")
        what, rights, moment = "bs" if name == "snapshot" else "bv", "r", unquote(value)
        resource += f"/{address.prefix}"
    fields = {"sp": rights, "se": end, "sv": VERSION, "sr": what}
    if is_tls:
        fields["spr"] = "https"
    lines = [rights, "", end, resource, "", "", fields.get("spr", ""), VERSION]
    if address.service == "blob":
        lines += [what, moment, ""]
    # No headers of the answer are overridden.
    lines += [""] * 5
    digest = hmac.new(raw, "\n".join(lines).encode(), hashlib.sha256).digest()
    return urlencode({**fields, "sig": base64.b64encode(digest).decode()})


# --- an application ------------------------------------------------------------------------------


async def _principal(
    tenant: str,
    client: str,
    secret: str,
    token_file: str,
    given_authority: str,
    where: str,
    means: Means,
) -> Pass:
    field = "options.authority" if where == "credentials" else "AZURE_AUTHORITY_HOST"
    url = f"{_authority_of(given_authority, field, means.address)}/{quote(tenant, safe='')}"
    url += "/oauth2/v2.0/token"
    who = f"the application {client[:100]} ({where})"

    async def obtain() -> Token:
        form = {"client_id": client, "scope": SCOPE, "grant_type": "client_credentials"}
        if secret:
            form["client_secret"] = secret
        else:
            form["client_assertion_type"] = ASSERTION
            form["client_assertion"] = await asyncio.to_thread(_read, token_file)
        return await exchange(means.context, means.connect, url, form, who)

    connect = means.connect
    proof = [url, client, secret, token_file, connect.verify, connect.ca_pem]
    token = await means.tokens.get(proof, obtain, fresh=means.fresh)
    return _bearer(token, who, means)


def _authority_of(given: str, field: str, address: AzureAddress) -> str:
    url = given or address.authority
    if "://" not in url:
        url = f"https://{url}"
    hint = f"it looks like {address.authority}; a secret would be sent in the clear by http"
    if not url.startswith("https://"):
        raise InvalidError(
            "who gives Azure's tokens must be called by https", field=field, hint=hint
        )
    try:
        split_url(url)
    except UriInvalid as error:
        raise InvalidError(
            f"who gives Azure's tokens can't be called: {error.message}", field=field, hint=hint
        ) from None
    return url.partition("?")[0].rstrip("/")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"can't read the daemon's federated token {path}: "
            f"{getattr(error, 'strerror', None) or 'it is no token'}",
            field="AZURE_FEDERATED_TOKEN_FILE",
        ) from None


def _bearer(token: Token, who: str, means: Means) -> Pass:
    headers = [("Authorization", f"Bearer {token.value}")]
    if means.address.service == "file":
        # "Authorize with Microsoft Entra ID for REST": rights on files are given to roles alone.
        headers.append(("x-ms-file-request-intent", "backup"))
    return Pass(who=who, headers=tuple(headers), expires=token.expires)
