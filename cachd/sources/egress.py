"""Where cachd may call: hosts and addresses, judged before a connection is made.

A URI of a pod must not make the daemon speak to the node's metadata service (server-side request
forgery). So every host of a URI or a redirect is judged by name, and every address of a DNS answer
is judged again, at the moment of connecting: a name may resolve differently the second time.
Loopback and private addresses are allowed by default, for that is where stores in a cluster live.

Behind a proxy the proxy resolves names: then only the host of the URL can be judged, so that with a
list of what may be called a name must be on it itself.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
import urllib.request
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cachd.errors import EgressForbidden, UriInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cachd.settings import EgressSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # AWS, Azure, GCP, OpenStack, and all of link-local
        "fe80::/10",
        "fd00:ec2::/32",  # AWS: instance metadata, DNS and time over IPv6
        "fd20:ce::254/128",  # GCP over IPv6
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "168.63.129.16/32",  # Azure's wire server
    )
)
METADATA_HOSTS = frozenset(
    {
        "metadata.google.internal",
        "metadata.goog",
        "metadata",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
        "metadata.azure.internal",
    }
)
_NO_NAME = re.compile(r"[\s%/\\@?#\x00-\x1f\x7f:]")
_NUMERIC_LABEL = re.compile(r"^(0x[0-9a-f]*|[0-9]+)$")
_TRANSLATED = (
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 within a network (RFC 8215)
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # SIIT (RFC 2765)
)
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def normalise_host(host: str) -> str:
    """``host`` in lower case without brackets, zone, final dot and look-alike digits."""
    text = unicodedata.normalize("NFKC", host).strip().lower()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if ":" in text:
        text = text.split("%", 1)[0]
    return text.rstrip(".")


def literal_address(host: str) -> Address | None:
    """The address that ``host`` spells, None if it is a name.

    Decimal, octal, hexadecimal and shortened IPv4 (``0x7f.1``, ``2852039166``) are read as the C
    library's ``inet_aton`` reads them, for that is what would be called in the end.
    """
    text = normalise_host(host)
    try:
        return _unwrap(ipaddress.ip_address(text))
    except ValueError:
        pass
    if _NUMERIC_LABEL.match(text.rsplit(".", 1)[-1]):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except (OSError, ValueError):
            return None
    return None


def _unwrap(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, compatible, translated, 6to4, Teredo), else
    ``address``."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is not None:
        return inner
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _TRANSLATED) or (
        address in _COMPATIBLE and int(address) > 0xFFFF
    ):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class EgressGuard:
    """Judges hosts, addresses and URLs by the settings. Pure; raises EgressForbidden.

    A deny entry wins over an allow entry. With a list of allowed *names* only, an address that
    such a name resolves to is allowed; with networks in the list, an address must lie in one of
    them unless its host is allowed by name.
    """

    def __init__(self, settings: EgressSettings) -> None:
        self._allow_link_local = settings.allow_link_local
        self._allow_hosts, self._allow_networks = _parse(settings.allow)
        self._deny_hosts, self._deny_networks = _parse(settings.deny)

    def check_url(self, url: str) -> None:
        """The host of ``url``, by name or literal address. Raises UriInvalid without a host."""
        try:
            host = urlsplit(url).hostname
        except ValueError:
            host = None
        if not host:
            raise UriInvalid("the URL has no host")
        self.check_host(host)

    def check_host(self, host: str) -> None:
        """A name or a literal address, in any spelling."""
        name = normalise_host(host)
        address = literal_address(name)
        if address is not None:
            self.check_address(str(address), name)
            return
        if not name or _NO_NAME.search(name) or _NUMERIC_LABEL.match(name.rsplit(".", 1)[-1]):
            raise EgressForbidden(
                f"{host!r} is neither a host name nor an address",
                hint="write the address in its usual form",
            )
        if not self._allow_link_local and name in METADATA_HOSTS:
            raise self._refuse_link_local(name)
        if _matches(name, self._deny_hosts):
            raise _refuse_denied(name)
        if self._allows_something and not self._allow_networks:
            self._require_allowed_name(name)

    def check_proxied(self, host: str) -> None:
        """A host whose name somebody else resolves, so that its addresses are never seen."""
        self.check_host(host)
        if self._allows_something and literal_address(host) is None:
            self._require_allowed_name(normalise_host(host))

    def check_address(self, ip: str, host: str) -> None:
        """An address that ``host`` resolved to (or is)."""
        name = normalise_host(host)
        address = literal_address(ip)
        if address is None:
            raise EgressForbidden(f"{host} resolves to {ip!r}, which is no address")
        if not self._allow_link_local and _is_dangerous(address):
            raise self._refuse_link_local(_describe(name, address))
        if _matches(name, self._deny_hosts) or _within(address, self._deny_networks):
            raise _refuse_denied(_describe(name, address))
        if (
            self._allows_something
            and not _matches(name, self._allow_hosts)
            and not _within(address, self._allow_networks)
        ):
            raise _refuse_unlisted(_describe(name, address))

    @property
    def _allows_something(self) -> bool:
        return bool(self._allow_hosts or self._allow_networks)

    def _require_allowed_name(self, name: str) -> None:
        if not _matches(name, self._allow_hosts):
            raise _refuse_unlisted(name)

    @staticmethod
    def _refuse_link_local(what: str) -> EgressForbidden:
        return EgressForbidden(
            f"{what} is link-local, multicast, unspecified or a cloud metadata service",
            hint="an operator can allow it with sources.egress.allow_link_local",
        )


def _parse(entries: Iterable[str]) -> tuple[tuple[str, ...], tuple[Network, ...]]:
    hosts: list[str] = []
    networks: list[Network] = []
    for entry in entries:
        text = entry.strip().lower()
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            hosts.append(normalise_host(text))
    return tuple(hosts), tuple(networks)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == n.version and address in n for n in networks)


def _is_dangerous(address: Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == ipaddress.IPv4Address("255.255.255.255")
        or (address.version == 4 and int(address) >> 24 == 0)
        or _within(address, METADATA_NETWORKS)
    )


def _describe(name: str, address: Address) -> str:
    return str(address) if literal_address(name) == address else f"{name} ({address})"


def _refuse_denied(what: str) -> EgressForbidden:
    return EgressForbidden(
        f"{what} is on this node's list of addresses not to be called",
        hint="the list is sources.egress.deny",
    )


def _refuse_unlisted(what: str) -> EgressForbidden:
    return EgressForbidden(
        f"{what} is not on this node's list of addresses that may be called",
        hint="an operator can add it to sources.egress.allow",
    )


def host_of(url: str) -> str:
    """The URL's host as ``EgressGuard`` compares names, "" for none."""
    try:
        return normalise_host(urlsplit(url if "://" in url else f"//{url}").hostname or "")
    except ValueError:
        return ""


