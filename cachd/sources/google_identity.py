"""Whose token goes along to Cloud Storage: a caller's, the daemon's own, nobody's.

A key file is JSON with a ``type``. ``service_account``: a JWT (RFC 7523) signed by its key is
changed for a token at its ``token_uri``. ``authorized_user``: a refresh token is. The others
(workload identity federation and its like) speak to servers that the file names; they are refused
by name. As google-auth has it (``google.auth._default``, ``google.oauth2.service_account``).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachd.errors import ConfigInvalid, InvalidError, OriginUnreachable, UriInvalid
from cachd.model import Auth
from cachd.sources.http_client import headers_for
from cachd.sources.http_rules import authority, split_url
from cachd.sources.tokens import Token, Tokens, exchange, token_of

if TYPE_CHECKING:
    from cachd.model import Connect
    from cachd.sources.base import SourceContext, SourceRequest

SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "https://oauth2.googleapis.com/token"
PRODUCT = Path("/sys/class/dmi/id/product_name")
_OWN_KEY = "GOOGLE_APPLICATION_CREDENTIALS"
_METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
_METADATA_TIMEOUT = 5.0
_JWT_LIFE = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What is sent to the endpoint's host. ``who``: whose it is and where it came from."""

    who: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    expires: float | None = None
    is_sent_by_client: bool = False
    """The HTTP client sends it by itself: it is among the caller's headers for the host."""

    @property
    def is_signed(self) -> bool:
        return bool(self.who)

    @property
    def own_headers(self) -> dict[str, str]:
        """What a call must be given."""
        return {} if self.is_sent_by_client else dict(self.headers)

    def auth(self, endpoint: str) -> Auth:
        if not self.headers:
            return Auth()
        return Auth(
            kind="headers",
            headers=self.headers,
            host=authority(split_url(endpoint)),
            expires=self.expires,
        )


async def pass_of(
    request: SourceRequest,
    context: SourceContext,
    connect: Connect,
    tokens: Tokens,
    *,
    fresh: bool = False,
) -> Pass:
    """``fresh``: not the token that was given before. Raises InvalidError for a key that is none,
    ConfigInvalid where it is the daemon's, and what its token server says."""
    if request.identity == "caller":
        return await _callers(request, context, connect, tokens, fresh=fresh)
    if request.identity == "daemon" and not context.settings.gs.anonymous:
        try:
            return await _daemons(context, connect, tokens, fresh=fresh)
        except InvalidError as error:
            raise ConfigInvalid(error.message, hint=error.hint, field=_OWN_KEY) from None
    return Pass()


async def _callers(
    request: SourceRequest,
    context: SourceContext,
    connect: Connect,
    tokens: Tokens,
    *,
    fresh: bool,
) -> Pass:
    given = request.credentials
    endpoint = request.location.options.endpoint or ""
    headers = headers_for(given, endpoint)
    if any(name.strip().lower() == "authorization" for name, _ in headers):
        return Pass(
            who="the Authorization header that was sent", headers=headers, is_sent_by_client=True
        )
    if given.google_key and not given.anonymous:
        key = _parse_key(given.google_key, "credentials.google_key")
        if _token_url(key).startswith("http://") and not endpoint.startswith("http://"):
            raise InvalidError(
                "the Google key in credentials.google_key has an http:// token_uri, where anybody "
                "on the way would read what is shown",
                field="credentials.google_key",
                hint="its token_uri begins with https://, but at an http:// endpoint (an emulator)",
            )
        return await _of_key(key, context, connect, tokens, "credentials.google_key", fresh=fresh)
    if given.token and not given.anonymous:
        return _bearer(Token(value=given.token), "the token that was sent")
    # Some gateway before the store may let in by any header.
    who = "the headers that were sent" if headers else ""
    return Pass(who=who, headers=headers, is_sent_by_client=True)


async def _daemons(
    context: SourceContext, connect: Connect, tokens: Tokens, *, fresh: bool
) -> Pass:
    """``GOOGLE_APPLICATION_CREDENTIALS``, else gcloud's own file, else the metadata server of a
    machine of Google's, else nobody."""
    environ = context.environ
    path = environ.get(_OWN_KEY, "")
    if not path:
        folder = environ.get("CLOUDSDK_CONFIG") or f"{environ.get('HOME', '')}/.config/gcloud"
        well_known = Path(folder) / "application_default_credentials.json"
        path = str(well_known) if await asyncio.to_thread(well_known.is_file) else ""
    if path:
        text = await asyncio.to_thread(_read, Path(path))
        key = _parse_key(text, _OWN_KEY)
        return await _of_key(key, context, connect, tokens, "the daemon's", fresh=fresh)
    host = await asyncio.to_thread(_metadata_host, environ)
    if not host:
        return Pass()
    token = await tokens.get(["metadata", host], lambda: _ask_metadata(host), fresh=fresh)
    return _bearer(token, "the daemon's own, of its metadata server")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigInvalid(
            f"can't read the daemon's Google key {path}: {error.strerror}",
            field=_OWN_KEY,
            hint="correct the path, or mount the key where the daemon runs",
        ) from None


