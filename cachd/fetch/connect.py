"""From a URL to a connection: name, addresses, egress rules, proxy, TLS, and keeping it alive."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from cachd.errors import CachdError, OriginError, OriginTls, OriginUnreachable, UriInvalid
from cachd.fetch.head import read_head
from cachd.fetch.recent import Recent
from cachd.fetch.tls import Tls
from cachd.fetch.transport import Transport
from cachd.sources.client_pem import load_client_pem

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachd.fetch.proxy import Proxy, ProxyRules

NAME_TTL = 30.0
"""Seconds that a DNS answer is used."""

KEEP_ALIVE = 20.0
"""Seconds that an idle connection is kept."""

_IDLE_MOST = 64
_TARGETS_MOST = 256
_REMEMBERED = 32
"""Names, and TLS contexts (some 0.5 MiB each), that are kept: callers may bring any number."""

_Addresses = list[tuple[int, tuple[str, int]]]


class Guard(Protocol):
    """What ``cachd.sources.egress.EgressGuard`` does for us."""

    def check_host(self, host: str) -> None: ...

    def check_proxied(self, host: str) -> None: ...

    def check_address(self, ip: str, host: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection leads; equal targets may share one. ``ca_pem`` empty: system only."""

    scheme: str
    host: str
    port: int
    verify: bool
    ca_pem: str
    proxy: Proxy | None
    client_pem: str = field(default="", repr=False)


