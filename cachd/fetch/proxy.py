"""Which proxy a URL goes through. Pure.

The rules are curl's and requests': ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``,
the lower-case name winning; NO_PROXY is a list of ``*``, host names that match themselves and what
is below them (a leading dot is ignored), addresses, networks in CIDR form, each with an optional
port. (curl(1) "ENVIRONMENT"; requests.utils.should_bypass_proxies.)
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cachd.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Proxy:
    """``authorization`` is a whole header value, empty for none; a secret."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """The environment's answer, parsed once."""

    http: Proxy | None = None
    https: Proxy | None = None
    exempt: tuple[str, ...] = ()

    @staticmethod
    def from_environment(environ: Mapping[str, str]) -> ProxyRules:
        """Raises ConfigInvalid, naming the variable and never its value."""

        def read(name: str) -> str:
            return (environ.get(name.lower()) or environ.get(name) or "").strip()

        everything = _parse_proxy(read("ALL_PROXY"), "ALL_PROXY")
        return ProxyRules(
            http=_parse_proxy(read("HTTP_PROXY"), "HTTP_PROXY") or everything,
            https=_parse_proxy(read("HTTPS_PROXY"), "HTTPS_PROXY") or everything,
            exempt=tuple(
                item.strip().lower() for item in read("NO_PROXY").split(",") if item.strip()
            ),
        )

    def proxy_for(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for one target, or None for a direct connection."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or any(_matches(rule, host.lower(), port) for rule in self.exempt):
            return None
        return proxy


def _parse_proxy(text: str, variable: str) -> Proxy | None:
    if not text:
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigInvalid(f"{variable} is no URL", field=variable) from None
    if parts.scheme != "http" or not host:
        raise ConfigInvalid(
            f"{variable} names no http proxy",
            field=variable,
            hint="write http://host:port; https and socks proxies are not supported",
        )
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode()
    return Proxy(host, port or 80, authorization)


def _matches(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None:
        try:
            return address in ipaddress.ip_network(rule.strip("[]"), strict=False)
        except ValueError:
            pass
    name, _, rule_port = rule.rpartition(":")
    if name and rule_port.isdigit() and ("]" in name or ":" not in name):
        if int(rule_port) != port:
            return False
        rule = name
    rule = rule.strip("[]").removeprefix("*").lstrip(".")
    return bool(rule) and (host == rule or host.endswith("." + rule))
