"""One guarded HTTP request: redirects by hand, each hop judged; proxies from the environment."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from cachd import __version__
from cachd.errors import (
    AccessError,
    CachdError,
    ConfigInvalid,
    ContentError,
    CredentialsInvalid,
    CredentialsMissing,
    EgressForbidden,
    NotFound,
    OriginBusy,
    OriginError,
    OriginTls,
    OriginUnreachable,
)
from cachd.sources.egress import check_call, guarded_resolver
from cachd.sources.http_rules import (
    authority,
    canonical_url,
    origin_of,
    parse_retry_after,
    shown,
    split_url,
)
from cachd.sources.trust import CONNECT_TIMEOUT, READ_TIMEOUT, tls_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from cachd.credentials import Credentials
    from cachd.model import Connect
    from cachd.sources.base import SourceContext, SourceRequest
    from cachd.sources.egress import EgressGuard

MAX_ATTEMPTS = 3
_PAUSE_MOST = 5.0
"""Seconds between two tries."""

BODY_MOST = 64 * 1024 * 1024
"""Bytes of an answer that is read whole, if nothing else is said."""

_REDIRECTS = {301, 302, 303, 307, 308}
FORBIDDEN_HEADERS = frozenset(
    {
        "host",
        "range",
        "connection",
        "transfer-encoding",
        "content-length",
        "accept-encoding",
        "if-match",
        "te",
        "upgrade",
        "proxy-authorization",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A final answer; its ``body`` if it was asked for. ``sent_headers`` are the caller's that
    went to its host, and ``first_headers`` those that went to the host of the URL that was asked.
    ``needs_final``: a host on the way, or at its end, took headers that the first doesn't, so that
    following the redirects again takes more than the first's."""

    url: str
    status: int
    headers: Mapping[str, str]
    sent_headers: tuple[tuple[str, str], ...]
    first_headers: tuple[tuple[str, str], ...]
    needs_final: bool
    was_credentialed: bool
    body: bytes = b""

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to be left alone."""
        return parse_retry_after(self.headers.get("Retry-After"))

    def json(self) -> Any:
        """The body as JSON. Raises OriginError; nothing of the body is in the message."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise OriginError(f"{shown(self.url)} answered {self.status} with no JSON") from None


def headers_for(credentials: Credentials, url: str) -> tuple[tuple[str, str], ...]:
    """The caller's headers for the host of ``url``: entries name a host, or host and port."""
    parts = split_url(url)
    names = {parts.hostname, authority(parts), parts.netloc.lower()}
    return tuple(
        (name, value)
        for host, headers in credentials.headers
        if host.strip().lower().rstrip(".") in names
        for name, value in headers
        if name.strip().lower() not in FORBIDDEN_HEADERS
    )


def client_for(
    request: SourceRequest,
    context: SourceContext,
    connect: Connect,
    credentials: Credentials,
    *,
    keep_alive: bool = True,
) -> HttpClient:
    """The session for ``request``, which shows ``credentials`` to the hosts that they name."""
    return HttpClient(
        guard=context.egress,
        connect=connect,
        credentials=credentials,
        max_redirects=context.settings.http.max_redirects,
        attempts=request.location.options.max_attempts,
        keep_alive=keep_alive,
    )