def split_url(url: str) -> tuple[str, str, int, str, str]:
    """(scheme, host, port, Host header, request target) of an absolute http(s) URL.

    Raises UriInvalid; the URL's query stays out of the message.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UriInvalid("a URL of the origin can't be parsed") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UriInvalid(f"{parts.scheme}://{parts.netloc[-80:]} is no http or https URL")
    default = 443 if parts.scheme == "https" else 80
    name = f"[{host}]" if ":" in host else host
    header = name if port in (None, default) else f"{name}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port or default, header, target


class Connector:
    """Opens connections, and keeps idle ones. Threads share it.

    ``connect_timeout`` in seconds, for all addresses and the TLS handshake together; a name that
    the resolver is slow about is bounded by the C library alone.
    """

    def __init__(self, guard: Guard, proxies: ProxyRules, connect_timeout: float) -> None:
        self._guard = guard
        self._proxies = proxies
        self._timeout = connect_timeout
        self._lock = threading.Lock()
        self._targets: dict[tuple[str, str, int, bool, str, str], Target] = {}
        self._idle: dict[Target, list[Transport]] = {}
        self._names: Recent[tuple[str, int], tuple[float, _Addresses]] = Recent(_REMEMBERED)
        self._contexts: Recent[tuple[bool, str, str], ssl.SSLContext] = Recent(_REMEMBERED)

    def target(
        self, scheme: str, host: str, port: int, *, verify: bool, ca_pem: str, client_pem: str = ""
    ) -> Target:
        """Where to connect for an origin; raises EgressForbidden for a name that is not allowed."""
        key = (scheme, host, port, verify, ca_pem, client_pem)
        target = self._targets.get(key)
        if target is None:
            self._guard.check_host(host)
            target = Target(
                scheme,
                host,
                port,
                verify if scheme == "https" else True,
                ca_pem if scheme == "https" else "",
                self._proxies.proxy_for(scheme, host, port),
                client_pem if scheme == "https" else "",
            )
            if len(self._targets) < _TARGETS_MOST:
                self._targets[key] = target
        return target

    def take(self, target: Target) -> Transport | None:
        """An idle connection that is still good."""
        while True:
            with self._lock:
                idle = self._idle.get(target)
                if not idle:
                    return None
                transport = idle.pop()
            if time.monotonic() - transport.idle_since < KEEP_ALIVE and transport.is_reusable():
                return transport
            transport.close()

    def give_back(self, target: Target, transport: Transport) -> None:
        transport.idle_since = time.monotonic()
        with self._lock:
            idle = self._idle.setdefault(target, [])
            if len(idle) < _IDLE_MOST:
                idle.append(transport)
                return
        transport.close()

    def close_idle(self) -> None:
        """Close what has been idle for too long."""
        limit = time.monotonic() - KEEP_ALIVE
        with self._lock:
            old = []
            for target, idle in list(self._idle.items()):
                old += [one for one in idle if one.idle_since < limit]
                idle[:] = [one for one in idle if one.idle_since >= limit]
                if not idle:
                    del self._idle[target]
        for transport in old:
            transport.close()

    def open(
        self,
        target: Target,
        *,
        timeout: float | None = None,
        watch: Callable[[socket.socket], None],
    ) -> Transport:
        """A new connection. ``watch`` sees the socket before it is connected, so that somebody
        else can shut it down. Raises OriginUnreachable, OriginTls, EgressForbidden."""
        end = time.monotonic() + (timeout or self._timeout)
        where = f"{target.host}:{target.port}"
        proxy = target.proxy
        if proxy is None:
            addresses = self._look_up(target.host, target.port, check=True)
        else:
            self._guard.check_proxied(target.host)
            addresses = self._look_up(proxy.host, proxy.port, check=False)
            where += f" through the proxy {proxy.host}:{proxy.port}"
        sock = _connect_any(addresses, where, end, watch)
        try:
            if target.scheme != "https":
                return Transport(sock)
            if proxy is not None:
                _tunnel(sock, target, proxy, end)
            return Transport(sock, self._shake_hands(sock, target, end))
        except BaseException:
            sock.close()
            raise

    def _look_up(self, host: str, port: int, *, check: bool) -> _Addresses:
        """Vetted (family, address) pairs; the connection goes to one of these, never to a name."""
        now = time.monotonic()
        cached = self._names.get((host, port))
        if cached is not None and cached[0] > now:
            addresses = cached[1]
        else:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", None) or "not a host name"
                raise OriginUnreachable(
                    f"{host} can't be looked up: {reason}",
                    hint="check the endpoint's name and this node's DNS",
                ) from None
            addresses = [
                (int(family), (str(address[0]), int(address[1])))
                for family, _, _, _, address in found
            ]
            self._names.put((host, port), (now + NAME_TTL, addresses))
        if check:
            for _, (ip, _) in addresses:
                self._guard.check_address(ip, host)
        return addresses

    def _shake_hands(self, sock: socket.socket, target: Target, end: float) -> Tls:
        context = self._context(target)
        try:
            tls = Tls(context, sock, target.host)
            tls.handshake(end)
        except ssl.SSLCertVerificationError as error:
            raise OriginTls(
                f"the certificate of {target.host} is not trusted: {error.verify_message}",
                hint="give its authority as ca_pem or ca_bundle",
            ) from None
        except ssl.SSLEOFError:
            raise OriginUnreachable(f"{target.host} ended the TLS handshake") from None
        except ssl.SSLError as error:
            raise OriginTls(f"TLS with {target.host} failed: {error.reason}") from None
        except OSError as error:
            raise OriginUnreachable(
                f"TLS with {target.host} failed: {error.strerror or 'timed out'}"
            ) from None
        return tls

    def _context(self, target: Target) -> ssl.SSLContext:
        key = (target.verify, target.ca_pem, target.client_pem)
        with self._lock:
            context = self._contexts.get(key)
            if context is None:
                context = ssl.create_default_context()
                if target.ca_pem:
                    try:
                        context.load_verify_locations(cadata=target.ca_pem)
                    except (ssl.SSLError, ValueError):
                        raise OriginTls(
                            "ca_pem holds no certificate", hint="give PEM text"
                        ) from None
                if target.client_pem:
                    load_client_pem(context, target.client_pem)
                if not target.verify:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                self._contexts.put(key, context)
        return context


def _connect_any(
    addresses: _Addresses,
    where: str,
    end: float,
    watch: Callable[[socket.socket], None],
) -> socket.socket:
    problem = "no address"
    for index, (family, address) in enumerate(addresses):
        left = end - time.monotonic()
        if left <= 0:
            break
        # Later addresses get their share of the time, so that one dead one doesn't eat it all.
        share = left if index == len(addresses) - 1 else max(1.0, left / 2)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            watch(sock)
            sock.settimeout(min(left, share))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            problem = "no answer in time"
            sock.close()
        except CachdError:
            sock.close()
            raise
        except OSError as error:
            problem = error.strerror or errno.errorcode.get(error.errno or 0, "failed")
            sock.close()
        else:
            return sock
    raise OriginUnreachable(
        f"no connection to {where}: {problem}",
        hint="check the endpoint, and that this node may reach it",
    )


def _tunnel(sock: socket.socket, target: Target, proxy: Proxy, end: float) -> None:
    name = f"[{target.host}]" if ":" in target.host else target.host
    place = f"{name}:{target.port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    plain = Transport(sock)
    try:
        plain.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        head, rest = read_head(
            plain, memoryview(bytearray(64 * 1024)), "CONNECT", end - time.monotonic()
        )
    except OSError as error:
        raise OriginUnreachable(
            f"the proxy {proxy.host}:{proxy.port} failed: {error.strerror}"
        ) from None
    if head.status == 407:
        raise OriginError(
            f"the proxy {proxy.host}:{proxy.port} refuses these credentials (407)",
            hint="check the user in HTTPS_PROXY",
        )
    if not 200 <= head.status < 300 or rest:
        raise OriginUnreachable(
            f"the proxy {proxy.host}:{proxy.port} answers {head.status} to a connection to {place}"
        )