def proxy_hosts() -> frozenset[str]:
    """The hosts of the environment's proxies, which whoever runs the daemon chose."""
    return frozenset(map(host_of, urllib.request.getproxies_environment().values()))


def check_call(guard: EgressGuard, url: str, proxy: str | None) -> None:
    """Judges a call of ``url`` by ``proxy`` or (None) directly. Raises EgressForbidden, UriInvalid.

    The resolver lets names of proxies pass; a URI that names one is judged like what goes by one.
    """
    guard.check_url(url)
    host = host_of(url)
    if proxy is not None or host in proxy_hosts():
        guard.check_proxied(host)


def guarded_resolver(guard: EgressGuard) -> Any:
    """An aiohttp resolver that refuses DNS answers which ``guard`` refuses; those for the proxies
    of the environment pass.

    One bad address among good ones refuses the whole answer. aiohttp doesn't ask a resolver about
    literal addresses; give every URL to ``check_call`` first.
    """
    from aiohttp.abc import AbstractResolver, ResolveResult  # noqa: PLC0415  (heavy)
    from aiohttp.resolver import ThreadedResolver  # noqa: PLC0415

    class GuardedResolver(AbstractResolver):
        def __init__(self) -> None:
            self._inner = ThreadedResolver()
            self._proxies = proxy_hosts()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            if normalise_host(host) in self._proxies:
                return await self._inner.resolve(host, port, family)
            guard.check_host(host)
            answers = await self._inner.resolve(host, port, family)
            for answer in answers:
                guard.check_address(answer["host"], host)
            return answers

        async def close(self) -> None:
            await self._inner.close()

    return GuardedResolver()