def _parse_key(text: str, where: str) -> dict[str, Any]:
    try:
        key = json.loads(text)
        json.dumps(key, ensure_ascii=False).encode()  # Half a character can't be sent.
    except (ValueError, RecursionError):
        key = None  # No part of it goes into the message.
    if not isinstance(key, dict):
        raise InvalidError(
            f"the Google key in {where} is no JSON object",
            field=where,
            hint="it is the text of the file that Google gave for the service account",
        )
    wanted: tuple[str, ...] = ()
    if key.get("type") == "service_account":
        wanted = ("client_email", "private_key")
    elif key.get("type") == "authorized_user":
        wanted = ("client_id", "client_secret", "refresh_token")
    else:
        shown = str(key.get("type"))[:60]
        raise InvalidError(
            f"the Google key in {where} has the type {shown!r}, which cachd doesn't know",
            field=where,
            hint="known are service_account and authorized_user; with workload identity "
            "federation send a token as a header for the endpoint's host",
        )
    for name in wanted:
        if not isinstance(key.get(name), str) or not key[name]:
            raise InvalidError(
                f"the Google key in {where} has no {name}",
                field=where,
                hint="it is the whole text of the file that Google gave",
            )
    try:
        split_url(_token_url(key))
    except UriInvalid:
        raise InvalidError(
            f"the Google key in {where} has a token_uri that is no URL",
            field=where,
            hint=f"Google's is {EXCHANGE}",
        ) from None
    return key


def _token_url(key: dict[str, Any]) -> str:
    return str(key.get("token_uri") or EXCHANGE)


async def _of_key(
    key: dict[str, Any],
    context: SourceContext,
    connect: Connect,
    tokens: Tokens,
    where: str,
    *,
    fresh: bool,
) -> Pass:
    url = _token_url(key)
    if key["type"] == "service_account":
        who = f"the service account {str(key['client_email'])[:200]} ({where})"
        form = {"grant_type": GRANT}
    else:
        who = f"a user's refresh token ({where})"
        form = {
            "grant_type": "refresh_token",
            "client_id": key["client_id"],
            "client_secret": key["client_secret"],
            "refresh_token": key["refresh_token"],
        }

    async def obtain() -> Token:
        if key["type"] == "service_account":
            form["assertion"] = _assertion(key, url, where)
        return await exchange(context, connect, url, form, who)

    proof = [key, url, connect.verify, connect.ca_pem]
    token = await tokens.get(proof, obtain, fresh=fresh)
    project = key.get("quota_project_id")
    extra = {"x-goog-user-project": project} if isinstance(project, str) and project else {}
    return _bearer(token, who, **extra)


def _assertion(key: dict[str, Any], audience: str, where: str) -> str:
    """The JWT that asks for a token."""
    from awscrt.crypto import RSA, RSASignatureAlgorithm  # noqa: PLC0415  (heavy)

    now = int(time.time())
    header = {"alg": "RS256", "typ": "JWT", "kid": str(key.get("private_key_id") or "")}
    claims = {
        "iss": key["client_email"],
        "scope": SCOPE,
        "aud": audience,
        "iat": now,
        "exp": now + _JWT_LIFE,
    }
    signed = f"{_base64url(json.dumps(header))}.{_base64url(json.dumps(claims))}"
    try:
        private = RSA.new_private_key_from_pem_data(key["private_key"])
    except Exception:  # awscrt raises RuntimeError as well as ValueError
        raise InvalidError(
            f"the private_key of the Google key in {where} is no PEM text of an RSA key",
            field=where,
            hint="a key file's text holds \\n for the line breaks of its private_key",
        ) from None
    digest = hashlib.sha256(signed.encode()).digest()
    signature = private.sign(RSASignatureAlgorithm.PKCS1_5_SHA256, digest)
    return f"{signed}.{_base64url(signature)}"


def _base64url(data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bearer(token: Token, who: str, **headers: str) -> Pass:
    return Pass(
        who=who,
        headers=(("Authorization", f"Bearer {token.value}"), *headers.items()),
        expires=token.expires,
    )


def _metadata_host(environ: Any, product: Path = PRODUCT) -> str:
    """Where the metadata server is; "" on what is no machine of Google's."""
    named = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT")
    if named:
        return str(named)
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        return ""
    try:
        is_google = product.read_text(errors="replace").startswith("Google")
    except OSError:
        return ""
    return "metadata.google.internal" if is_google else ""


async def _ask_metadata(host: str) -> Token:
    """Not by the guarded client and its proxies: it is this machine's own service, which no URI
    leads to."""
    import aiohttp  # noqa: PLC0415  (heavy)

    url = f"http://{host}{_METADATA_PATH}?scopes={SCOPE}"
    timeout = aiohttp.ClientTimeout(total=_METADATA_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(
                url, headers={"Metadata-Flavor": "Google"}, allow_redirects=False
            ) as answer,
        ):
            found = await answer.json(content_type=None) if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise OriginUnreachable(
            f"the metadata server {host} can't be asked for the daemon's token: "
            f"{type(error).__name__}",
            hint="NO_GCE_CHECK=true in the daemon's environment says that there is none",
        ) from None
    value = found.get("access_token") if isinstance(found, dict) else None
    if found is None or not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigInvalid(
            f"the metadata server {host} gives the daemon no token",
            hint="does this node, or the daemon's service account, have one?",
        )
    return token_of(value, found.get("expires_in"))