class HttpClient:
    """A session for one call of ours; use as ``async with``."""

    def __init__(
        self,
        *,
        guard: EgressGuard,
        connect: Connect,
        credentials: Credentials,
        max_redirects: int,
        attempts: int | None,
        keep_alive: bool = False,
    ) -> None:
        """``keep_alive``: for sources that are asked many times, and never with HEAD."""
        self._guard = guard
        self._keep_alive = keep_alive
        self._connect = connect
        self._credentials = credentials
        self._max_redirects = max_redirects
        self._attempts = attempts or MAX_ATTEMPTS
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=await tls_context(self._connect),
                resolver=guarded_resolver(self._guard),
                # Some servers send a body after HEAD, which would be read as the next answer.
                force_close=not self._keep_alive,
            ),
            timeout=aiohttp.ClientTimeout(
                sock_connect=self._connect.connect_timeout or CONNECT_TIMEOUT,
                sock_read=self._connect.read_timeout or READ_TIMEOUT,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"cachd/{__version__}"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def head(
        self, method: str, url: str, *, is_at_home: bool = False, **headers: str
    ) -> HttpAnswer:
        """The head of the answer after redirects; a body is not read. Any status but a redirect,
        and with ``is_at_home`` one that leads to another origin, which isn't followed.

        5xx and failed connections are tried again; one that is busy (503) is not, for the daemon
        knows when others may call it too. Raises EgressForbidden, OriginError.
        """
        return await self._persist(
            lambda: self._follow(method, url, headers, is_at_home=is_at_home)
        )

    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        most: int = BODY_MOST,
    ) -> HttpAnswer:
        """The answer with its body, of at most ``most`` bytes. ``headers`` go to the origin of
        ``url`` alone, a redirect elsewhere gets none of them; the caller's for a host go along.
        Tried again as ``head`` is, so it must be harmless when repeated. Raises the same, and
        ContentError for a longer body."""
        return await self._persist(
            lambda: self._follow(method, url, headers or {}, data=data, most=most)
        )

    async def _persist(self, act: Callable[[], Awaitable[HttpAnswer]]) -> HttpAnswer:
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await act()
            except OriginError as error:
                if not error.retryable or attempt >= self._attempts:
                    raise
            else:
                if answer.status < 500 or answer.status == 503 or attempt >= self._attempts:
                    return answer
            await asyncio.sleep(random.uniform(0.1, min(_PAUSE_MOST, 0.2 * 2**attempt)))

    async def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        data: bytes | None = None,
        most: int | None = None,
        is_at_home: bool = False,
    ) -> HttpAnswer:
        """``most`` None: the body isn't read, and ``headers`` go along wherever it leads."""
        was_credentialed = needs_final = False
        first, first_headers = url, headers_for(self._credentials, url)
        for _ in range(self._max_redirects + 1):
            check_call(self._guard, url, proxy_for(url))
            own = headers_for(self._credentials, url)
            was_credentialed = was_credentialed or bool(own)
            needs_final = needs_final or (bool(own) and origin_of(url) != origin_of(first))
            is_same = most is None or origin_of(url) == origin_of(first)
            sent = {**dict(own), **headers} if is_same else dict(own)
            status, answered, body = await self._once(method, url, sent, data, most)
            target = self._next(url, answered.get("Location")) if status in _REDIRECTS else None
            if target is None or (is_at_home and origin_of(target) != origin_of(first)):
                return HttpAnswer(
                    url=url,
                    status=status,
                    headers=answered,
                    sent_headers=own,
                    first_headers=first_headers,
                    needs_final=needs_final,
                    was_credentialed=was_credentialed,
                    body=body,
                )
            if method == "POST" and status not in (307, 308):
                method, data = "GET", None
            if data is not None and origin_of(target) != origin_of(first):
                raise _refused_redirect(url, "what is sent to it to another host")
            url = target
        raise OriginError(
            f"{shown(url)} redirects more than {self._max_redirects} times",
            hint="give the final URL, or raise sources.http.max_redirects",
        )

    @staticmethod
    def _next(url: str, location: str | None) -> str | None:
        if location is None:
            return None
        target = urljoin(url, location.strip()).partition("#")[0]
        try:
            parts = split_url(target)
        except CachdError as error:
            raise _refused_redirect(url, "to no http(s) URL that can be called") from error
        if urlsplit(url).scheme == "https" and parts.scheme.lower() == "http":
            raise _refused_redirect(url, f"from https to http ({origin_of(target)})")
        return canonical_url(target)

    async def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | None,
        most: int | None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers={**headers, "Accept-Encoding": "identity"},
                allow_redirects=False,
                data=data,
                proxy=proxy_for(url),
            ) as response:
                found = response.headers.copy()
                if most is not None:
                    return response.status, found, await _read(response, url, most)
                if method != "HEAD":
                    response.close()
                return response.status, found, b""
        except CachdError:
            raise
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _failed(url, error) from error


async def _read(response: aiohttp.ClientResponse, url: str, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            response.close()
            raise ContentError(f"{shown(url)} answers with more than {most} bytes")
    return bytes(body)


def proxy_for(url: str) -> str | None:
    """The environment's proxy for ``url`` (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), None for none."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme.lower()) or proxies.get("all")
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if not proxy or bypass(parts.netloc, proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _refused_redirect(url: str, how: str) -> EgressForbidden:
    return EgressForbidden(
        f"{shown(url)} redirects {how}", hint="give the final URL, if it can be trusted"
    )


def _failed(url: str, error: BaseException) -> CachdError:
    where = origin_of(url)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        reason = getattr(inner or error, "verify_message", None) or "the handshake failed"
        return OriginTls(
            f"TLS with {where} failed: {reason}",
            hint="give the CA that signed its certificate, or correct the host",
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return OriginUnreachable(f"the proxy on the way to {where} can't be used")
    if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError):
        return ConfigInvalid(f"{where} can't be called through the proxy that is configured")
    if isinstance(error, TimeoutError):
        return OriginUnreachable(f"{where} did not answer in time")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return OriginError(f"{where} does not answer as HTTP wants it")
    system = getattr(error, "os_error", None) or error
    reason = getattr(system, "strerror", None) or type(error).__name__
    return OriginUnreachable(
        f"no connection to {where}: {reason}", hint="check the host, the port, and the way there"
    )


def check_status(answer: HttpAnswer) -> None:
    """Raises what the status means, with the words of KServe's messages."""
    status, where = answer.status, shown(answer.url)
    if status < 300:
        return
    if status == 401:
        if answer.was_credentialed:
            raise CredentialsInvalid(
                f"authentication failed: {where} answered 401 to the request's headers",
                hint="check the headers (--header, HOST-headers)",
            )
        raise CredentialsMissing(
            f"authentication is needed: {where} answered 401",
            hint="send a header for that host, such as Authorization",
        )
    if status == 403:
        sent = "to the request's headers" if answer.was_credentialed else "and no header was sent"
        raise AccessError(
            f"access denied: {where} answered 403 {sent}", hint="may these headers read that file?"
        )
    if status in {404, 410}:
        raise NotFound(f"{where} was not found ({status})", hint="check the URL")
    if status in {429, 503}:
        raise OriginBusy(f"{where} is busy ({status})", retry_after=answer.retry_after)
    raise OriginError(f"{where} answered {status}", status=status)
