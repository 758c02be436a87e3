"""Calls at a registry's API, and the passes that it takes: none, Basic, tokens.

OCI distribution-spec ("Pulling manifests", "Error codes"); how tokens are had: distribution,
"Token authentication specification" and "OAuth2 token authentication" (refresh tokens, which
docker calls identity tokens).
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from cachd.docker_config import TOKEN_USER, Login
from cachd.errors import (
    AccessError,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    DigestMismatch,
    NotFound,
    OriginBusy,
    OriginError,
)
from cachd.model import Auth
from cachd.sources.http_client import headers_for
from cachd.sources.http_rules import authority, origin_of, shown, split_url
from cachd.sources.oci_layout import INDEXES, MANIFESTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import Credentials
    from cachd.sources.http_client import HttpAnswer, HttpClient
    from cachd.sources.oci_reference import Reference

MANIFEST_MOST = 4 * 1024 * 1024
"""Bytes of a manifest; the most that registries have to take, and that most of them do."""

_TOKEN_MOST = 1024 * 1024
_TOKEN_LIFE = 60
"""Seconds that a token lives whose answer doesn't say: the specification's number."""

_TOKEN_LIFE_MOST = 86400
_ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
_CODE = re.compile(r"[A-Z_]{1,40}")
_CHALLENGE = re.compile(
    r'(?<![A-Za-z])([A-Za-z]{1,32})\s+((?:[A-Za-z_]+=(?:"[^"]*"|[^\s",]+)(?:\s*,\s*)?)+)'
)
_PARAMETER = re.compile(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s",]+))')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``digest`` is that of ``data``'s very bytes."""

    digest: str
    media_type: str
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a 401 asks for: ``scheme`` "basic" or "bearer"."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenges(headers: Mapping[str, str]) -> list[Challenge]:
    """Those of ``WWW-Authenticate`` that are understood."""
    get_all = getattr(headers, "getall", None)
    lines = get_all("WWW-Authenticate", []) if get_all else [headers.get("WWW-Authenticate", "")]
    found = []
    for line in lines[:16]:
        for scheme, rest in _CHALLENGE.findall(line):
            values = {name.lower(): a or b for name, a, b in _PARAMETER.findall(rest)}
            if scheme.lower() in ("basic", "bearer"):
                found.append(
                    Challenge(
                        scheme=scheme.lower(),
                        **{name: values.get(name, "") for name in ("realm", "service", "scope")},
                    )
                )
        if line.strip().lower() == "basic":
            found.append(Challenge(scheme="basic"))
    return found


def login_of_headers(credentials: Credentials, base: str) -> Login | None:
    """A name and a password that came as a Basic header for the registry's host: to get a token
    they must be shown elsewhere."""
    for name, value in headers_for(credentials, base):
        kind, _, rest = value.strip().partition(" ")
        if name.strip().lower() == "authorization" and kind.lower() == "basic":
            try:
                user, colon, password = base64.b64decode(rest.strip()).decode().partition(":")
            except ValueError:
                continue
            if colon:
                return Login(username=user, password=password, where="its header")
    return None


