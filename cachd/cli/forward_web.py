"""What goes along for web servers: headers by host, and an authority's certificate. Pure, but for
the reading of CA bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachd.cli.forward_values import (
    Forwarded,
    Overrides,
    bundle,
    config_map_bundle,
    json_object,
    parts_of,
)
from cachd.errors import InvalidError
from cachd.schemes import REGISTRIES, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HEADERS_SUFFIX = "-headers"


def gather_web(
    environ: Mapping[str, str],
    uri: str,
    overrides: Overrides,
    read: Callable[[str], str],
    *,
    host: str | None = None,
) -> Forwarded:
    """Headers for the URI's host, or the ``host`` that it leads to (for any, where a registry will
    say which), and the cluster's CA bundle, of which only a warning is made where it can't be read.
    """
    warnings: list[str] = []
    options = {}
    if scheme_of(uri) != "http" and not overrides.ca_bundle:
        path = config_map_bundle(environ)
        pem = bundle(path, read, warnings, strict=False) if path else None
        if pem:
            options["ca_pem"] = pem
    is_open = scheme_of(uri) in REGISTRIES
    if host is None:
        host = (parts_of(uri).hostname or "").lower()
    headers = {}
    for name in environ:
        owner = name.removesuffix(_HEADERS_SUFFIX).lower()
        if name == owner or not name.endswith(_HEADERS_SUFFIX):
            continue
        if owner == host or (is_open and "." in owner):
            headers[owner] = _headers(environ[name], name)
        elif is_open:
            # A short name is another host's at the daemon, or no host's but a variable's.
            warnings.append(
                f"{name} isn't sent: for what a registry names, a host is said with its domain"
            )
    credentials = {"headers": headers} if headers else {}
    return Forwarded(credentials=credentials, options=options, warnings=tuple(warnings))


def _headers(text: str, name: str) -> dict[str, str]:
    values = json_object(text, name)
    if not all(isinstance(value, str) for value in values.values()):
        raise InvalidError(
            f"{name} must map header names to strings",
            field=name,
            hint='such as {"Authorization": "Bearer …"}; see docs/sources.md',
        )
    return values
