"""The HTTP session that aiobotocore uses: ours, because its own follows redirects by itself (a
security token would go along), and asks no egress guard.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import ProxyConfiguration
from yarl import URL

from cachd.errors import OriginBusy, OriginError
from cachd.sources.egress import check_call, guarded_resolver
from cachd.sources.http_rules import parse_retry_after
from cachd.sources.s3_errors import tls_failed

if TYPE_CHECKING:
    import ssl

    from cachd.sources.egress import EgressGuard

MAX_BODY = 32 * 1024 * 1024
_BUSY = {429, 503}


def session_class(guard: EgressGuard, context: ssl.SSLContext) -> type[AIOHTTPSession]:
    """A session class (aiobotocore's ``http_session_cls``) bound to ``guard`` and ``context``."""

    class GuardedSession(AIOHTTPSession):  # type: ignore[misc]
        def __init__(self, *, proxies: Any = None, timeout: Any = None, **_: Any) -> None:
            connect, read = timeout if isinstance(timeout, list | tuple) else (timeout, timeout)
            self._proxies = ProxyConfiguration(proxies=proxies)
            self._limits = aiohttp.ClientTimeout(sock_connect=connect, sock_read=read)
            self._client: aiohttp.ClientSession | None = None

        async def __aenter__(self) -> GuardedSession:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=context, resolver=guarded_resolver(guard), limit=16
                ),
                timeout=self._limits,
                skip_auto_headers={"CONTENT-TYPE"},
                auto_decompress=False,
            )
            return self

        async def __aexit__(self, *_: object) -> None:
            await self.close()

        async def close(self) -> None:
            if self._client is not None:
                await self._client.close()
                self._client = None

        async def send(self, request: Any) -> AioAWSResponse:
            check_call(guard, request.url, self._proxies.proxy_url_for(request.url))
            try:
                return await self._send(request)
            except aiohttp.ClientConnectorCertificateError as error:
                # botocore would try an SSLError again, and the certificate won't change.
                raise tls_failed(error, _origin_of(request.url)) from error
            except aiohttp.ClientSSLError as error:
                raise SSLError(endpoint_url=request.url, error=error) from error
            except aiohttp.ClientProxyConnectionError as error:
                raise ProxyConnectionError(
                    proxy_url=_without_user(self._proxies.proxy_url_for(request.url)), error=error
                ) from error
            except aiohttp.ClientHttpProxyError as error:
                raise ProxyConnectionError(
                    proxy_url=_without_user(self._proxies.proxy_url_for(request.url)),
                    error=f"{error.status} {error.message}",
                ) from error
            except (aiohttp.ClientConnectorError, socket.gaierror) as error:
                raise EndpointConnectionError(endpoint_url=request.url, error=error) from error
            except aiohttp.ConnectionTimeoutError as error:
                raise ConnectTimeoutError(endpoint_url=request.url, error=error) from error
            except (aiohttp.ServerTimeoutError, TimeoutError) as error:
                raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
            except aiohttp.ClientConnectionError as error:
                raise ConnectionClosedError(
                    error=error, request=request, endpoint_url=request.url
                ) from error
            except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
                raise HTTPClientError(error=error) from error

        async def _send(self, request: Any) -> AioAWSResponse:
            assert self._client is not None
            headers = {
                name: value.decode() if isinstance(value, bytes) else str(value)
                for name, value in request.headers.items()
            }
            headers["Accept-Encoding"] = "identity"
            response = await self._client.request(
                request.method,
                URL(request.url, encoded=True),
                headers=headers,
                data=request.body or None,
                proxy=self._proxies.proxy_url_for(request.url),
                allow_redirects=False,
            )
            answer = AioAWSResponse(
                str(response.url),
                response.status,
                {k.decode().lower(): v.decode("utf-8", "replace") for k, v in response.raw_headers},
                response,
            )
            answer._content = await _read(response)
            if response.status in _BUSY and "continuation-token=" not in request.url:
                # botocore would ask again and again; the daemon knows when others may call too.
                # Within a long listing it may: to begin that again would cost more.
                raise OriginBusy(
                    f"{_origin_of(request.url)} is busy ({response.status})",
                    retry_after=parse_retry_after(response.headers.get("Retry-After")),
                )
            return answer

    return GuardedSession


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body; none of our calls has a long one, whatever an endpoint sends."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(256 * 1024):
        body += chunk
        if len(body) > MAX_BODY:
            response.close()
            raise OriginError(f"an S3 answer is longer than {MAX_BODY >> 20} MiB")
    return bytes(body)


def _origin_of(url: str) -> str:
    return str(URL(url, encoded=True).origin())


def _without_user(proxy: str | None) -> str:
    return "" if proxy is None else proxy.rsplit("@", 1)[-1]
