"""One guarded HTTP request: redirects by hand, each hop judged; proxies from the environment."""

from __future__ import annotations

import asyncio
import random
import ssl
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from cachd import __version__
from cachd.errors import (
    AccessError,
    CachdError,
    ConfigInvalid,
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
    from collections.abc import Mapping

    from cachd.model import Connect, Credentials
    from cachd.sources.egress import EgressGuard

MAX_ATTEMPTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_FORBIDDEN_HEADERS = frozenset(
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
    """The head of a final answer. ``sent_headers`` are the caller's that went to its host, and
    ``first_headers`` those that went to the host of the URL that was asked. ``needs_final``: a host
    on the way, or at its end, took headers that the first doesn't, so that following the redirects
    again takes more than the first's."""

    url: str
    status: int
    headers: Mapping[str, str]
    sent_headers: tuple[tuple[str, str], ...]
    first_headers: tuple[tuple[str, str], ...]
    needs_final: bool
    was_credentialed: bool


def headers_for(credentials: Credentials, url: str) -> tuple[tuple[str, str], ...]:
    """The caller's headers for the host of ``url``: entries name a host, or host and port."""
    parts = split_url(url)
    names = {parts.hostname, authority(parts), parts.netloc.lower()}
    return tuple(
        (name, value)
        for host, headers in credentials.headers
        if host.strip().lower().rstrip(".") in names
        for name, value in headers
        if name.strip().lower() not in _FORBIDDEN_HEADERS
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
    ) -> None:
        self._guard = guard
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
                force_close=True,
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

    async def head(self, method: str, url: str, **headers: str) -> HttpAnswer:
        """The head of the answer after redirects; a body is not read. Any status but a redirect.

        5xx and failed connections are tried again; one that is busy (503) is not, for the daemon
        knows when others may call it too. Raises EgressForbidden, OriginError.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._follow(method, url, headers)
            except OriginError as error:
                if not error.retryable or attempt >= self._attempts:
                    raise
            else:
                if answer.status < 500 or answer.status == 503 or attempt >= self._attempts:
                    return answer
            await asyncio.sleep(random.uniform(0.1, 0.2 * 2**attempt))

    async def _follow(self, method: str, url: str, headers: Mapping[str, str]) -> HttpAnswer:
        was_credentialed = needs_final = False
        first, first_headers = url, headers_for(self._credentials, url)
        for _ in range(self._max_redirects + 1):
            check_call(self._guard, url, proxy_for(url))
            own = headers_for(self._credentials, url)
            was_credentialed = was_credentialed or bool(own)
            needs_final = needs_final or (bool(own) and origin_of(url) != origin_of(first))
            status, answered = await self._once(method, url, {**dict(own), **headers})
            if status not in _REDIRECTS or "Location" not in answered:
                return HttpAnswer(
                    url=url,
                    status=status,
                    headers=answered,
                    sent_headers=own,
                    first_headers=first_headers,
                    needs_final=needs_final,
                    was_credentialed=was_credentialed,
                )
            url = self._next(url, answered["Location"])
        raise OriginError(
            f"{shown(url)} redirects more than {self._max_redirects} times",
            hint="give the final URL, or raise sources.http.max_redirects",
        )

    @staticmethod
    def _next(url: str, location: str) -> str:
        target = urljoin(url, location.strip()).partition("#")[0]
        try:
            parts = split_url(target)
        except CachdError as error:
            raise _refused_redirect(url, "to no http(s) URL that can be called") from error
        if urlsplit(url).scheme == "https" and parts.scheme.lower() == "http":
            raise _refused_redirect(url, f"from https to http ({origin_of(target)})")
        return canonical_url(target)

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        assert self._session is not None
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers={**headers, "Accept-Encoding": "identity"},
                allow_redirects=False,
                proxy=proxy_for(url),
            ) as response:
                answer = response.status, response.headers.copy()
                if method != "HEAD":
                    response.close()
                return answer
        except CachdError:
            raise
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _failed(url, error) from error


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
                f"authentication failed: {where} answered 401 to the headers that were sent",
                hint="check the headers for that host",
            )
        raise CredentialsMissing(
            f"authentication is needed: {where} answered 401",
            hint="send a header for that host, such as Authorization",
        )
    if status == 403:
        raise AccessError(
            f"access denied: {where} answered 403", hint="may these headers read that file?"
        )
    if status in {404, 410}:
        raise NotFound(f"{where} was not found ({status})", hint="check the URL")
    if status in {429, 503}:
        raise OriginBusy(
            f"{where} is busy ({status})",
            retry_after=parse_retry_after(answer.headers.get("Retry-After")),
        )
    raise OriginError(f"{where} answered {status}", status=status)
