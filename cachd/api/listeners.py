"""The daemon's listeners: opened in the order that its start needs, drained, closed."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from aiohttp import web

from cachd.api.app import build_app, connection_options, make_runner
from cachd.api.connections import Gate, effective_limit, serve_limited
from cachd.api.descriptors import Descriptors
from cachd.api.drain import Drain
from cachd.api.identity import PeerIdentity, TokenIdentity
from cachd.api.sockets import BACKLOG, bind_socket, parse_address
from cachd.errors import ConfigInvalid, SocketInUse

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from cachd.api.identity import Accounts, Identify
    from cachd.api.protocol import CacheApi
    from cachd.api.readonly import ReadonlyRoot
    from cachd.api.sockets import BoundSocket
    from cachd.metrics import Metrics
    from cachd.settings import ApiTcpSettings, Settings

log = logging.getLogger("cachd.api")

CLOSE_PATIENCE = 2.0
"""Seconds that ``close`` leaves to answers that ``drain`` didn't see the end of."""


class Listeners:
    """Up to four: health, pods' socket, administrators' socket, the API over TCP."""

    def __init__(
        self,
        cache: CacheApi,
        settings: Settings,
        metrics: Metrics,
        *,
        accounts: Accounts | None = None,
        readonly: ReadonlyRoot | None = None,
    ) -> None:
        """``accounts``: who knows whose tokens pods show; None: nobody. ``readonly``: where the
        descriptors of ``files.sock`` come from; None: there is no such socket."""
        self._cache = cache
        self._accounts = accounts
        self._readonly = readonly
        self._descriptors: Descriptors | None = None
        self._settings = settings
        self._metrics = metrics
        self._runners: list[web.AppRunner] = []
        self._bound: list[BoundSocket] = []
        self._serving: list[asyncio.Server] = []
        self._switch = Drain()
        # One for both sockets of pods: it is the daemon's descriptors that are shared out.
        self._gate = Gate(effective_limit(settings.listen.max_connections), metrics)
        metrics.watch(cache.usage)

    async def open_health(self) -> None:
        """`/livez`, `/readyz` and `/metrics` over TCP, if configured. Raises ConfigInvalid,
        SocketInUse."""
        address = self._settings.listen.health_address
        if address:
            runner = await self._runner("health")
            await self._listen_tcp(runner, address, "listen.health_address", None)

    async def open_sockets(self, pods: Path, administrators: Path) -> None:
        """Both Unix sockets, and the API over TCP if configured. Raises ConfigInvalid,
        SocketInUse."""
        listen = self._settings.listen
        # The pods' comes last: once it answers, the daemon is whole.
        await self._listen_unix("admin", administrators, 0o600, None, "listen.admin_socket")
        if self._readonly is not None:
            await self._listen_files(pods.with_name("files.sock"), self._readonly)
        await self._listen_unix(
            "pod", pods, int(listen.socket_mode, 8), listen.socket_group, "listen.socket"
        )
        if listen.api.address:
            await self._open_api(listen.api, listen.api.address)

    async def drain(self) -> None:
        """Refuse new asks, end endless streams, and wait for the answers that are under way, for
        the drain's time at most."""
        self._switch.begin()
        if not await self._switch.wait_idle(self._settings.drain_timeout):
            log.warning("some answers were not done within the drain's time; they are cut off")

    async def close(self) -> None:
        """Close every listener and connection; take the socket files away."""
        self._switch.begin()
        runners, self._runners = self._runners, []
        bound, self._bound = self._bound, []
        serving, self._serving = self._serving, []
        for server in serving:
            server.close()
        if self._descriptors is not None:
            await self._descriptors.close()
        for runner in reversed(runners):
            await runner.cleanup()
        for one in bound:
            await asyncio.to_thread(one.close)

    async def _runner(
        self, role: Literal["pod", "admin", "peer", "health"], identity: Identify | None = None
    ) -> web.AppRunner:
        app = build_app(
            self._cache,
            role=role,
            settings=self._settings,
            metrics=self._metrics,
            identity=identity,
            drain=self._switch,
        )
        runner = make_runner(app, shutdown_timeout=CLOSE_PATIENCE)
        self._runners.append(runner)
        await runner.setup()
        return runner

    async def _listen_unix(
        self, role: Literal["pod", "admin"], path: Path, mode: int, group: str | None, field: str
    ) -> None:
        bound = await asyncio.to_thread(bind_socket, path, mode=mode, group=group, field=field)
        self._bound.append(bound)
        runner = await self._runner(
            role, PeerIdentity(role, self._accounts if role == "pod" else None)
        )
        if role == "admin":
            await web.SockSite(runner, bound.sock, backlog=BACKLOG).start()
            return
        options = connection_options()
        self._serving.append(await serve_limited(runner, bound.sock, self._gate, options))

    async def _listen_files(self, path: Path, readonly: ReadonlyRoot) -> None:
        listen = self._settings.listen
        await asyncio.to_thread(readonly.check)
        bound = await asyncio.to_thread(
            bind_socket,
            path,
            mode=int(listen.socket_mode, 8),
            group=listen.socket_group,
            kind=socket.SOCK_SEQPACKET,
        )
        self._bound.append(bound)
        self._descriptors = Descriptors(
            self._cache, readonly, self._gate, self._metrics, self._accounts
        )
        self._descriptors.start(bound.sock)

    async def _open_api(self, settings: ApiTcpSettings, address: str) -> None:
        assert settings.token_file is not None
        context = await asyncio.to_thread(_tls, settings)
        runner = await self._runner(
            settings.role, TokenIdentity(settings.token_file, settings.role)
        )
        await self._listen_tcp(runner, address, "listen.api.address", context)

    async def _listen_tcp(
        self, runner: web.AppRunner, address: str, field: str, context: ssl.SSLContext | None
    ) -> None:
        host, port = parse_address(address, field)
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except OSError as error:
            raise SocketInUse(
                f"can't listen at {address}: {error.strerror or type(error).__name__}",
                field=field,
                hint="choose another address or port, or end who has it",
            ) from error
        log.info("listening at %s (%s)", address, field)


def _tls(settings: ApiTcpSettings) -> ssl.SSLContext:
    assert settings.certificate is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(
            f"the API's certificate or key can't be used: {error.strerror or type(error).__name__}",
            field="listen.api.certificate",
            hint="both are PEM files, and the key belongs to the certificate",
        ) from error
    return context