class RegistryClient:
    """One call of ours at one repository. ``login`` None: as anybody; ``where`` is told in errors
    for a login that isn't there."""

    def __init__(
        self,
        http: HttpClient,
        base: str,
        reference: Reference,
        login: Login | None,
        missing: str = "",
    ) -> None:
        self._http = http
        self._base = base
        self._reference = reference
        self._login = login
        self._missing = missing
        self._header = ""
        self._expires: float | None = None
        self._sent: tuple[tuple[str, str], ...] = ()
        self.is_credentialed = False
        if login is not None and login.token:
            self._use(f"Bearer {login.token}", None, is_login=True)

    @property
    def blobs(self) -> str:
        """What a blob's digest is appended to."""
        return f"{self._base}/v2/{self._reference.repository}/blobs/"

    @property
    def auth(self) -> Auth:
        """For blobs: what the last call was made with. Storage that it redirects to gets none."""
        headers = dict(self._sent)
        if self._header:
            headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
            headers["Authorization"] = self._header
        if not headers:
            return Auth()
        host = authority(urlsplit(self._base))
        return Auth(
            kind="headers", headers=tuple(headers.items()), host=host, expires=self._expires
        )

    async def manifest(self, target: str) -> Manifest:
        """The manifest or index of a tag or digest, its digest verified. Raises NotFound,
        AccessError, OriginError, DigestMismatch."""
        what = f"{self._reference.registry}/{self._reference.repository}"
        what += f"@{target}" if ":" in target else f":{target}"
        answer = await self._ask(target)
        self._check(answer, what)
        seen = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        told = answer.headers.get("Docker-Content-Digest", "").strip()
        for expected, whose in ((target, "asked for"), (told, "the digest that came with it")):
            if _DIGEST.fullmatch(expected) and expected != seen:
                raise DigestMismatch(
                    f"the manifest of {what} has the digest {seen}, not {expected}, {whose}",
                    hint="something between cachd and the registry changes manifests",
                    path=None,
                    expected=expected,
                    seen=seen,
                )
        data = answer.json()
        if not isinstance(data, dict):
            raise OriginError(f"the manifest of {what} is no JSON object")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return Manifest(digest=seen, media_type=str(data.get("mediaType") or media_type), data=data)

    async def prove(self) -> None:
        """A pass that the registry takes, had anew. That the tag has gone meanwhile is no matter:
        blobs are asked for by digest."""
        answer = await self._ask(self._reference.target)
        if answer.status != 404:
            self._check(answer, self._reference.uri)

    # --- passes ----------------------------------------------------------------------------------

    async def _ask(self, target: str) -> HttpAnswer:
        url = f"{self._base}/v2/{self._reference.repository}/manifests/{target}"
        answer = await self._call(url)
        if answer.status == 401 and await self._answer_challenge(answer):
            answer = await self._call(url)
        return answer

    async def _call(self, url: str) -> HttpAnswer:
        headers = {"Accept": _ACCEPT}
        if self._header:
            headers["Authorization"] = self._header
        answer = await self._http.call("GET", url, headers=headers, most=MANIFEST_MOST)
        self._sent = answer.first_headers
        self.is_credentialed = self.is_credentialed or answer.was_credentialed
        return answer

    async def _answer_challenge(self, answer: HttpAnswer) -> bool:
        """Whether there is another pass to try. Raises for a token that isn't given."""
        login = self._login
        for challenge in parse_challenges(answer.headers):
            if challenge.scheme == "bearer" and challenge.realm:
                token, life = await self._token(challenge, login)
                self._use(f"Bearer {token}", life, is_login=login is not None)
                return True
            if challenge.scheme == "basic" and login is not None and login.password:
                self._use(_basic(login), None, is_login=True)
                return True
        return False

    def _use(self, header: str, life: float | None, *, is_login: bool) -> None:
        self._header = header
        self._expires = None if life is None else time.time() + life
        self.is_credentialed = self.is_credentialed or is_login

    async def _token(self, challenge: Challenge, login: Login | None) -> tuple[str, float]:
        try:
            split_url(challenge.realm)
        except Exception:
            raise OriginError(
                f"{self._base} sends for its tokens to what is no http(s) URL"
            ) from None
        has_secret = login is not None and bool(login.password)
        is_plain = urlsplit(challenge.realm).scheme.lower() == "http"
        if has_secret and is_plain and urlsplit(self._base).scheme == "https":
            raise AccessError(
                f"{self._base} wants the password shown to {origin_of(challenge.realm)}, "
                "without TLS",
                hint="the registry's token realm must be https",
            )
        scope = challenge.scope or f"repository:{self._reference.repository}:pull"
        fields = {"service": challenge.service, "scope": scope}
        if login is not None and login.username == TOKEN_USER:
            more = {
                "grant_type": "refresh_token",
                "client_id": "cachd",
                "refresh_token": login.password,
            }
            answer = await self._http.call(
                "POST",
                challenge.realm,
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                data=urlencode({**fields, **more}).encode(),
                most=_TOKEN_MOST,
            )
        else:
            headers = {"Authorization": _basic(login)} if login is not None and has_secret else {}
            query = urlencode({name: value for name, value in fields.items() if value})
            join = "&" if "?" in challenge.realm else "?"
            answer = await self._http.call(
                "GET", f"{challenge.realm}{join}{query}", headers=headers, most=_TOKEN_MOST
            )
        if answer.status in (400, 401, 403):
            raise self._refused(shown(challenge.realm), answer)
        self._check(answer, shown(challenge.realm))
        data = answer.json()
        data = data if isinstance(data, dict) else {}
        token = data.get("token") or data.get("access_token")
        life = data.get("expires_in")
        if not isinstance(token, str) or not token or not token.isascii() or "\n" in token:
            raise OriginError(f"{shown(challenge.realm)} answered without a token")
        is_number = isinstance(life, int | float) and not isinstance(life, bool) and life > 0
        return token, min(float(life), _TOKEN_LIFE_MOST) if is_number and life else _TOKEN_LIFE

    # --- errors ----------------------------------------------------------------------------------

    def _check(self, answer: HttpAnswer, what: str) -> None:
        status = answer.status
        if status < 300:
            return
        code = _code(answer)
        said = f"{origin_of(answer.url)} answered {status}{f' ({code})' if code else ''}"
        if status == 401:
            raise self._refused(what, answer)
        if status == 403:
            raise AccessError(
                f"access denied to {what}: {said}; {self._shown_pass()}",
                hint="may this login pull from that repository?",
            )
        if status in (404, 410):
            raise NotFound(
                f"Failed to fetch model. No model found in {what}: {said}",
                hint="check the registry, the repository and the tag or digest",
            )
        if status in (429, 503):
            raise OriginBusy(
                f"{said} for {what}; {self._shown_pass()}", retry_after=answer.retry_after
            )
        if status == 400:
            raise ContentError(f"{said} for {what}", hint="is this a registry of OCI's API, v2?")
        raise OriginError(f"{said} for {what}", status=status)

    def _refused(self, what: str, answer: HttpAnswer) -> AccessError:
        code = _code(answer)
        said = f"{origin_of(answer.url)} answered {answer.status}{f' ({code})' if code else ''}"
        if self._login is not None or answer.was_credentialed:
            return CredentialsInvalid(
                f"authentication failed for {what}: {said}; {self._shown_pass()}",
                hint="log in to the registry again; is the login for this very registry?",
            )
        return CredentialsMissing(
            f"authentication is needed for {what}: {said}; {self._shown_pass()}",
            hint=self._missing
            or "give a docker config with this registry (KSERVE_OCI_DOCKER_CONFIG, DOCKER_CONFIG, "
            "REGISTRY_AUTH_FILE), if the repository is there at all",
        )

    def _shown_pass(self) -> str:
        if self._login is None:
            return "no login was shown" if not self._sent else "the headers for its host were shown"
        whose = f" ({self._login.where})" if self._login.where else ""
        kind = "a registry token" if self._login.token else "an identity token"
        if not self._login.token and self._login.username != TOKEN_USER:
            kind = "a name and a password"
        return f"{kind}{whose} was shown" if kind.startswith("a r") else f"{kind}{whose} were shown"


def _basic(login: Login) -> str:
    text = f"{login.username}:{login.password}".encode()
    return "Basic " + base64.b64encode(text).decode()


def _code(answer: HttpAnswer) -> str:
    """The first error code of the body, where it is one of the specification's shape."""
    try:
        errors = answer.json().get("errors")
        code = errors[0]["code"]
    except (AttributeError, KeyError, IndexError, TypeError, OriginError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""
