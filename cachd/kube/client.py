"""The API server, with the daemon's own service account: JSON over HTTPS, nothing else.

Rules of the protocol: Kubernetes documentation, "Kubernetes API Concepts" (lists, watches, 410)
and "Accessing the Kubernetes API from a Pod" (address, token, authority).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from cachd import __version__
from cachd.errors import ConfigInvalid, KubernetesFailed
from cachd.lines import split_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from cachd.settings import KubernetesSettings

_TIMEOUT = 15.0
"""Seconds for one answer."""

_MAX_MESSAGE = 300


class KubernetesClient:
    """Calls to one API server. The token file is read for each call: kubelet renews it.

    Every method raises KubernetesFailed; ``detail["status"]``: the HTTP status, if any.
    """

    def __init__(self, settings: KubernetesSettings, environ: Mapping[str, str]) -> None:
        self._server = _server(settings, environ)
        self._token_file = settings.token_file
        self._ca_file = settings.ca_file
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Raises ConfigInvalid if the authority can't be read."""
        context = await asyncio.to_thread(_trust, self._server, self._ca_file)
        connector = aiohttp.TCPConnector(ssl=context) if context else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": f"cachd/{__version__}", "Accept": "application/json"},
            trust_env=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One call; the answer's object. ``path``: below the server, quoted, such as
        ``/api/v1/nodes/a``."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                async with await self._send(method, path, query, body, content_type) as response:
                    await _check(response, path)
                    found = json.loads(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(self._server, path, error) from None
        except ValueError:
            raise KubernetesFailed(f"{self._server} answers {path} with no JSON") from None
        if not isinstance(found, dict):
            raise KubernetesFailed(f"{self._server} answers {path} with no JSON object")
        return found

    async def watch(
        self, path: str, *, query: Mapping[str, str], silence: float = 330.0
    ) -> AsyncIterator[dict[str, Any]]:
        """The events (``type``, ``object``) of one watch, until the server ends it; the caller
        lists and watches again. ``silence``: seconds without a byte after which it is taken for
        dead."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "300", **query}
        try:
            async with await self._send("GET", path, query, None, "", silence) as response:
                await _check(response, path)
                async for line in split_lines(response.content.iter_any()):
                    event = json.loads(line)
                    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
                        raise ValueError(event)
                    if event.get("type") == "ERROR":
                        status = event["object"].get("code")
                        message = str(event["object"].get("message"))[:_MAX_MESSAGE]
                        raise KubernetesFailed(
                            f"the watch of {path} ended: {message}", status=status
                        )
                    yield event
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _unreachable(self._server, path, error) from None
        except ValueError:
            raise KubernetesFailed(f"{self._server} sends no events on {path}") from None

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        silence: float = _TIMEOUT,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise KubernetesFailed("the client of the API server is closed")
        token = await asyncio.to_thread(_read_token, self._token_file)
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = content_type
        return await self._session.request(
            method,
            self._server + path,
            params=dict(query or {}),
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=silence),
        )


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def node_of(settings: KubernetesSettings, environ: Mapping[str, str], purpose: str) -> str:
    """The name of this node, wanted for ``purpose``. Raises ConfigInvalid."""
    node = settings.node_name or environ.get("NODE_NAME", "")
    if not node:
        raise ConfigInvalid(
            f"nothing says which node this is, for {purpose}",
            field="kubernetes.node_name",
            hint="in a pod, give it NODE_NAME by the downward API: fieldRef spec.nodeName",
        )
    return node


def _server(settings: KubernetesSettings, environ: Mapping[str, str]) -> str:
    if settings.server:
        return settings.server.rstrip("/")
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigInvalid(
            "kubernetes.enabled is on, and nothing says where the API server is",
            field="kubernetes.server",
            hint="in a pod, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do; elsewhere set "
            "kubernetes.server",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _trust(server: str, ca_file: Path) -> ssl.SSLContext | None:
    if not server.startswith("https://"):
        return None
    try:
        return ssl.create_default_context(cafile=os.fspath(ca_file))
    except OSError as error:
        raise ConfigInvalid(
            f"{ca_file} has no authority for the API server: {error.strerror or error}",
            field="kubernetes.ca_file",
        ) from None


def _read_token(file: Path) -> str:
    try:
        token = file.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise KubernetesFailed(
            f"{file} can't be read: {reason}",
            hint="the pod needs its service account's token (automountServiceAccountToken)",
        ) from None
    if not token:
        raise KubernetesFailed(f"{file} is empty")
    return token


async def _check(response: aiohttp.ClientResponse, path: str) -> None:
    if response.status < 300:
        return
    message = ""
    try:
        found = json.loads(await response.read())
        if isinstance(found, dict):
            message = str(found.get("message") or "")[:_MAX_MESSAGE]
    except ValueError:
        pass
    raise KubernetesFailed(
        f"the API server refuses {path} with {response.status}"
        + (f": {message}" if message else ""),
        hint="the chart's ClusterRole gives what is needed; see docs/security.md"
        if response.status in (401, 403)
        else "",
        status=response.status,
    )


def _unreachable(server: str, path: str, error: BaseException) -> KubernetesFailed:
    reason = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return KubernetesFailed(f"the API server {server} can't be asked for {path}: {reason}")
