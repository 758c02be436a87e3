"""Endpoints that callers and settings name, in one form. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from cachd.errors import UriInvalid

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAMES = re.compile(r"^(?:[a-z0-9.-]+\+)+(?=https?://)")


def normalise_endpoint(
    endpoint: str,
    field: str = "options.endpoint",
    *,
    what: str,
    example: str,
    scheme: str = "https",
) -> str:
    """``scheme://host[:port][/path]``: lower case, default port dropped. Raises UriInvalid.

    ``scheme`` is assumed where none is given. ``what`` it is, and an ``example``, for messages.
    """
    text = endpoint.strip()
    looks = f"it looks like {example}"
    if "://" not in text:
        text = f"{scheme}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    scheme = parts.scheme.lower()
    host = parts.hostname or ""
    if scheme not in _DEFAULT_PORTS or not host or re.search(r"[\s\\%]", parts.netloc):
        raise UriInvalid(
            f"{what} is no http:// or https:// URL with a host",
            field=field,
            hint=looks,
        )
    if "@" in parts.netloc:
        raise UriInvalid(f"{what} can't carry user information", field=field, hint=looks)
    if parts.query or parts.fragment:
        raise UriInvalid(f"{what} can't carry a query or a fragment", field=field, hint=looks)
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    return f"{scheme}://{shown}{parts.path.rstrip('/')}"


def endpoint_of(origin: str) -> str:
    """The endpoint's URL that an origin names: ``s3+virtual+https://host#…`` is ``https://host``."""
    return _NAMES.sub("", origin.partition("#")[0])
