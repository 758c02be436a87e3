"""A small API server on loopback, over TLS: pods with lists (pages, versions), watches (events,
bookmarks, 410 Gone as an answer and in mid-stream), tokens; and what goes wrong with one.

A fake, for a real one needs etcd; the real one's part is in tests/kubernetes. What it does is
"Kubernetes API Concepts" in the Kubernetes documentation. Other paths: ``handlers``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.servers.certificates import make_certificates
from tests.servers.ports import free_ports

PODS = "/api/v1/pods"
TOKEN = "the-daemons-own-token-2718"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ApiServer:
    """Runs in a thread of its own; every method may be called from any.

    ``events``: (version, type, object), of which those up to ``oldest`` are forgotten. ``seen``:
    path and query of every request.
    """

    folder: Path
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    version: int = 100
    oldest: int = 0
    page: int = 500
    status: int = 0
    is_silent: bool = False
    watch_seconds: float = 300.0

    def __post_init__(self) -> None:
        certificates = make_certificates(self.folder / "api-tls")
        self.ca = certificates.ca
        self.token_file = self.folder / "api-token"
        self.token_file.write_text(TOKEN + "\n")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificates.chain, certificates.key)
        self._loop = asyncio.new_event_loop()
        self._watches: set[asyncio.Event] = set()
        self._changed = asyncio.Event()
        # One that the kernel gives to nobody while it is stopped.
        self._port = free_ports(1)[0]
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-server")
        self._thread.start()
        self.start()

    # --- life ---

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start(self) -> None:
        """Listen, at the same port as before."""
        self._do(self._start())

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self._port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()

    def stop(self) -> None:
        """Refuse connections, and cut those that there are."""
        self._do(self._stop())

    async def _stop(self) -> None:
        runner, self._runner = self._runner, None
        await self._cut()
        if runner is not None:
            await runner.cleanup()
        # A handshake that was under way is no connection of aiohttp's yet, and would be left open.
        for transport in list(getattr(self._loop, "_transports", {}).values()):
            transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def environ(self, node: str = "node-1") -> dict[str, str]:
        """Variables of a daemon that asks this server."""
        return {
            "CACHD_KUBERNETES_ENABLED": "true",
            "CACHD_KUBERNETES_SERVER": self.url,
            "CACHD_KUBERNETES_CA_FILE": str(self.ca),
            "CACHD_KUBERNETES_TOKEN_FILE": str(self.token_file),
            "CACHD_KUBERNETES_NODE_NAME": node,
        }

    # --- pods ---

    def add(self, name: str, *, uid: str = "", node: str = "node-1", **metadata: Any) -> str:
        """A running pod; its uid."""
        pod = {
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": uid or str(uuid.uuid4()),
                **metadata,
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running"},
        }
        self._do(self._change(name, "ADDED", pod))
        return str(pod["metadata"]["uid"])

    def set_phase(self, name: str, phase: str) -> None:
        pod = json.loads(json.dumps(self.pods[name]))
        pod["status"]["phase"] = phase
        self._do(self._change(name, "MODIFIED", pod))

    def delete(self, name: str) -> None:
        self._do(self._change(name, "DELETED", json.loads(json.dumps(self.pods[name]))))

    async def _change(self, name: str, kind: str, pod: dict[str, Any]) -> None:
        self.version += 1
        pod["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            del self.pods[name]
        else:
            self.pods[name] = pod
        self.events.append((self.version, kind, pod))
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def bookmark(self) -> None:
        """Tell every watch how far it is."""

        async def tell() -> None:
            self.version += 1
            pod = {"metadata": {"resourceVersion": str(self.version)}}
            self.events.append((self.version, "BOOKMARK", pod))
            self._wake()

        self._do(tell())

    def forget(self) -> None:
        """What happened so far can't be followed any more: compaction."""

        async def compact() -> None:
            self.version += 1
            self.oldest = self.version

        self._do(compact())

    def cut(self) -> None:
        """End every watch in mid-stream, as a lost connection does."""
        self._do(self._cut())

    async def _cut(self) -> None:
        for watch in self._watches:
            watch.set()

    # --- answers ---

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, dict(request.query)))
        if request.headers.get("Authorization") != f"Bearer {self.token_file.read_text().strip()}":
            return _status(401, "Unauthorized")
        if self.status:
            return _status(self.status, "as the test wants it")
        if self.is_silent:
            await asyncio.sleep(60)
        handler = self.handlers.get((request.method, request.path))
        if handler is not None:
            return await handler(request)
        if request.method != "GET" or request.path != PODS:
            return _status(404, "there is no such path here")
        if request.query.get("watch") == "true":
            return await self._watch(request)
        return self._list(request)

    def _selected(self, request: web.Request) -> Callable[[dict[str, Any]], bool]:
        selector = request.query.get("fieldSelector", "")
        name, _, node = selector.partition("=")
        assert name in ("", "spec.nodeName"), selector
        return lambda pod: not node or pod.get("spec", {}).get("nodeName", node) == node

    def _list(self, request: web.Request) -> web.StreamResponse:
        since = request.query.get("resourceVersion", "")
        if since not in ("", "0") and int(since) > self.version:
            return _status(504, "Too large resource version")
        items = [pod for _, pod in sorted(self.pods.items()) if self._selected(request)(pod)]
        start = int(request.query.get("continue") or 0)
        shown = items[start : start + min(self.page, int(request.query.get("limit") or 500))]
        metadata = {"resourceVersion": str(self.version)}
        if start + len(shown) < len(items):
            metadata["continue"] = str(start + len(shown))
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": shown})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        at, is_selected = int(request.query["resourceVersion"]), self._selected(request)
        if at < self.oldest:
            return _status(410, "too old resource version")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        ended = asyncio.Event()
        self._watches.add(ended)
        deadline = self._loop.time() + self.watch_seconds
        try:
            while not ended.is_set():
                changed = self._changed
                for version, kind, pod in [e for e in self.events if e[0] > at]:
                    at = version
                    if is_selected(pod):
                        await response.write(
                            json.dumps({"type": kind, "object": pod}).encode() + b"\n"
                        )
                if at < self.oldest:
                    gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                    await response.write(
                        json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                    )
                    return response
                if self._loop.time() >= deadline:
                    return response
                waits = [asyncio.ensure_future(e.wait()) for e in (changed, ended)]
                await asyncio.wait(
                    waits,
                    timeout=deadline - self._loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for wait in waits:
                    wait.cancel()
            if request.transport is not None:
                request.transport.abort()
            return response
        finally:
            self._watches.discard(ended)


def _line(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)
