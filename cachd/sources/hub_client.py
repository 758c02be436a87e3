"""One caller at one hub: where it is, whose token goes along, and what its refusals mean."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cachd.credentials import Credentials
from cachd.errors import ConfigInvalid, ContentError, CredentialsInvalid, OriginBusy, OriginError
from cachd.model import Auth
from cachd.sources.census import MAX_SIZE
from cachd.sources.http_client import client_for, headers_for
from cachd.sources.http_rules import authority, shown
from cachd.sources.hub_uri import HubAddress, parse_hub
from cachd.sources.rate_limit import seconds_to_wait
from cachd.sources.trust import connect_of

if TYPE_CHECKING:
    from pathlib import Path

    from cachd.errors import CachdError
    from cachd.model import Connect
    from cachd.settings.hub import HubSettings
    from cachd.settings.modelscope import ModelScopeSettings
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.http_client import HttpAnswer, HttpClient
    from cachd.sources.hubs import HubNames

_TOKEN = re.compile(r"[\x21-\x7e]+")
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HubPass:
    """What is shown to the hub. ``whence``: whose it is, for messages; "" without any."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    whence: str = ""


class Hub:
    """Calls of one request at its hub; use as ``async with``. ``base``: the endpoint, or the mirror
    in its place."""

    def __init__(
        self, request: SourceRequest, context: SourceContext, names: HubNames, *, many: bool = True
    ) -> None:
        """``many``: connections are kept, for calls that aren't HEAD."""
        self._request = request
        self._context = context
        self._names = names
        self._many = many
        self._settings: HubSettings | ModelScopeSettings = getattr(context.settings, names.scheme)
        location = request.location
        self.address: HubAddress = parse_hub(location.uri)
        self.base = location.mirror or str(location.options.endpoint)
        self.names = names
        self.proof = HubPass()
        self.connect: Connect
        self._client: HttpClient

    async def __aenter__(self) -> Hub:
        request, context = self._request, self._context
        self.proof = await self._prove()
        self.connect = await connect_of(
            request.location.options, ca_bundle=self._settings.ca_bundle
        )
        # The caller's for the hub's own host are part of the pass.
        self._client = client_for(
            request, context, self.connect, Credentials(), keep_alive=self._many
        )
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    @property
    def who(self) -> str:
        """Who asks, for messages."""
        return self.proof.whence or "a caller without a token"

    @property
    def auth(self) -> Auth:
        """The pass for whoever fetches; the hub's host alone gets it."""
        if not self.proof.headers:
            return Auth()
        host = authority(urlsplit(self.base))
        return Auth(kind="headers", headers=self.proof.headers, host=host)

    async def get(self, url: str) -> HttpAnswer:
        """The answer, whatever its status, but for a busy hub: raises OriginBusy."""
        answer = await self._client.call("GET", url, headers=dict(self.proof.headers))
        _check_busy(answer)
        return answer

    async def touch(self, method: str, url: str, **headers: str) -> HttpAnswer:
        """The head of the answer. A redirect to another host is one: it takes the right to read to
        be sent there, and nothing of ours goes along."""
        sent = {**dict(self.proof.headers), **headers}
        answer = await self._client.head(method, url, is_at_home=True, **sent)
        _check_busy(answer)
        return answer

    async def _prove(self) -> HubPass:
        request = self._request
        if request.identity == "anonymous":
            return HubPass()
        if request.identity == "daemon":
            token, whence = await self._own_token()
            return HubPass(headers=self._headers((), token, whence), whence=whence)
        given = headers_for(request.credentials, self.base)
        token = request.credentials.token.strip()
        headers = self._headers(given, token, "the token that was sent")
        whence = "the token that was sent" if token else "the headers that were sent"
        return HubPass(headers=headers, whence=whence if headers else "")

    def _headers(
        self, given: tuple[tuple[str, str], ...], token: str, whence: str
    ) -> tuple[tuple[str, str], ...]:
        """What a caller spells out for the host counts, rather than its token."""
        if not token or any(name.lower() == "authorization" for name, _ in given):
            return given
        if not _TOKEN.fullmatch(token):
            raise CredentialsInvalid(
                f"{whence} can't be one: it holds a space, a line break or no ASCII",
                hint="check the secret that it comes from",
            )
        bearer = (("Authorization", f"Bearer {token}"),)
        if self._names.cookie:
            return (*given, *bearer, ("Cookie", f"{self._names.cookie}={token}"))
        return (*given, *bearer)

    async def _own_token(self) -> tuple[str, str]:
        """The daemon's token, and what to call it; both empty without."""
        file = self._settings.token_file
        if file is not None:
            name = f"sources.{self._names.scheme}.token_file"
            return await asyncio.to_thread(_read_token, file, name), f"the daemon's token ({name})"
        for variable in self._names.token_variables:
            token = self._context.environ.get(variable, "").strip()
            if token:
                return token, f"the daemon's token ({variable})"
        return "", ""


def _read_token(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"can't read {name}: {getattr(error, 'strerror', None) or 'it is no text'}",
            hint="correct the path, or mount the secret where the daemon runs",
        ) from None


def _check_busy(answer: HttpAnswer) -> None:
    if answer.status not in (429, 503):
        return
    wait = answer.retry_after
    if wait is None:
        wait = seconds_to_wait(answer.headers)
    raise OriginBusy(
        f"{shown(answer.url)} is busy ({answer.status})"
        + (": the hub's limit for this caller is reached" if answer.status == 429 else ""),
        hint="a token of one's own raises a hub's limits" if answer.status == 429 else "",
        retry_after=wait,
    )


def clip(text: object) -> str:
    """What a hub said, for a message: printable and short."""
    plain = "".join(c for c in str(text or "") if c.isprintable())
    return plain[:_SHOWN].strip()


def unusable(answer: HttpAnswer, what: str) -> CachdError:
    """The error for an answer that isn't what a hub's is."""
    return OriginError(
        f"{shown(answer.url)} {what}", hint="is this the endpoint of such a hub, and its path?"
    )


def as_list(answer: HttpAnswer, value: Any) -> list[dict[str, Any]]:
    """``value`` if it is a list of objects. Raises OriginError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise unusable(answer, "answered with no list of files")
    return value


def size_of(value: object, where: str) -> int:
    """A file's size as a hub tells it. Raises ContentError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SIZE:
        raise ContentError(f"{where} lists a file without a usable size")
    return value
