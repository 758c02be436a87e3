"""Where a hub's URI leads: which of its endpoints is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cachd.errors import UriInvalid
from cachd.sources.base import Location
from cachd.sources.http_rules import canonical_url
from cachd.sources.hub_uri import HUBS, parse_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachd.credentials import SourceOptions
    from cachd.settings.hub import HubSettings
    from cachd.settings.modelscope import ModelScopeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNames:
    """What one hub calls things: its own endpoint, and the environment's variables, first one
    first, that say another endpoint, and whose token."""

    scheme: str
    endpoint: str
    endpoint_variables: tuple[str, ...]
    token_variables: tuple[str, ...]

    @property
    def hub(self) -> str:
        return HUBS[self.scheme]


def locate_hub(
    uri: str,
    options: SourceOptions,
    settings: HubSettings | ModelScopeSettings,
    environ: Mapping[str, str],
    names: HubNames,
) -> Location:
    """The endpoint is the request's, else the daemon's. Raises UriInvalid."""
    address = parse_hub(uri)
    default = _default(settings, environ, names)
    endpoint = normalise(options.endpoint, "options.endpoint") if options.endpoint else default
    return Location(
        scheme=names.scheme,
        uri=address.uri,
        origin=f"{names.scheme}+{endpoint}",
        is_default_origin=endpoint == default,
        options=replace(options, endpoint=endpoint, region=None, addressing=None, accelerate=None),
    )


def _default(
    settings: HubSettings | ModelScopeSettings, environ: Mapping[str, str], names: HubNames
) -> str:
    if settings.endpoint:
        return normalise(settings.endpoint, f"sources.{names.scheme}.endpoint")
    for variable in names.endpoint_variables:
        if environ.get(variable):
            return normalise(environ[variable], variable)
    return names.endpoint


def normalise(endpoint: str, field: str) -> str:
    """``scheme://host[:port][/path]``; https is assumed where no scheme is given. Raises
    UriInvalid."""
    text = endpoint.strip()
    text = text if "://" in text else f"https://{text}"
    try:
        url = canonical_url(text)
    except UriInvalid as error:
        raise UriInvalid(
            f"the hub's endpoint can't be used: {error.message}",
            field=field,
            hint="it looks like https://hub.example or http://hub.example:8080/path",
        ) from None
    if urlsplit(url).query:
        raise UriInvalid("the hub's endpoint can't carry a query", field=field)
    return url.rstrip("/")
