"""Calls at one registry: whose pass, which trust, and errors that say who answered what."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from cachd.credentials import Credentials
from cachd.errors import (
    AccessError,
    ConfigInvalid,
    CredentialsInvalid,
    CredentialsMissing,
    NotFound,
    OriginBusy,
    OriginError,
)
from cachd.model import Auth
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cachd.model import Connect
    from cachd.settings import RegistryRule
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.http_client import HttpClient

ANSWER_MOST = 16 * 1024 * 1024
"""Bytes of one answer of a registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What is shown to a registry. ``headers`` and ``client_pem`` are secrets; ``whose`` tells
    people where they came from."""

    headers: tuple[tuple[str, str], ...] = ()
    client_pem: str = ""
    whose: str = "no credentials"

    def __repr__(self) -> str:
        return f"Pass(whose={self.whose!r})"


class RegistryServer:
    """``url`` has no slash at its end. ``name``: what the configuration calls it, "" for none.
    ``environ`` is the daemon's; ``rule`` its entry in the configuration; ``root`` is what paths
    begin in by the caller's word."""

    def __init__(
        self,
        client: HttpClient,
        *,
        kind: str,
        name: str,
        url: str,
        shown: Pass,
        rule: RegistryRule | None,
        environ: Mapping[str, str],
        root: str,
        connect: Connect,
    ) -> None:
        self.connect = connect
        self._client = client
        self._pass = shown
        self.kind = kind
        self.name = name
        self.url = url
        self.allow_archived = rule is not None and rule.allow_archived
        self.environ = environ
        self.root = root

    @property
    def is_credentialed(self) -> bool:
        """Whether a pass is shown."""
        return bool(self._pass.headers or self._pass.client_pem)

    @property
    def who(self) -> str:
        """For messages."""
        called = f"registry {self.name}" if self.name else f"{self.kind} registry"
        return f"{called} ({self.url})"

    async def get(self, path: str, /, **query: str | int) -> Any:
        """The JSON that ``path`` answers with, an object. Raises NotFound for 404, AccessError,
        OriginBusy, OriginError."""
        text = urlencode(query)
        answer = await self._client.call(
            "GET",
            f"{self.url}{path}{'?' + text if text else ''}",
            headers={"Accept": "application/json", **dict(self._pass.headers)},
            most=ANSWER_MOST,
        )
        if answer.status >= 300:
            body = answer.json() if answer.body[:1] == b"{" else {}
            told = _told(body) if answer.status not in (401, 403) else ""
            code = str(body.get("error_code") or "") if isinstance(body, dict) else ""
            self._refuse(answer.status, told, answer.retry_after, code)
        found = answer.json()
        if not isinstance(found, dict):
            raise self.nonsense("no object")
        return found

    async def touch(self, path: str) -> None:
        """Read a byte of what is at ``path``; raises as ``get`` does."""
        headers: dict[str, Any] = {"Range": "bytes=0-0", **dict(self._pass.headers)}
        answer = await self._client.head("GET", f"{self.url}{path}", is_at_home=True, **headers)
        if answer.status >= 300 and answer.status != 416:
            self._refuse(answer.status, "", answer.retry_after)

    def auth(self) -> Auth:
        """How a mover proves itself to the registry for what that has itself."""
        if not self._pass.headers:
            return Auth()
        return Auth(kind="headers", headers=self._pass.headers, host=urlsplit(self.url).netloc)

    def rows(self, answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
        """The list of objects that ``answer`` has by ``name``, empty if it has none. Raises
        OriginError for anything else."""
        found = answer.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self.nonsense(f"{name} that are no list of objects")
        return found

    def nonsense(self, what: str) -> OriginError:
        """The registry's answer isn't what its API says."""
        return OriginError(
            f"the {self.who} answered with {what}", hint=f"is it a {self.kind} server?"
        )

    def _refuse(self, status: int, told: str, retry_after: float | None, code: str = "") -> None:
        said = f": {told}" if told else ""
        if status == 401 and not self.is_credentialed:
            raise CredentialsMissing(
                f"the {self.who} wants to know who asks (401), and it was shown no credentials",
                hint="send credentials.registry_token (MODEL_REGISTRY_TOKEN, "
                "MLFLOW_TRACKING_TOKEN), or configure the registry in sources.registries",
            )
        if status == 401:
            raise CredentialsInvalid(
                f"the {self.who} refused {self._pass.whose} (401)",
                hint="is it for this registry, and has it not expired?",
            )
        if status == 403:
            raise AccessError(
                f"the {self.who} doesn't let {self._pass.whose} see that (403)",
                hint="have the right granted at the registry",
            )
        if status in (404, 410):
            raise NotFound(f"the {self.who} doesn't have that{said} ({status})")
        if status in (429, 503):
            raise OriginBusy(f"the {self.who} is busy ({status})", retry_after=retry_after)
        raise OriginError(
            f"the {self.who} answered {status}{said}", status=status, error_code=code[:64]
        )


def _told(body: Any) -> str:
    """What a registry's error says, cut short."""
    if not isinstance(body, dict):
        return ""
    text = body.get("message") or body.get("detail") or ""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    return plain if len(plain) <= 200 else f"{plain[:199]}…"


@asynccontextmanager
async def open_server(
    request: SourceRequest, context: SourceContext, kind: str, place: tuple[str, str]
) -> AsyncIterator[RegistryServer]:
    """The registry at ``place`` (name, URL), for the request's caller. Raises ConfigInvalid."""
    from cachd.sources.http_client import client_for  # noqa: PLC0415  (heavy)

    name, url = place
    rule = next(
        (r for r in context.settings.registries if r.name == name and r.kind == kind), None
    ) if name else None  # fmt: skip
    shown = await pass_of(request, context, rule, url)
    connect = await _connect(request, rule, shown)
    async with client_for(request, context, connect, Credentials()) as client:
        yield RegistryServer(
            client,
            kind=kind,
            name=name,
            url=url,
            shown=shown,
            rule=rule,
            environ=context.environ,
            root=request.location.options.root or "",
            connect=connect,
        )


async def _connect(request: SourceRequest, rule: RegistryRule | None, shown: Pass) -> Connect:
    from dataclasses import replace  # noqa: PLC0415

    options = request.location.options
    bundles = [options.registry_ca_pem or options.ca_pem or ""]
    if rule is not None and rule.ca_bundle:
        bundles.append(await _read(rule.ca_bundle, "ca_bundle"))
    own = replace(
        options,
        ca_pem="\n".join(pem for pem in bundles if pem) or None,
        verify=options.registry_verify,
    )
    return await connect_of(own, client_pem=shown.client_pem)


async def pass_of(
    request: SourceRequest, context: SourceContext, rule: RegistryRule | None, url: str
) -> Pass:
    """The caller's own; the daemon's, of its configuration or its environment; or none."""
    if request.identity == "caller":
        return _callers(request.credentials)
    if request.identity != "daemon":
        return Pass()
    if rule is not None:
        return await _configured(rule)
    return await _of_environment(context.environ, url)


def _callers(given: Credentials) -> Pass:
    headers: dict[str, str] = {}
    what = "the caller's client certificate"
    if given.registry_token:
        headers["Authorization"] = f"Bearer {given.registry_token}"
        what = "the caller's registry_token"
    elif given.registry_username:
        headers["Authorization"] = basic(given.registry_username, given.registry_password)
        what = "the caller's registry_username and registry_password"
    if given.registry_user:
        headers["kubeflow-userid"] = given.registry_user
        if not given.registry_token and not given.registry_username:
            what = "the caller's registry_user"
    if not headers and not given.registry_client_pem:
        return Pass()
    return Pass(headers=tuple(headers.items()), client_pem=given.registry_client_pem, whose=what)


async def _configured(rule: RegistryRule) -> Pass:
    headers: dict[str, str] = {}
    what = f"client certificate of registry {rule.name}"
    if rule.token_file:
        token = await _read(rule.token_file, "token_file")
        headers["Authorization"] = f"Bearer {token.strip()}"
        what = f"token_file of registry {rule.name}"
    elif rule.username_file and rule.password_file:
        name = (await _read(rule.username_file, "username_file")).strip()
        secret = (await _read(rule.password_file, "password_file")).strip()
        headers["Authorization"] = basic(name, secret)
        what = f"username_file and password_file of registry {rule.name}"
    if rule.user:
        headers["kubeflow-userid"] = rule.user
        if "Authorization" not in headers:
            what = f"user of registry {rule.name}"
    pem = ""
    if rule.client_cert_file:
        files = [rule.client_cert_file, *([rule.client_key_file] if rule.client_key_file else [])]
        pem = "\n".join([await _read(file, "client_cert_file") for file in files])
    if not headers and not pem:
        return Pass()
    return Pass(headers=tuple(headers.items()), client_pem=pem, whose=f"the daemon's {what}")


async def _of_environment(environ: Mapping[str, str], url: str) -> Pass:
    """The daemon's environment has passes for the servers that it names, and for no other."""
    from cachd.registries.source import normalise_url  # noqa: PLC0415  (it opens servers)

    named = [
        (name, environ.get(name, "")) for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
    ]
    if any(
        uri.startswith(("http://", "https://")) and normalise_url(uri, name) == url
        for name, uri in named
    ):
        if environ.get("MLFLOW_TRACKING_TOKEN"):
            value = f"Bearer {environ['MLFLOW_TRACKING_TOKEN']}"
            return Pass(
                headers=(("Authorization", value),), whose="the daemon's MLFLOW_TRACKING_TOKEN"
            )
        if environ.get("MLFLOW_TRACKING_USERNAME"):
            value = basic(
                environ["MLFLOW_TRACKING_USERNAME"], environ.get("MLFLOW_TRACKING_PASSWORD", "")
            )
            return Pass(
                headers=(("Authorization", value),), whose="the daemon's MLFLOW_TRACKING_USERNAME"
            )
    return Pass()


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def _read(path: Path, field: str) -> str:
    try:
        return await asyncio.to_thread(path.read_text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"can't read {path}: {getattr(error, 'strerror', None) or 'it is no text'}",
            field=f"sources.registries.{field}",
            hint="mount the secret where the daemon runs",
        ) from None
