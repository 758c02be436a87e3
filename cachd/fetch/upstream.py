"""Another cachd, asked what it holds: its manifest of a revision, and to fetch one.

Its bytes are moved like any origin's, by ``Mover``; here are the few calls before that. Nothing of
a caller goes there: the token is this daemon's own, and the origin has proven the caller's pass.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp

from cachd import __version__
from cachd.errors import (
    AccessError,
    CredentialsInvalid,
    NotFound,
    OriginBusy,
    OriginError,
    OriginTls,
    OriginUnreachable,
)
from cachd.fetch.job import UPSTREAM
from cachd.fetch.proxy import ProxyRules
from cachd.lines import split_lines
from cachd.model import Auth, Connect, Digest, ManifestFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from cachd.fetch.gates import Gates
    from cachd.model import Ref
    from cachd.settings import UpstreamSettings

DAEMON_ID = secrets.token_hex(8)
"""This process, for those who must know whether they meet themselves."""

ID_HEADER = "Cachd-Daemon"
VIA_HEADER = "Cachd-Via"
"""The daemons that an ask to fetch came through, with commas."""

_REVISION = re.compile(r"[0-9a-f]{8,128}")
_MANIFEST_MOST = 512 * 1024 * 1024
_WRONG_MOST = 1000
"""Revisions that are remembered as wrong."""
_LINE_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What an upstream holds of a ref."""

    revision: str
    files: dict[str, ManifestFile]
    is_credentialed: bool
    is_validated: bool
    is_immutable: bool
    metadata: dict[str, str]


class Upstreams:
    """The configured ones, in their order. ``close`` at the end. For one event loop."""

    def __init__(
        self, settings: UpstreamSettings, gates: Gates, environ: Mapping[str, str], patience: float
    ) -> None:
        """``patience``: seconds that a fetch of an upstream may show no progress."""
        self._settings = settings
        self._gates = gates
        self._proxies = ProxyRules.from_environment(environ)
        self._patience = patience
        self._token = _Kept(settings.token_file)
        self._authority = _Kept(settings.ca_bundle)
        self._session: aiohttp.ClientSession | None = None
        self._context: tuple[str, ssl.SSLContext] | None = None
        self._ids: dict[str, str] = {}
        self._wrong: dict[tuple[str, Ref, str], None] = {}

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(UPSTREAM + endpoint for endpoint in self._settings.endpoints)

    @property
    def has_way_to_origins(self) -> bool:
        return not self._settings.only

    @property
    def may_fetch(self) -> bool:
        return self._settings.fetch

    def daemon_at(self, place: str) -> str:
        """The id of who answered there last, "" if nobody did."""
        return self._ids.get(place, "")

    def is_called(self, place: str) -> bool:
        """Whether it is not being left alone."""
        return self._gates.has_room(place)

    def distrust(self, place: str, ref: Ref, revision: str) -> None:
        """Its bytes of this revision are not what the origin says."""
        self._wrong[place, ref, revision] = None
        while len(self._wrong) > _WRONG_MOST:
            del self._wrong[next(iter(self._wrong))]

    def is_distrusted(self, place: str, ref: Ref, revision: str) -> bool:
        return (place, ref, revision) in self._wrong

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def pass_to(self, place: str) -> tuple[Auth, Connect]:
        """How workers prove themselves there, and whom they trust. Raises AccessError."""
        token = await self._token.read()
        if not token:
            raise CredentialsInvalid(
                "the token for the upstream can't be read, or is empty",
                hint="see upstream.token_file",
            )
        auth = Auth(
            kind="headers",
            headers=(("authorization", f"Bearer {token}"),),
            host=urlsplit(place.removeprefix(UPSTREAM)).netloc,
        )
        authority = await self._authority.read()
        return auth, Connect(ca_pem=authority or None, connect_timeout=self._settings.timeout)

    def url_of(self, place: str, ref: Ref, revision: str, path: str) -> str:
        """Where the bytes of a file are."""
        base = f"{place.removeprefix(UPSTREAM)}/v1/models/{ref.key}/files/"
        return f"{base}{quote(path, safe='/')}?revision={quote(revision)}"

    async def look(self, place: str, ref: Ref, revision: str | None) -> Held | None:
        """What it holds of ``revision``, None: of the current one; None if it holds nothing that is
        just this ref. Raises AccessError, OriginError."""
        target = f"/v1/models/{ref.key}?blocks=true" + (f"&revision={revision}" if revision else "")

        async def act() -> Held | None:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    response = await self._send("GET", place, target)
                async with response:
                    await _check(place, response)
                    body = await _read(place, response, 10 * self._settings.timeout)
            except NotFound:
                return None
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _unreachable(place, error) from None
            return await asyncio.to_thread(_held, place, body, ref, revision)

        return await self._gates.call(place, 0.0, act)

    async def have_fetched(
        self, place: str, body: Mapping[str, Any], via: tuple[str, ...], told: Callable[[int], None]
    ) -> str:
        """Have it fetch what ``body`` asks for; the revision that it has then. ``told`` hears of
        its bytes. Raises what it said, OriginError if it doesn't get on."""
        headers = {"Accept": "application/x-ndjson", VIA_HEADER: ", ".join((*via, DAEMON_ID))}

        async def act() -> str:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    response = await self._send("POST", place, "/v1/models", body, headers)
                async with response:
                    await _check(place, response)
                    return await self._follow(place, response, told)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _unreachable(place, error) from None

        return await self._gates.call(place, 0.0, act)

    async def _follow(
        self, place: str, response: aiohttp.ClientResponse, told: Callable[[int], None]
    ) -> str:
        state: tuple[object, ...] = ()
        moved = time.monotonic()
        async for line in _objects(response):
            if line.get("event") == "ready":
                return str(line.get("revision"))
            if line.get("event") == "error":
                raise NotFound(f"{place} can't fetch it: {line.get('code')}")
            if line.get("event") != "heartbeat":
                waiting = line.get("waiting") or {}
                count = max(_number(line.get("bytes")), _number(waiting.get("bytes")))
                told(count)
                if (line.get("event"), count) != state:
                    state, moved = (line.get("event"), count), time.monotonic()
            if time.monotonic() - moved > self._patience:
                raise OriginUnreachable(f"{place} doesn't get on with fetching it")
        raise OriginUnreachable(f"{place} breaks off while it fetches")

    async def _send(
        self,
        method: str,
        place: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        auth, connect = await self.pass_to(place)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_read=self._patience),
                trust_env=False,
            )
        url = place.removeprefix(UPSTREAM) + target
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        proxy = self._proxies.proxy_for(parts.scheme, parts.hostname or "", port)
        through: dict[str, Any] = {}
        if proxy is not None:
            host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
            through["proxy"] = f"http://{host}:{proxy.port}"
            if proxy.authorization:
                through["proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
        response = await self._session.request(
            method,
            url,
            json=body,
            headers={**dict(auth.headers), "User-Agent": f"cachd/{__version__}", **(headers or {})},
            ssl=await self._trust(connect),
            allow_redirects=False,
            **through,
        )
        if found := response.headers.get(ID_HEADER):
            self._ids[place] = found
        return response

    async def _trust(self, connect: Connect) -> ssl.SSLContext:
        pem = connect.ca_pem or ""
        if self._context is None or self._context[0] != pem:
            try:
                self._context = (pem, await asyncio.to_thread(_context, pem))
            except (ssl.SSLError, ValueError):
                raise OriginTls(
                    "upstream.ca_bundle holds no certificate that can be used"
                ) from None
        return self._context[1]


class _Kept:
    """A file's text, read again when the file changes; "" if it can't be read."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._text = ""

    async def read(self) -> str:
        return "" if self._file is None else await asyncio.to_thread(self._read, self._file)

    def _read(self, file: Path) -> str:
        try:
            status = file.stat()
            state = (status.st_mtime_ns, status.st_size, status.st_ino)
            if state != self._seen:
                self._text, self._seen = file.read_text("ascii", "strict").strip(), state
        except (OSError, ValueError):
            self._text, self._seen = "", None
        return self._text


def _context(pem: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if pem:
        context.load_verify_locations(cadata=pem)
    return context


async def _check(place: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    if status in (401, 403):
        raise AccessError(
            f"{place} refuses this daemon's token ({status})",
            hint="upstream.token_file must hold what its listen.api.token_file holds, and its "
            "listen.api.role must be peer",
        )
    if status in (404, 508):
        raise NotFound(f"{place} doesn't have it")
    if status in (429, 503):
        after = response.headers.get("Retry-After", "")
        wait = float(after) if after.isascii() and after.isdigit() else None
        raise OriginBusy(f"{place} is busy ({status})", retry_after=wait)
    raise OriginError(f"{place} answers {status}", status=status)


async def _read(place: str, response: aiohttp.ClientResponse, patience: float) -> bytes:
    async with asyncio.timeout(patience):
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MANIFEST_MOST:
                raise OriginError(f"{place} sends a manifest without end")
    return bytes(body)


def _held(place: str, body: bytes, ref: Ref, revision: str | None) -> Held | None:
    try:
        data = json.loads(body)
        same = (data["uri"], data["origin"], tuple(data["allow"]), tuple(data["ignore"]))
        if same != (ref.uri, ref.origin, ref.allow, ref.ignore) or data["corrupt"]:
            return None
        if data["revision"] is None or revision not in (None, data["revision"]):
            return None
        if not _REVISION.fullmatch(data["revision"]):
            raise ValueError("revision")
        files = [_file(row) for row in data["manifest_files"]]
        return Held(
            revision=str(data["revision"]),
            files={file.path: file for file in files},
            is_credentialed=bool(data["credentialed"]),
            is_validated=bool(data["validated"]),
            is_immutable=bool(data["immutable"]),
            metadata={str(k): str(v) for k, v in data["metadata"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise OriginError(f"{place} sends no manifest that can be read", status=502) from None


def _file(row: dict[str, Any]) -> ManifestFile:
    return ManifestFile(
        path=str(row["path"]),
        size=int(row["size"]),
        blocks=tuple(str(block) for block in row["checksums"]),
        etag=row["etag"],
        digests=tuple(Digest(algorithm=a, value=v) for a, v in row["digests"].items()),
    )


async def _objects(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Until a line is none."""
    async for line in split_lines(response.content.iter_any(), _LINE_MOST):
        try:
            found = json.loads(line)
        except ValueError:
            return
        if isinstance(found, dict):
            yield found


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _unreachable(place: str, error: BaseException) -> OriginError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return OriginTls(f"{place} shows a certificate that nobody vouches for")
    reason = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return OriginUnreachable(f"{place} can't be reached: {reason}")
